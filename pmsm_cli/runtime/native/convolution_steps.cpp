// Convolutions of running counts, with the neurons behind them: all steps of a place, of which there may be one, while its sums are
// at hand.
//
//   ConvolutionSteps(codes, weights, padding, factor, bias, low, high, [map], [others],
//                    [reciprocal, rest, quanta, finest, zero], [before], [reached],
//                    [later_codes, later_factor, ... later_zero])
//       -> [values], [emitted], [counts], [later_values], [later_emitted]
//
// `codes` is [steps x images, height, width, channels], step by step along its first axis, and where a window is one place,
// moved by one, with any axes in the place of height and width; `weights` int8 as ONNX lays them out, [outputs, channels or 1,
// height, width]. `values`, [steps x images, height, width, outputs], are
//
//   within low and high: sum x factor + bias (+ map) (+ others),     sum: that of (codes - padding) x weights
//
// `padding` is the code that stands for nothing, also beyond the edges; `map`, [1, height, width, outputs], is constant;
// `others` has the shape of the values, or that of one step's, which then is the same at every step. `emitted` are codes of
// running counts, as StepCodes (neuron_steps.cpp) makes them of values: count / finest + zero, where a step adds
//
//   quantum x round(((value x reciprocal - rest) - count) / quantum)     within the levels
//
// to a count that begins with what the codes `before`, of one step, stand for; without them there is a single step, and it
// begins with 0. `quanta` have a number for each step. What is constant has one element for all outputs or one for each.
// Attributes are those of a window, `group`, the neurons' levels, and whether there is a map (`maps`), and neurons (`fires`),
// which have as many steps as quanta. Where `sliced` is set, `weights` has three rows of slices, [3 x outputs, ...], for weights
// that are (first x 256 + second) x 256 + third, as exact as float32; and so are their sums, in float32. Where `counted` is set
// there is one step, and `counts` says what is emitted (emitted_counts.h); `reached`, [height x width] of the values, is its map.
//
// Where `later` is set, the first step and the later ones are computed together, as two nodes would on the same weights, which
// are read once: what comes `later` has codes, numbers, levels and results of its own, and its neurons begin with what the
// first step's have emitted.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "convolution.h"
#include "convolution_kernels.h"
#include "convolution_parts.h"
#include "convolution_rows.h"
#include "convolution_tiles.h"
#include "emitted_counts.h"
#include "operators.h"
#include "packed_weights.h"
#include "step_ending.h"
#include "tensors.h"

namespace pmsm {
namespace {

constexpr size_t kMostPlacesOfTaps = 192;   // of kernels of each channel, for all steps and slices: in the nearest cache, too

// Places of each step whose sums stay in the nearest cache, or hardly leave it.
size_t PlacesAtOnce(const Runs& runs, size_t steps) {
  if (runs.OnTiles()) return kPlacesTogether;
  return steps > 1 ? 12 : 24;  // what kernels take at a time divides them
}

struct StepsInputs {
  enum : size_t { kCodes, kWeights, kPadding, kFactor, kBias, kLow, kHigh, kMap, kOthers, kReciprocal, kRest, kQuanta,
                  kFinest, kZero, kBefore, kReached, kLaterCodes, kLaterFactor, kLaterOthers = kLaterFactor + kOthers - kFactor };
};

struct StepsOutputs {
  enum : size_t { kValues, kEmitted, kCounts, kLaterValues, kLaterEmitted };
};

// Where a pass through the layer finds its own: that of all steps, or of the first one, and that of later ones.
struct PassAt {
  bool later;

  size_t Codes() const { return later ? StepsInputs::kLaterCodes : StepsInputs::kCodes; }
  size_t Input(size_t index) const { return later ? index + StepsInputs::kLaterFactor - StepsInputs::kFactor : index; }
  size_t Output(size_t index) const { return later ? index + StepsOutputs::kLaterValues - StepsOutputs::kValues : index; }
  std::string Attribute(const char* name) const { return std::string(later ? "later_" : "") + name; }
};

StepEnding EndingAt(const Ort& ort, const OrtKernelInfo* info, const PackedWeights& layer, const PassAt& at) {
  using In = StepsInputs;
  const std::vector<size_t> in_order = layer.Slots(false);
  const auto floats = [&](size_t index) { return Spread<float, float>(ort, info, at.Input(index), layer.outputs, in_order); };
  const auto number = [&](size_t index) { return ConstantAt<float>(ort, info, at.Input(index)).at(0); };
  const auto attribute = [&](const char* name) { return IntegerAttribute(ort, info, at.Attribute(name).c_str()); };
  StepEnding ending;
  ending.factor = floats(In::kFactor);
  ending.bias = floats(In::kBias);
  ending.low = number(In::kLow);
  ending.high = number(In::kHigh);
  ending.lowest = -static_cast<float>(attribute("negative_levels"));
  ending.highest = static_cast<float>(attribute("positive_levels"));
  ending.zero = 0;
  if (attribute("maps")) ending.map = ConstantAt<float>(ort, info, at.Input(In::kMap));
  ending.fires = IntegerAttribute(ort, info, "fires") != 0;
  if (!ending.fires) return ending;
  const float finer = 1.0f / number(In::kFinest);
  const auto in_units = [finer](auto numbers) {
    for (float& each : numbers) each *= finer;
    return numbers;
  };
  ending.reciprocal = in_units(floats(In::kReciprocal));
  ending.rest = in_units(floats(In::kRest));
  ending.quanta = in_units(ConstantAt<float>(ort, info, at.Input(In::kQuanta)));
  if (ending.quanta.empty()) throw Failure("there is no quantum");
  for (const float quantum : ending.quanta) ending.finer.push_back(1.0f / quantum);
  ending.zero = ConstantAt<uint8_t>(ort, info, at.Input(In::kZero)).at(0);
  return ending;
}

struct StepsLayer : PackedWeights {
  // Slices whose sums are made one after the other; those of kernels for all channels are made together.
  size_t SlicesApart() const { return depthwise ? slices : 1; }

  std::vector<int32_t> nothing;  // [slices apart, slots], what the padding code sums up to, taken off
  uint8_t padding;
  std::vector<StepEnding> endings;  // of each pass
  bool counted;

  StepsLayer(const Ort& ort, const OrtKernelInfo* info)
      : PackedWeights(ort, info, IntegerAttribute(ort, info, "sliced") ? kSlices : 1),
        padding(ConstantAt<uint8_t>(ort, info, StepsInputs::kPadding).at(0)),
        counted(IntegerAttribute(ort, info, "counted") != 0) {
    endings.push_back(EndingAt(ort, info, *this, {false}));
    if (IntegerAttribute(ort, info, "later", 0)) endings.push_back(EndingAt(ort, info, *this, {true}));
    const bool fires = endings.front().fires, together = endings.size() > 1;
    const size_t steps = endings.front().quanta.size();
    if (counted && (together || steps != 1)) throw Failure("what is counted is emitted at one step");
    if (together && fires && steps != 1) throw Failure("a first step has more than one quantum");
    TakePaddingOff();
  }

 private:
  void TakePaddingOff() {
    const std::vector<size_t> summed = Slots(true);
    const size_t slots = summed.size();
    nothing.resize(SlicesApart() * slots, 0);
    for (size_t i = 0; i < nothing.size(); ++i) {
      const size_t slot = i % slots;
      size_t row = depthwise ? summed[slot] : RowOf(blocks[slot / kBlock], slot % kBlock);
      if (depthwise && row != kNone) row += i / slots * outputs;
      if (row != kNone) nothing[i] = static_cast<int32_t>(-padding * totals[row]);
    }
  }
};

// One call's pass through the layer.
struct Pass {
  const StepEnding* ending;
  Map map;
  StepTensors tensors;
};

struct Task {
  Call call;
  const StepsLayer& layer;
  Runs runs;
  std::vector<Pass> passes;
  std::vector<StepWindows> windows;  // of each pass
  size_t places, steps;              // places of a step; steps of all passes
  EmittedCounts* counts;             // null: nobody asks
};

// What finishing needs of some steps, of all passes, is on its way.
void FetchSteps(const Task& task, size_t from, size_t to, const Block& block, size_t place, size_t count) {
  size_t first = 0;
  for (const Pass& pass : task.passes) {
    for (size_t step = std::max(from, first); step < std::min(to, first + pass.tensors.steps); ++step) {
      FetchForFinish(pass.tensors, step - first, block, place, count);
    }
    first += pass.tensors.steps;
  }
}

// Pass by pass: later ones begin with what those before have emitted.
void FinishPasses(const Task& task, StepSums sums) {
  for (const Pass& pass : task.passes) {
    Finish(*pass.ending, pass.tensors, sums);
    sums.sums += pass.tensors.steps * sums.between;
  }
}

void WorkByRuns(const Task& task, const Part& part) {
  const TilesInUse tiles(task.runs.OnTiles());
  static thread_local Rows rows;
  static thread_local std::vector<int32_t> sums;
  const StepsLayer& layer = task.layer;
  const size_t steps = task.steps, at_once = PlacesAtOnce(task.runs, steps), most = MostPlaces(task.runs, steps);
  const size_t slices_apart = layer.slices > 1 ? kLanes : 0;
  const StepOrder order{task.windows.data(), task.windows.size(), task.places, at_once};
  sums.resize(steps * at_once * kBlock);
  for (size_t begin = part.begin; begin < part.end; begin += most) {
    const size_t end = std::min(part.end, begin + most);
    rows.Find(order, begin, end, task.call);
    for (size_t i = part.first; i < part.last; ++i) {
      const Block& block = layer.blocks[i];
      for (size_t place = begin; place < end; place += at_once) {
        const size_t count = std::min(at_once, end - place), of_steps = steps * count;
        for (size_t at = 0; at < of_steps; at += at_once) {
          const size_t here = std::min(at_once, of_steps - at), row = steps * (place - begin) + at;
          FetchSteps(task, Quotient(at, count), Quotient(at + here, count), block, place, count);
          DenseSums({rows.Pointers() + row, rows.Stride(), task.runs.count, task.runs.Padded() / kWord, rows.PanelsAt(row),
                     layer.weights.data() + layer.weights_at[i], layer.NarrowOf(i, rows.Most()), block, 0, here},
                    layer.nothing.data() + block.slot, sums.data() + at * kBlock);
        }
        FinishPasses(task, {sums.data(), count * kBlock, slices_apart, block, place, count});
      }
    }
  }
}

void WorkByTaps(const Task& task, const Part& part) {
  static thread_local std::vector<Taps> taps;
  static thread_local std::vector<int32_t> sums;
  const StepsLayer& layer = task.layer;
  const size_t steps = task.steps, count = part.end - part.begin, of_slice = steps * count * kBlock;
  taps.resize(std::max(taps.size(), steps));
  sums.resize(layer.slices * of_slice);
  auto found = taps.begin();
  const StepOrder order{task.windows.data(), task.windows.size(), task.places, count};
  order.InTurn(part.begin, part.end,
               [&](const Windows& windows, size_t begin, size_t end) { (found++)->Find(windows, begin, end); });
  const uint8_t most = order.MostRead(part.begin, part.end);
  for (size_t i = part.first; i < part.last; ++i) {
    const Block& block = layer.blocks[i];
    for (size_t slice = 0; slice < layer.slices; ++slice) {
      const int8_t* weights = layer.weights.data() + layer.weights_at[i] + slice * layer.SliceOfTaps();
      const int32_t* nothing = layer.nothing.data() + slice * layer.blocks.size() * kBlock + block.slot;
      for (size_t step = 0; step < steps; ++step) {
        const uint8_t* const* pointers = taps[step].Pointers();
        int32_t* to = sums.data() + slice * of_slice + step * count * kBlock;
        for (const Stretch& stretch : taps[step].stretches()) {
          DepthwiseSums({pointers, task.runs.count, task.windows.front().windows.Step(), weights,
                         layer.NarrowOf(i, most), block, 0, stretch.count},
                        nothing, to);
          pointers += task.runs.count;
          to += stretch.count * kBlock;
        }
      }
    }
    // Whole blocks may overlap; values may lie where others did, which are read once.
    const size_t done = i == 0 ? 0 : layer.blocks[i - 1].channel + layer.blocks[i - 1].channels - block.channel;
    const Block fresh{block.slot + done, block.channel + done, block.channels - done};
    FinishPasses(task, {sums.data() + done, count * kBlock, layer.slices > 1 ? of_slice : 0, fresh, part.begin, count});
  }
}

void Work(const Task& task, const Part& part) {
  if (task.layer.depthwise) WorkByTaps(task, part);
  else WorkByRuns(task, part);
  if (!task.counts) return;
  const auto behind = [&](size_t block) { return task.layer.blocks[block].channel + task.layer.blocks[block].channels; };
  const size_t first = part.first == 0 ? 0 : behind(part.first - 1);  // whole blocks may overlap
  task.counts->AddPlaces(part.begin, part.end, first, behind(part.last - 1));
}

// A pass of this call; of as many steps as its neurons have or what is there once says, else of one.
Pass PassOf(const Ort& ort, const StepsLayer& layer, OrtKernelContext* context, const PassAt& at, const Pass* first) {
  using In = StepsInputs;
  using Out = StepsOutputs;
  const StepEnding& ending = layer.endings[at.later];
  const auto given = InputAt<uint8_t>(ort, context, at.Codes());
  const auto others = OptionalInputAt<float>(ort, context, at.Input(In::kOthers));
  const auto before = first ? Input<uint8_t>{nullptr, {}, false} : OptionalInputAt<uint8_t>(ort, context, In::kBefore);
  const auto size = [&](size_t axis) { return static_cast<size_t>(given.shape[axis]); };
  const size_t last = given.shape.empty() ? 0 : given.shape.size() - 1;
  if ((layer.window.IsOnePlace() ? last == 0 : last != 3) || size(last) != layer.inputs) {
    throw Failure("codes of shape " + Text(given.shape) + " do not have " + std::to_string(layer.inputs) + " channels last");
  }
  const Map map{given.data, size(0), last == 3 ? size(1) : 1, Product(given.shape, last == 3 ? 2 : 1, last), layer.inputs,
                layer.padding};
  const size_t images = first ? first->map.images : others.shape.empty() ? 0 : static_cast<size_t>(others.shape[0]);
  const size_t steps = ending.fires ? ending.quanta.size() : images && map.images >= images ? map.images / images : 1;
  const bool fits = !first || (map.images == steps * images && map.height == first->map.height && map.width == first->map.width);
  if (!fits || map.images % steps) {
    throw Failure("codes of shape " + Text(given.shape) + " are not " + std::to_string(steps) + " steps of the same images");
  }
  Shape all = layer.window.OutputShape(map.images, map.height, map.width, layer.outputs);
  const size_t places_of_image = Product(all, 1, 3), places = places_of_image * (map.images / steps);
  if (last != 3) {  // as it came
    all = given.shape;
    all[last] = static_cast<int64_t>(layer.outputs);
  }
  Shape once = all;
  once[0] /= static_cast<int64_t>(steps);
  if (!ending.map.empty() && ending.map.size() != places_of_image * layer.outputs) {
    throw Failure("a map of " + std::to_string(ending.map.size()) + " numbers does not fit values of shape " + Text(all));
  }
  if (others.there && others.shape != all && others.shape != once) {
    throw Failure("what is added has shape " + Text(others.shape) + ", not " + Text(all));
  }
  if (ending.fires && !first && (before.there ? before.shape != once : steps > 1)) {
    throw Failure("what was emitted before has shape " + Text(before.shape) + ", not " + Text(once));
  }
  float* values = OptionalOutputAt(ort, context, at.Output(Out::kValues), all);
  uint8_t* emitted = OptionalOutputAt<uint8_t>(ort, context, at.Output(Out::kEmitted), all);
  if (ending.fires && places && !emitted) throw Failure("the codes of what fires are asked for by nobody");
  const uint8_t* begins = first ? first->tensors.emitted : before.data;
  return {&ending, map,
          {steps, places, places_of_image, layer.outputs, others.data, others.shape != all, ending.fires ? begins : nullptr,
           values, emitted}};
}

std::unique_ptr<EmittedCounts> CountsOf(const Ort& ort, OrtKernelContext* context, const Pass& pass) {
  const auto reached = OptionalInputAt<int32_t>(ort, context, StepsInputs::kReached);
  const StepTensors& tensors = pass.tensors;
  if (reached.there && reached.Count() != tensors.places_of_image) {
    throw Failure("a map of shape " + Text(reached.shape) + " does not fit");
  }
  const Limits limits(pass.ending->zero, pass.ending->lowest, pass.ending->highest);
  return std::make_unique<EmittedCounts>(LaidOutCodes(tensors.emitted, pass.map.images, tensors.places_of_image, tensors.channels,
                                                      reached.there ? reached.data : nullptr, limits));
}

void Compute(const Ort& ort, const StepsLayer& layer, OrtKernelContext* context) {
  Task task{Call(), layer, layer.RunsOfWindow(), {}, {}, 0, 0, nullptr};
  task.passes.push_back(PassOf(ort, layer, context, {false}, nullptr));
  if (layer.endings.size() > 1) task.passes.push_back(PassOf(ort, layer, context, {true}, &task.passes.front()));
  task.places = task.passes.front().tensors.places;
  size_t codes = 0;
  for (const Pass& pass : task.passes) {
    task.windows.push_back({Windows(pass.map, layer.window, task.runs), pass.tensors.steps});
    task.steps += pass.tensors.steps;
    codes += pass.map.Count();
  }
  const std::unique_ptr<EmittedCounts> counts = layer.counted ? CountsOf(ort, context, task.passes.front()) : nullptr;
  task.counts = counts.get();
  if (task.places) {
    const size_t most = layer.depthwise ? std::max<size_t>(1, kMostPlacesOfTaps / (task.steps * layer.slices)) : task.places;
    RunParts<Task, &Work>(ort, context, task, Parts(layer, codes, task.runs, task.places, task.steps, most));
  }
  if (counts) counts->PutInto(ort, context, StepsOutputs::kCounts);
}

Operator MakeConvolution(const OrtApi* api) {
  Operator op = MakeOperator<StepsLayer, &Compute>(
      api, "ConvolutionSteps",
      {kUint8, kInt8, kUint8, kFloat, kFloat, kFloat, kFloat,  // the layer
       kFloat, kFloat,                                         // what is added
       kFloat, kFloat, kFloat, kFloat, kUint8, kUint8,         // neurons
       kInt32,                                                 // counts
       kUint8, kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kUint8},  // what comes later
      {kFloat, kUint8, kFloat, kFloat, kUint8});
  op.InferOutputShapeFn = nullptr;  // the output has another shape than the first input
  op.required_inputs = StepsInputs::kMap;
  op.required_outputs = 0;
  // Each of them is read before a value takes its place.
  MayTakeMemory<StepsInputs::kOthers, StepsInputs::kLaterOthers, StepsOutputs::kLaterValues>(op);
  return op;
}

}  // namespace

void AddConvolutionSteps(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator convolution = MakeConvolution(api);
  Check(ort.CustomOpDomain_Add(domain, &convolution));
}

}  // namespace pmsm

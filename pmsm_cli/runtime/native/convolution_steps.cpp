// Convolutions of running counts, with the neurons behind them: all steps of a place, of which there may be one, while its sums are
// at hand.
//
//   ConvolutionSteps(codes, weights, padding, factor, bias, low, high, [map], [others],
//                    [reciprocal, rest, quanta, finest, zero], [before], [reached]) -> [values], [emitted], [counts]
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
// Attributes are those of a window, `group`, the neurons' levels, and whether there is a map (`maps`), and neurons (`fires`);
// `steps` says how many there are. Where `sliced` is set, `weights` has three rows of slices, [3 x outputs, ...], for weights
// that are (first x 256 + second) x 256 + third, as exact as float32; and so are their sums, in float32. Where `counted` is set
// there is one step, and `counts` says what is emitted (emitted_counts.h); `reached`, [height x width] of the values, is its map.

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
                  kFinest, kZero, kBefore, kReached };
};

struct StepsLayer : PackedWeights {
  // Slices whose sums are made one after the other; those of kernels for all channels are made together.
  size_t SlicesApart() const { return depthwise ? slices : 1; }

  std::vector<int32_t> nothing;  // [slices apart, slots], what the padding code sums up to, taken off
  uint8_t padding;
  StepEnding ending;
  bool counted;

  StepsLayer(const Ort& ort, const OrtKernelInfo* info)
      : PackedWeights(ort, info, IntegerAttribute(ort, info, "sliced") ? kSlices : 1) {
    using In = StepsInputs;
    const std::vector<size_t> in_order = Slots(false), summed = Slots(true);
    const auto floats = [&](size_t index) { return Spread<float, float>(ort, info, index, outputs, in_order); };
    const auto number = [&](size_t index) { return ConstantAt<float>(ort, info, index).at(0); };
    const Levels levels(ort, info);
    padding = ConstantAt<uint8_t>(ort, info, In::kPadding).at(0);
    counted = IntegerAttribute(ort, info, "counted") != 0;
    ending.factor = floats(In::kFactor);
    ending.bias = floats(In::kBias);
    ending.low = number(In::kLow);
    ending.high = number(In::kHigh);
    ending.lowest = levels.lowest;
    ending.highest = levels.highest;
    ending.zero = 0;
    if (IntegerAttribute(ort, info, "maps")) ending.map = ConstantAt<float>(ort, info, In::kMap);
    ending.fires = IntegerAttribute(ort, info, "fires") != 0;
    ending.quanta.assign(static_cast<size_t>(std::max<int64_t>(1, IntegerAttribute(ort, info, "steps"))), 1.0f);
    if (ending.fires) {
      const std::vector<float> quanta = ConstantAt<float>(ort, info, In::kQuanta);
      if (quanta.size() != ending.Steps()) throw Failure("quanta do not have a number for each step");
      const float finer = 1.0f / number(In::kFinest);
      const auto in_units = [finer](auto numbers) {
        for (float& each : numbers) each *= finer;
        return numbers;
      };
      ending.reciprocal = in_units(floats(In::kReciprocal));
      ending.rest = in_units(floats(In::kRest));
      ending.quanta = in_units(quanta);
      for (const float quantum : ending.quanta) ending.finer.push_back(1.0f / quantum);
      ending.zero = ConstantAt<uint8_t>(ort, info, In::kZero).at(0);
    }
    if (counted && (!ending.fires || ending.Steps() > 1)) throw Failure("what is counted is emitted at one step");
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

struct Task {
  Call call;
  const StepsLayer& layer;
  Map map;
  Runs runs;
  StepTensors tensors;
  EmittedCounts* counts;  // null: nobody asks
};

void WorkByRuns(const Task& task, const Part& part) {
  const TilesInUse tiles(task.runs.OnTiles());
  static thread_local Rows rows;
  static thread_local std::vector<int32_t> sums;
  const StepsLayer& layer = task.layer;
  const Windows windows(task.map, layer.window, task.runs);
  const size_t steps = layer.ending.Steps(), at_once = PlacesAtOnce(task.runs, steps), most = MostPlaces(task.runs, steps);
  const size_t slices_apart = layer.slices > 1 ? kLanes : 0;
  const StepOrder order{steps, task.tensors.places, at_once};
  sums.resize(steps * at_once * kBlock);
  for (size_t begin = part.begin; begin < part.end; begin += most) {
    const size_t end = std::min(part.end, begin + most);
    rows.Find(windows, begin, end, order, task.call);
    for (size_t i = part.first; i < part.last; ++i) {
      const Block& block = layer.blocks[i];
      for (size_t place = begin; place < end; place += at_once) {
        const size_t count = std::min(at_once, end - place), of_steps = steps * count;
        for (size_t at = 0, step = 0; at < of_steps; at += at_once) {
          const size_t here = std::min(at_once, of_steps - at), row = steps * (place - begin) + at;
          for (; step * count < at + here; ++step) FetchForFinish(task.tensors, step, block, place, count);
          DenseSums({rows.Pointers() + row, rows.Stride(), task.runs.count, task.runs.Padded() / kWord, rows.PanelsAt(row),
                     layer.weights.data() + layer.weights_at[i], block, 0, here},
                    layer.nothing.data() + block.slot, sums.data() + at * kBlock);
        }
        Finish(layer.ending, task.tensors, {sums.data(), count * kBlock, slices_apart, block, place, count});
      }
    }
  }
}

void WorkByTaps(const Task& task, const Part& part) {
  static thread_local std::vector<Taps> taps;
  static thread_local std::vector<int32_t> sums;
  const StepsLayer& layer = task.layer;
  const Windows windows(task.map, layer.window, task.runs);
  const size_t steps = layer.ending.Steps(), count = part.end - part.begin, of_slice = steps * count * kBlock;
  taps.resize(std::max(taps.size(), steps));
  sums.resize(layer.slices * of_slice);
  for (size_t step = 0; step < steps; ++step) {
    taps[step].Find(windows, step * task.tensors.places + part.begin, step * task.tensors.places + part.end);
  }
  for (size_t i = part.first; i < part.last; ++i) {
    const Block& block = layer.blocks[i];
    for (size_t slice = 0; slice < layer.slices; ++slice) {
      const int8_t* weights = layer.weights.data() + layer.weights_at[i] + slice * layer.SliceOfTaps();
      const int32_t* nothing = layer.nothing.data() + slice * layer.blocks.size() * kBlock + block.slot;
      for (size_t step = 0; step < steps; ++step) {
        const uint8_t* const* pointers = taps[step].Pointers();
        int32_t* to = sums.data() + slice * of_slice + step * count * kBlock;
        for (const Stretch& stretch : taps[step].stretches()) {
          DepthwiseSums({pointers, task.runs.count, windows.Step(), weights, block, 0, stretch.count}, nothing, to);
          pointers += task.runs.count;
          to += stretch.count * kBlock;
        }
      }
    }
    // Whole blocks may overlap; values may lie where others did, which are read once.
    const size_t done = i == 0 ? 0 : layer.blocks[i - 1].channel + layer.blocks[i - 1].channels - block.channel;
    const Block fresh{block.slot + done, block.channel + done, block.channels - done};
    Finish(layer.ending, task.tensors,
           {sums.data() + done, count * kBlock, layer.slices > 1 ? of_slice : 0, fresh, part.begin, count});
  }
}

void Work(const Task& task, const Part& part) {
  if (task.layer.depthwise) WorkByTaps(task, part);
  else WorkByRuns(task, part);
  if (!task.counts) return;
  const auto behind = [&](size_t block) { return task.layer.blocks[block].channel + task.layer.blocks[block].channels; };
  const size_t first = part.first == 0 ? 0 : behind(part.first - 1);  // whole blocks may overlap
  task.counts->Add(task.tensors.emitted, part.begin, part.end, first, behind(part.last - 1));
}

void Compute(const Ort& ort, const StepsLayer& layer, OrtKernelContext* context) {
  using In = StepsInputs;
  const auto given = InputAt<uint8_t>(ort, context, In::kCodes);
  const auto size = [&](size_t axis) { return static_cast<size_t>(given.shape[axis]); };
  const size_t steps = layer.ending.Steps();
  const size_t last = given.shape.empty() ? 0 : given.shape.size() - 1;
  const bool fits = layer.window.IsOnePlace() ? last > 0 : last == 3;
  if (!fits || size(last) != layer.inputs || size(0) % steps) {
    throw Failure("codes of shape " + Text(given.shape) + " do not have " + std::to_string(steps) + " steps of " +
                  std::to_string(layer.inputs) + " channels last");
  }
  const size_t width = Product(given.shape, last == 3 ? 2 : 1, last);
  const Map map{given.data, size(0), last == 3 ? size(1) : 1, width, layer.inputs, layer.padding};
  Shape all = layer.window.OutputShape(map.images, map.height, map.width, layer.outputs);
  const size_t places_of_image = Product(all, 1, 3), places = places_of_image * (map.images / steps);
  if (last != 3) {  // as it came
    all = given.shape;
    all[last] = static_cast<int64_t>(layer.outputs);
  }
  Shape once = all;
  once[0] /= static_cast<int64_t>(steps);
  if (!layer.ending.map.empty() && layer.ending.map.size() != places_of_image * layer.outputs) {
    throw Failure("a map of " + std::to_string(layer.ending.map.size()) + " numbers does not fit values of shape " + Text(all));
  }
  const auto others = OptionalInputAt<float>(ort, context, In::kOthers);
  const auto before = OptionalInputAt<uint8_t>(ort, context, In::kBefore);
  if (others.there && others.shape != all && others.shape != once) {
    throw Failure("what is added has shape " + Text(others.shape) + ", not " + Text(all));
  }
  if (layer.ending.fires && (before.there ? before.shape != once : steps > 1)) {
    throw Failure("what was emitted before has shape " + Text(before.shape) + ", not " + Text(once));
  }
  float* values = OptionalOutputAt(ort, context, 0, all);
  uint8_t* emitted = OptionalOutputAt<uint8_t>(ort, context, 1, all);
  std::unique_ptr<EmittedCounts> counts;
  if (layer.counted) {
    const auto reached = OptionalInputAt<int32_t>(ort, context, In::kReached);
    if (reached.there && reached.Count() != places_of_image) throw Failure("a map of shape " + Text(reached.shape) + " does not fit");
    const Limits limits(layer.ending.zero, layer.ending.lowest, layer.ending.highest);
    counts.reset(new EmittedCounts(map.images, places_of_image, layer.outputs, reached.there ? reached.data : nullptr, limits, true));
  }
  if (layer.ending.fires && places && !emitted) throw Failure("the codes of what fires are asked for by nobody");
  const Task task{Call(), layer, map, layer.RunsOfWindow(),
                  {places, places_of_image, layer.outputs, others.data, others.shape != all,
                   layer.ending.fires ? before.data : nullptr, values, emitted},
                  counts.get()};
  if (places) {
    const size_t most = layer.depthwise ? std::max<size_t>(1, kMostPlacesOfTaps / (steps * layer.slices)) : places;
    RunParts<Task, &Work>(ort, context, task, Parts(layer, map, task.runs, places, steps, most));
  }
  if (counts) counts->PutInto(ort, context, 2);
}

Operator MakeConvolution(const OrtApi* api) {
  Operator op = MakeOperator<StepsLayer, &Compute>(
      api, "ConvolutionSteps",
      {kUint8, kInt8, kUint8, kFloat, kFloat, kFloat, kFloat,  // the layer
       kFloat, kFloat,                                         // what is added
       kFloat, kFloat, kFloat, kFloat, kUint8, kUint8,         // neurons
       kInt32},                                                // counts
      {kFloat, kUint8, kFloat});
  op.InferOutputShapeFn = nullptr;  // the output has another shape than the first input
  op.required_inputs = StepsInputs::kMap;
  op.required_outputs = 0;
  MayTakeMemory<StepsInputs::kOthers>(op);  // each of them is read before a value takes its place
  return op;
}

}  // namespace

void AddConvolutionSteps(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator convolution = MakeConvolution(api);
  Check(ort.CustomOpDomain_Add(domain, &convolution));
}

}  // namespace pmsm

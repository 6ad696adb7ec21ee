// Convolutions of codes that leave codes, with everything in between done while the sums are at hand.
//
//   ConvolutionCodes(codes, weights, padding, bias, factor, zero, lowest, highest,
//                    [others, own, other, term, zero, lowest, highest,] [firing, resting, zero, lowest, highest])
//       -> codes, [neurons]
//
// `codes` is [images, height, width, channels], `weights` int8 as ONNX lays them out, [outputs, channels or 1, height,
// width]. Outputs are round((sum + bias) x factor) + zero within bounds, where the sum is that of (codes - padding) x weights:
// `padding` is the code that stands for nothing, also beyond the edges. Where the attribute `adds` is set, the tensor `others`
// is added to that: round(outputs x own + others x other + term) + zero within bounds; 1: outputs are the first operand of
// the addition, 2: the second one. Where `fires` is set, `neurons` are
// what AffineCodes would make of the outputs: round(outputs x firing + resting) + zero within bounds. Everything but the two
// tensors is constant, with one element for all outputs or one for each.
//
// Attributes are those of Conv, a number each; `group` is 1, or the number of channels, which is that of outputs, too.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "convolution.h"
#include "convolution_kernels.h"
#include "convolution_layer.h"
#include "convolution_rows.h"
#include "operators.h"
#include "tensors.h"

namespace pmsm {
namespace {

// Multiply-accumulates below which waking another thread costs more than it saves, and parts that share the work well.
constexpr size_t kWorkPerPart = 500'000;
constexpr size_t kMostParts = 24;
// Codes that the windows of a part read: they stay in the second cache while all output channels read them.
constexpr size_t kCodesOfPart = 131'072;
constexpr size_t kFewestPlacesOfPart = 24;

size_t Quotient(size_t count, size_t by) { return (count + by - 1) / by; }

// One call, cut into parts: so many places and so many blocks of output channels each.
struct Task {
  const Layer& layer;
  Map map;
  Results results;
  Runs runs;
  size_t places, places_each, blocks_each;
  std::atomic<bool> failed{false};

  Task(const Layer& of, const Map& given, const Results& into, size_t places_in_all)
      : layer(of), map(given), results(into), runs(of.RunsOfWindow()), places(places_in_all) {
    // A kernel of each channel does about as much beside a multiply-accumulate as others do in sixteen.
    const size_t work = places * runs.count * runs.bytes * (of.depthwise ? 16 : of.outputs);
    const size_t wanted = std::clamp<size_t>(work / kWorkPerPart, 1, kMostParts);
    // Whichever is larger is read by few threads: the weights, or the codes. Threads that write to neighbouring channels
    // of the same places are in each other's way.
    const bool heavy = !of.depthwise && of.weights.size() > map.images * map.height * map.width * map.channels;
    const size_t cuts = heavy ? std::min(of.blocks.size(), wanted) : 1;
    blocks_each = Quotient(of.blocks.size(), cuts);
    const size_t reads = of.window.stride_y * of.window.stride_x * map.channels;  // codes of a place that no other reads
    const size_t share = std::min(Quotient(places, Quotient(wanted, cuts)), kCodesOfPart / reads);
    places_each = UpTo(kFewestPlacesOfPart, std::max<size_t>(1, share));
  }

  size_t PartsOfPlaces() const { return Quotient(places, places_each); }
  size_t Parts() const { return PartsOfPlaces() * Quotient(layer.blocks.size(), blocks_each); }
};

// The places begin to end of the blocks from one to before another one.
void WorkByRuns(const Task& task, size_t begin, size_t end, size_t first, size_t last) {
  static thread_local Rows rows;
  const Layer& layer = task.layer;
  rows.Find(Windows(task.map, layer.window, task.runs), begin, end, kMostPlaces);
  for (size_t i = first; i < last; ++i) {
    Dense({rows.Pointers(), rows.Stride(), task.runs.count, task.runs.Padded() / kWord,
           layer.weights.data() + layer.weights_at[i], layer.blocks[i], begin, end - begin},
          layer.becoming, task.results);
  }
}

void WorkByTaps(const Task& task, size_t begin, size_t end, size_t first, size_t last) {
  static thread_local Taps taps;
  const Layer& layer = task.layer;
  const Windows windows(task.map, layer.window, task.runs);
  taps.Find(windows, begin, end);
  for (size_t i = first; i < last; ++i) {
    const uint8_t* const* pointers = taps.Pointers();
    for (const Stretch& stretch : taps.stretches()) {
      Depthwise({pointers, task.runs.count, windows.Step(), layer.weights.data() + layer.weights_at[i], layer.blocks[i],
                 stretch.place, stretch.count},
                layer.becoming, task.results);
      pointers += task.runs.count;
    }
  }
}

void Work(const Task& task, size_t part) {
  const size_t begin = part % task.PartsOfPlaces() * task.places_each;
  const size_t end = std::min(task.places, begin + task.places_each);
  const size_t first = part / task.PartsOfPlaces() * task.blocks_each;
  const size_t last = std::min(task.layer.blocks.size(), first + task.blocks_each);
  if (task.layer.depthwise) WorkByTaps(task, begin, end, first, last);
  else WorkByRuns(task, begin, end, first, last);
}

void Compute(const Ort& ort, const Layer& layer, OrtKernelContext* context) {
  const auto given = InputAt<uint8_t>(ort, context, ConvolutionInputs::kCodes);
  const auto size = [&](size_t axis) { return static_cast<size_t>(given.shape[axis]); };
  if (given.shape.size() != 4 || size(3) != layer.inputs) {
    throw Failure("codes of shape " + Text(given.shape) + " do not have " + std::to_string(layer.inputs) +
                  " channels last");
  }
  const Map map{given.data, size(0), size(1), size(2), layer.inputs, layer.padding};
  const size_t height = layer.window.OutputHeight(map.height), width = layer.window.OutputWidth(map.width);
  const Shape shape{given.shape[0], static_cast<int64_t>(height), static_cast<int64_t>(width),
                    static_cast<int64_t>(layer.outputs)};
  uint8_t* codes = OutputAt<uint8_t>(ort, context, 0, shape);
  uint8_t* neurons = layer.becoming.fires ? OutputAt<uint8_t>(ort, context, 1, shape) : nullptr;
  const uint8_t* others = nullptr;
  if (layer.becoming.adds) {
    const auto added = InputAt<uint8_t>(ort, context, ConvolutionInputs::kOthers);
    if (added.shape != shape) throw Failure("what is added has shape " + Text(added.shape) + ", not " + Text(shape));
    others = added.data;
  }
  const size_t places = map.images * height * width;
  if (places == 0) return;
  Task task(layer, map, {others, codes, neurons, layer.outputs}, places);
  const auto part = [](void* pointer, size_t index) {
    Task& all = *static_cast<Task*>(pointer);
    try {  // nothing may leave through onnxruntime's threads
      Work(all, index);
    } catch (...) {
      all.failed = true;
    }
  };
  if (task.Parts() == 1) {
    part(&task, 0);
  } else {
    Check(ort.KernelContext_ParallelFor(context, part, task.Parts(), 0, &task));
  }
  if (task.failed) throw Failure("there is not enough memory");
}

Operator MakeConvolution(const OrtApi* api) {
  Operator op = MakeOperator<Layer, &Compute>(
      api, "ConvolutionCodes",
      {kUint8, kInt8, kUint8, kInt32, kFloat, kUint8, kUint8, kUint8,  // the layer
       kUint8, kFloat, kFloat, kFloat, kUint8, kUint8, kUint8,         // what is added
       kFloat, kFloat, kUint8, kUint8, kUint8},                        // neurons
      {kUint8, kUint8});
  op.InferOutputShapeFn = nullptr;  // the output has another shape than the first input
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index < ConvolutionInputs::kOthers ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  return op;
}

}  // namespace

void AddConvolutions(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator convolution = MakeConvolution(api);
  Check(ort.CustomOpDomain_Add(domain, &convolution));
}

}  // namespace pmsm

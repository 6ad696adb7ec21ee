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

#include <cstdint>
#include <string>

#include "convolution.h"
#include "convolution_kernels.h"
#include "convolution_layer.h"
#include "convolution_parts.h"
#include "convolution_rows.h"
#include "convolution_tiles.h"
#include "operators.h"
#include "tensors.h"

namespace pmsm {
namespace {

struct Task {
  Call call;
  const Layer& layer;
  Map map;
  Results results;
  Runs runs;
};

void WorkByRuns(const Task& task, const Part& part) {
  const TilesInUse tiles(task.runs.OnTiles());
  static thread_local Rows rows;
  const Layer& layer = task.layer;
  const size_t most = MostPlaces(task.runs, 1);
  const StepWindows input{Windows(task.map, layer.window, task.runs), 1};
  for (size_t begin = part.begin; begin < part.end; begin += most) {
    const size_t end = std::min(part.end, begin + most);
    rows.Find({&input, 1, 0, most}, begin, end, task.call);
    for (size_t i = part.first; i < part.last; ++i) {
      Dense({rows.Pointers(), rows.Stride(), task.runs.count, task.runs.Padded() / kWord, rows.PanelsAt(0),
             layer.weights.data() + layer.weights_at[i], layer.NarrowOf(i, rows.Most()), layer.blocks[i], begin, end - begin},
            layer.becoming, task.results);
    }
  }
}

void WorkByTaps(const Task& task, const Part& part) {
  static thread_local Taps taps;
  const Layer& layer = task.layer;
  const Windows windows(task.map, layer.window, task.runs);
  const uint8_t most = windows.MostRead(part.begin, part.end);
  taps.Find(windows, part.begin, part.end);
  for (size_t i = part.first; i < part.last; ++i) {
    const uint8_t* const* pointers = taps.Pointers();
    for (const Stretch& stretch : taps.stretches()) {
      Depthwise({pointers, task.runs.count, windows.Step(), layer.weights.data() + layer.weights_at[i],
                 layer.NarrowOf(i, most), layer.blocks[i], stretch.place, stretch.count},
                layer.becoming, task.results);
      pointers += task.runs.count;
    }
  }
}

void Work(const Task& task, const Part& part) {
  if (task.layer.depthwise) WorkByTaps(task, part);
  else WorkByRuns(task, part);
}

void Compute(const Ort& ort, const Layer& layer, OrtKernelContext* context) {
  const auto given = InputAt<uint8_t>(ort, context, ConvolutionInputs::kCodes);
  const auto size = [&](size_t axis) { return static_cast<size_t>(given.shape[axis]); };
  if (given.shape.size() != 4 || size(3) != layer.inputs) {
    throw Failure("codes of shape " + Text(given.shape) + " do not have " + std::to_string(layer.inputs) +
                  " channels last");
  }
  const Map map{given.data, size(0), size(1), size(2), layer.inputs, layer.padding};
  const Shape shape = layer.window.OutputShape(map.images, map.height, map.width, layer.outputs);
  uint8_t* codes = OutputAt<uint8_t>(ort, context, 0, shape);
  uint8_t* neurons = layer.becoming.fires ? OutputAt<uint8_t>(ort, context, 1, shape) : nullptr;
  const uint8_t* others = nullptr;
  if (layer.becoming.adds) {
    const auto added = InputAt<uint8_t>(ort, context, ConvolutionInputs::kOthers);
    if (added.shape != shape) throw Failure("what is added has shape " + Text(added.shape) + ", not " + Text(shape));
    others = added.data;
  }
  const size_t places = Product(shape, 0, 3);
  if (places == 0) return;
  const Task task{Call(), layer, map, {others, codes, neurons, layer.outputs}, layer.RunsOfWindow()};
  RunParts<Task, &Work>(ort, context, task, Parts(layer, map.Count(), task.runs, places, 1, places));
}

Operator MakeConvolution(const OrtApi* api) {
  Operator op = MakeOperator<Layer, &Compute>(
      api, "ConvolutionCodes",
      {kUint8, kInt8, kUint8, kInt32, kFloat, kUint8, kUint8, kUint8,  // the layer
       kUint8, kFloat, kFloat, kFloat, kUint8, kUint8, kUint8,         // what is added
       kFloat, kFloat, kUint8, kUint8, kUint8},                        // neurons
      {kUint8, kUint8});
  op.InferOutputShapeFn = nullptr;  // the output has another shape than the first input
  op.required_inputs = ConvolutionInputs::kOthers;
  op.required_outputs = 1;
  return op;
}

}  // namespace

void AddConvolutions(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator convolution = MakeConvolution(api);
  Check(ort.CustomOpDomain_Add(domain, &convolution));
}

}  // namespace pmsm

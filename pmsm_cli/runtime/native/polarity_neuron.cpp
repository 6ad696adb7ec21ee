// The polarity multi-spike neuron as onnxruntime operators of the domain `ai.pmsm`.
//
//   PolarityNeuron(value, threshold) -> spikes                                          the first timestep
//   PolarityNeuronStep(value, threshold, emitted, horizon, quantum) -> (spikes, emitted_now)    any later one
//
// `pmsm_cli/neuron/reference.py` is the specification: the same operations in the same order, each rounded once to
// float32, so that the numbers are the same bit for bit. A checkpoint carries both operators as functions made of
// standard operators too; onnxruntime prefers the ones registered here.

#include <algorithm>
#include <vector>

#include "emission.h"
#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

// ---------------------------------------------------------------------------------------------------- arithmetic

// One call of an operator.
struct Task {
  const float* value;
  Along threshold;
  const float* emitted;  // null at the first timestep, as is emitted_now
  float* spikes;
  float* emitted_now;
  float horizon, quantum;
  float lowest, highest;
  size_t count;
};

// Elements from `at` on, either all with one threshold or each with its own.
template <bool kLater, bool kOneThreshold>
PMSM_INLINE void EmitRun(const Task& task, const float* threshold, size_t at, size_t count) {
  const float* value = task.value + at;
  const float* emitted = kLater ? task.emitted + at : nullptr;
  float* spikes = task.spikes + at;
  float* emitted_now = kLater ? task.emitted_now + at : nullptr;
  const float horizon = task.horizon, quantum = task.quantum, lowest = task.lowest, highest = task.highest;
  const float one_threshold = *threshold;
  PMSM_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    float wanted = value[i] / (kOneThreshold ? one_threshold : threshold[i]);
    if (kLater) wanted = (wanted * horizon - emitted[i]) / quantum;
    const float emit = Emit(wanted, lowest, highest);
    spikes[i] = emit;
    if (kLater) emitted_now[i] = emitted[i] + quantum * emit;
  }
}

template <bool kLater>
PMSM_INLINE void EmitRange(const Task& task, size_t begin, size_t end) {
  float tile[kRun];
  for (size_t at = begin, count = 0; at < end; at += count) {
    const Along::Place place = task.threshold.PlaceOf(at);
    count = std::min({end - at, kRun, task.threshold.Longest(place)});
    if (task.threshold.Alike()) {
      EmitRun<kLater, true>(task, task.threshold.data + place.channel, at, count);
    } else {
      EmitRun<kLater, false>(task, task.threshold.Run(at, count, tile), at, count);
    }
  }
}

PMSM_WIDER_VECTORS void Compute(const Task& task, size_t begin, size_t end) {
  if (task.emitted) {
    EmitRange<true>(task, begin, end);
  } else {
    EmitRange<false>(task, begin, end);
  }
}

// Below this many elements (some ten microseconds) waking another thread costs more than it saves.
constexpr size_t kElementsPerThread = 32768;

// ---------------------------------------------------------------------------------------------------- operators

template <bool kLater>
void ComputeKernel(const Ort& ort, const Levels& levels, OrtKernelContext* context) {
  const Input<float> value = InputAt(ort, context, 0);
  const Input<float> threshold = InputAt(ort, context, 1);
  const size_t rank = std::max(value.shape.size(), threshold.shape.size());
  const Shape shape = Widened(value.shape, rank);
  Task task{};
  task.value = value.data;
  task.lowest = levels.lowest;
  task.highest = levels.highest;
  task.count = Product(shape, 0, rank);
  Lie lie{};
  if (!LayAlong(shape, threshold.shape, lie)) {
    throw Failure("a threshold of shape " + Text(threshold.shape) + " does not fit a value of shape " +
                  Text(value.shape) + ": it must have one element, or the value's size on one axis (or on " +
                  "neighbouring axes) and 1 on the others");
  }
  task.threshold = {threshold.data, lie.channels, std::max<size_t>(lie.inner, 1)};
  if (kLater) {
    const Input<float> emitted = InputAt(ort, context, 2);
    if (Widened(emitted.shape, rank) != shape) {
      throw Failure("emitted has shape " + Text(emitted.shape) + ", but the value has shape " + Text(value.shape));
    }
    task.emitted = emitted.data;
    task.horizon = ScalarAt(ort, context, 3, "horizon");
    task.quantum = ScalarAt(ort, context, 4, "quantum");
  }
  task.spikes = OutputAt(ort, context, 0, shape);
  if (kLater) task.emitted_now = OutputAt(ort, context, 1, shape);
  InParallel<Task, &Compute>(ort, context, task, task.count, kElementsPerThread);
}

// Spikes may take the value's memory, and emitted_now that of emitted.
template <size_t kPairs>
size_t PMSM_ORT_CALL MayComputeInPlace(int** inputs, int** outputs) {
  static int from[] = {0, 2};
  static int to[] = {0, 1};
  *inputs = from;
  *outputs = to;
  return kPairs;
}

template <bool kLater>
Operator MakeNeuron(const OrtApi* api) {
  Operator op = MakeOperator<Levels, &ComputeKernel<kLater>>(
      api, kLater ? "PolarityNeuronStep" : "PolarityNeuron", std::vector<ElementType>(kLater ? 5 : 2, kFloat),
      std::vector<ElementType>(kLater ? 2 : 1, kFloat));
  op.GetMayInplace = &MayComputeInPlace<kLater ? 2 : 1>;
  op.ReleaseMayInplace = [](int*, int*) {};
  return op;
}

}  // namespace

void AddPolarityNeurons(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator first = MakeNeuron<false>(api);
  static const Operator later = MakeNeuron<true>(api);
  Check(ort.CustomOpDomain_Add(domain, &first));
  Check(ort.CustomOpDomain_Add(domain, &later));
}

}  // namespace pmsm

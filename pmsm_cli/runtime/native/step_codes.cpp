// The neurons of a site at several timesteps, whose running counts leave as codes: PolarityNeuronSteps for integer kernels.
//
//   StepCodes(value, threshold, rest, quanta, finest, zero, [before]) -> emitted
//
// `value` holds the running values of the steps, step by step along its first axis; or those of one step alone, which are
// then the same at every one. A step adds
//
//   quantum x round(((value - rest) / threshold - count) / quantum)     within the levels
//
// to a count that begins with what the codes `before`, of one step, stand for; without them there is a single step, and it
// begins with 0. `emitted` are, step by step, count / finest + zero. `quanta` have a number for each step, powers of two that
// are no smaller than `finest`. The arithmetic is that of PolarityNeuronSteps: the counts are the same bit for bit.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "codes.h"
#include "emission.h"
#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

constexpr size_t kElementsPerThread = 16384;  // of all steps together

struct Task {
  const float* value;
  size_t between;  // elements from one step's values to the next one's
  Neurons neurons;
  const uint8_t* before;  // null: nothing
  const float* quanta;
  float finest;
  uint8_t zero;
  uint8_t* emitted;
  size_t count, steps;  // elements of a step, steps
};

template <bool kAlike>
PMSM_INLINE void EmitRange(const Task& task, size_t begin, size_t end) {
  float counts[kRun], tiles[2][kRun];
  const Along &along = task.neurons.threshold, &resting = task.neurons.rest;
  const float lowest = task.neurons.lowest, highest = task.neurons.highest, finer = 1.0f / task.finest;
  const uint8_t zero = task.zero;
  for (size_t at = begin, count = 0; at < end; at += count) {
    count = std::min(end - at, task.neurons.Longest(at));
    const float threshold = along.At(at), rest = resting.At(at);
    const float* thresholds = kAlike ? nullptr : along.Run(at, count, tiles[0]);
    const float* rests = kAlike ? nullptr : resting.Run(at, count, tiles[1]);
    if (task.before) {
      PMSM_INDEPENDENT
      for (size_t i = 0; i < count; ++i) {
        counts[i] = (static_cast<float>(task.before[at + i]) - static_cast<float>(zero)) * task.finest;
      }
    } else {
      std::fill_n(counts, count, 0.0f);
    }
    for (size_t step = 0; step < task.steps; ++step) {
      const float quantum = task.quanta[step], inverse = 1.0f / quantum;
      const float* value = task.value + step * task.between + at;
      uint8_t* emitted = task.emitted + step * task.count + at;
      PMSM_INDEPENDENT
      for (size_t i = 0; i < count; ++i) {
        const float ratio = (value[i] - (kAlike ? rest : rests[i])) / (kAlike ? threshold : thresholds[i]);
        counts[i] += quantum * EmitFew((ratio - counts[i]) * inverse, lowest, highest);
        emitted[i] = CodeOf(counts[i] * finer, -255.0f, 255.0f, zero);
      }
    }
  }
}

PMSM_WIDER_VECTORS void Work(const Task& task, size_t begin, size_t end) {
  if (task.neurons.Alike()) {
    EmitRange<true>(task, begin, end);
  } else {
    EmitRange<false>(task, begin, end);
  }
}

void Compute(const Ort& ort, const Levels& levels, OrtKernelContext* context) {
  const auto value = InputAt(ort, context, 0), threshold = InputAt(ort, context, 1), rest = InputAt(ort, context, 2);
  const auto quanta = InputAt(ort, context, 3);
  const auto zero = InputAt<uint8_t>(ort, context, 5), before = OptionalInputAt<uint8_t>(ort, context, 6);
  Task task{};
  task.steps = quanta.Count();
  const Shape& step = before.data ? before.shape : value.shape;
  Shape all = step;
  if (task.steps != 1 && (!before.data || all.empty() || task.steps == 0)) {
    throw Failure("quanta of shape " + Text(quanta.shape) + " do not fit neurons of shape " + Text(step));
  }
  if (!all.empty()) all[0] *= static_cast<int64_t>(task.steps);
  if (value.shape != all && value.shape != step) {
    throw Failure("a value of shape " + Text(value.shape) + " does not fit " + std::to_string(task.steps) +
                  " steps of neurons of shape " + Text(step));
  }
  if (zero.Count() != 1) throw Failure("zero has shape " + Text(zero.shape));
  task.count = Product(step, 0, step.size());
  task.value = value.data;
  task.between = value.shape == all ? task.count : 0;
  std::vector<float> thresholds, rests;
  task.neurons = {WrittenOut(LayOut(threshold, step, "threshold"), thresholds), WrittenOut(LayOut(rest, step, "rest"), rests),
                  levels.lowest, levels.highest};
  task.before = before.data;
  task.quanta = quanta.data;
  task.finest = ScalarAt(ort, context, 4, "finest");
  task.zero = *zero.data;
  task.emitted = OutputAt<uint8_t>(ort, context, 0, all);
  InParallel<Task, &Work>(ort, context, task, task.count, std::max<size_t>(1, kElementsPerThread / task.steps));
}

}  // namespace

void AddStepCodes(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator op = [api] {
    Operator made = MakeOperator<Levels, &Compute>(
        api, "StepCodes", {kFloat, kFloat, kFloat, kFloat, kFloat, kUint8, kUint8}, {kUint8});
    made.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return index < 6 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
    };
    return made;
  }();
  Check(ort.CustomOpDomain_Add(domain, &op));
}

}  // namespace pmsm

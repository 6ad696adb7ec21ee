// The neurons of a site at several timesteps, one after the other while their state is in the nearest cache.
//
//   PolarityNeuronSteps(value, threshold, rest, before, horizons, quanta) -> emitted
//
// `value` holds the running values of the steps, step by step along its first axis; or those of one step alone, which are
// then the same at every one. Neurons read what lies above `rest`. `before` is what they have emitted so far, in the shape
// of one step; where there is a single step it may be one number for all. `emitted` holds, step by step, the running count
// over the step's horizon: what the neuron stands for, in thresholds. `horizons` and `quanta` have a number for each step.
// The arithmetic of a step is that of Sub and PolarityNeuronStep, in the same order, each operation rounded once: the
// spikes are the same bit for bit.

#include <algorithm>
#include <cmath>
#include <vector>

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
  const float* before;
  bool from_one_number;  // `before` is
  const float *horizons, *quanta;
  float* emitted;
  size_t count, steps;  // elements of a step, steps
  bool once;            // one step of horizon and quantum 1, and nothing emitted before
};

// One step of a run. Where the horizon is 1 and the quantum a power of two, there is nothing to divide by but thresholds.
template <bool kAlike, bool kExact>
PMSM_INLINE void Step(const float* value, const float* thresholds, const float* rests, float horizon, float quantum,
                      float lowest, float highest, float* counts, float* emitted, size_t count) {
  const float threshold = *thresholds, rest = *rests, inverse = 1.0f / quantum;
  PMSM_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    const float ratio = (value[i] - (kAlike ? rest : rests[i])) / (kAlike ? threshold : thresholds[i]);
    const float wanted = kExact ? (ratio - counts[i]) * inverse : (ratio * horizon - counts[i]) / quantum;
    counts[i] += quantum * Emit(wanted, lowest, highest);
    emitted[i] = kExact ? counts[i] : counts[i] / horizon;
  }
}

template <bool kAlike>
PMSM_INLINE void EmitRange(const Task& task, size_t begin, size_t end) {
  if (task.once) {
    EmitOnce<kAlike>(task.neurons, task.value, task.emitted, begin, end);
    return;
  }
  float counts[kRun], tiles[2][kRun];
  const Along &along = task.neurons.threshold, &resting = task.neurons.rest;
  const float lowest = task.neurons.lowest, highest = task.neurons.highest;
  for (size_t at = begin, count = 0; at < end; at += count) {
    count = std::min(end - at, task.neurons.Longest(at));
    if (task.from_one_number) {
      std::fill_n(counts, count, *task.before);
    } else {
      std::copy_n(task.before + at, count, counts);
    }
    const float threshold = along.At(at), rest = resting.At(at);
    const float* thresholds = kAlike ? &threshold : along.Run(at, count, tiles[0]);
    const float* rests = kAlike ? &rest : resting.Run(at, count, tiles[1]);
    for (size_t step = 0; step < task.steps; ++step) {
      const float horizon = task.horizons[step], quantum = task.quanta[step];
      const float* value = task.value + step * task.between + at;
      float* emitted = task.emitted + step * task.count + at;
      int exponent = 0;
      if (horizon == 1.0f && std::frexp(quantum, &exponent) == 0.5f) {
        Step<kAlike, true>(value, thresholds, rests, horizon, quantum, lowest, highest, counts, emitted, count);
      } else {
        Step<kAlike, false>(value, thresholds, rests, horizon, quantum, lowest, highest, counts, emitted, count);
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
  const auto before = InputAt(ort, context, 3), horizons = InputAt(ort, context, 4), quanta = InputAt(ort, context, 5);
  Task task{};
  task.steps = horizons.Count();
  const bool from_one_number = before.Count() == 1 && before.shape.size() < std::max<size_t>(value.shape.size(), 1);
  const Shape& step = from_one_number ? value.shape : before.shape;
  Shape all = step;
  if (!task.steps || quanta.Count() != task.steps || (task.steps > 1 && (all.empty() || from_one_number))) {
    throw Failure("horizons of shape " + Text(horizons.shape) + " and quanta of shape " + Text(quanta.shape) +
                  " do not fit neurons of shape " + Text(step));
  }
  if (!all.empty()) all[0] *= static_cast<int64_t>(task.steps);
  if (value.shape != all && value.shape != step) {
    throw Failure("a value of shape " + Text(value.shape) + " does not fit " + std::to_string(task.steps) +
                  " steps of neurons of shape " + Text(step));
  }
  task.count = Product(step, 0, step.size());
  task.value = value.data;
  task.between = value.shape == all ? task.count : 0;
  std::vector<float> thresholds, rests;
  task.neurons = {WrittenOut(LayOut(threshold, step, "threshold"), thresholds), WrittenOut(LayOut(rest, step, "rest"), rests),
                  levels.lowest, levels.highest};
  task.before = before.data;
  task.from_one_number = from_one_number;
  task.horizons = horizons.data;
  task.quanta = quanta.data;
  task.once = task.steps == 1 && from_one_number && *before.data == 0.0f && *horizons.data == 1.0f && *quanta.data == 1.0f;
  task.emitted = OutputAt(ort, context, 0, all);
  InParallel<Task, &Work>(ort, context, task, task.count, std::max<size_t>(1, kElementsPerThread / task.steps));
}

}  // namespace

void AddNeuronSteps(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator op = [api] {
    Operator made = MakeOperator<Levels, &Compute>(api, "PolarityNeuronSteps", std::vector<ElementType>(6, kFloat),
                                                   {kFloat});
    made.InferOutputShapeFn = nullptr;  // the output has more rows than a value that is the same at every step
    MayTakeMemory(made);
    return made;
  }();
  Check(ort.CustomOpDomain_Add(domain, &op));
}

}  // namespace pmsm

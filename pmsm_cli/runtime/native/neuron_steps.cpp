// The neurons of a site at several timesteps, one after the other while their state is in the nearest cache.
//
//   PolarityNeuronSteps(value, threshold, rest, before, horizons, quanta) -> emitted
//   StepCodes(value, threshold, rest, quanta, finest, zero, [before]) -> (codes, [counts])
//
// `value` holds the running values of the steps, step by step along its first axis; or those of one step alone, which are
// then the same at every one. Neurons read what lies above `rest`. A step adds
//
//   quantum x round(((value - rest) / threshold x horizon - count) / quantum)     within the levels
//
// to the count of what was emitted. `before` is that count so far, in the shape of one step; where there is a single step
// it may be one number for all. `emitted` holds, step by step, the running count over the step's horizon: what the neuron
// stands for, in thresholds. `horizons` and `quanta` have a number for each step. The arithmetic of a step is that of Sub and
// PolarityNeuronStep, in the same order, each operation rounded once: the spikes are the same bit for bit.
//
// StepCodes is the same for integer kernels: horizons are 1 and quanta powers of two, no smaller than `finest`; counts are
// there as codes, count / finest + zero. Without `before` there is a single step, and it begins with nothing. Where `counted_by` is
// there, the axis of the channels or 0, there is one step, and `counts` says what is emitted (emitted_counts.h).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "codes.h"
#include "emission.h"
#include "emitted_counts.h"
#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

constexpr size_t kElementsPerThread = 16384;  // of all steps together

// Counts as numbers, and over the horizon.
struct AsFloats {
  const float* before;
  bool from_one_number;  // `before` is
  const float* horizons;
  float* emitted;
  bool once;  // one step of horizon and quantum 1, and nothing emitted before
};

// Counts as codes, in units of the finest quantum, and so are thresholds and quanta.
struct AsCodes {
  const uint8_t* before;  // null: nothing
  uint8_t zero;
  uint8_t* emitted;
  bool once;  // one step whose quantum is the unit, and nothing emitted before
};

template <typename Form>
struct Task {
  Form form;
  const float* value;
  size_t between;  // elements from one step's values to the next one's
  Neurons neurons;
  const float* quanta;
  size_t count, steps;  // elements of a step, steps
};

PMSM_INLINE void Begin(const AsFloats& form, size_t at, size_t count, float* counts) {
  if (form.from_one_number) std::fill_n(counts, count, *form.before);
  else std::copy_n(form.before + at, count, counts);
}

PMSM_INLINE void Begin(const AsCodes& form, size_t at, size_t count, float* counts) {
  std::fill_n(counts, count, 0.0f);
  if (!form.before) return;
  PMSM_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    counts[i] = static_cast<float>(form.before[at + i]) - static_cast<float>(form.zero);
  }
}

// What the neurons of a run read.
template <bool kAlike>
struct Reading {
  const float *value, *thresholds, *rests;
  float threshold, rest;

  PMSM_INLINE float Ratio(size_t i) const {
    return (value[i] - (kAlike ? rest : rests[i])) / (kAlike ? threshold : thresholds[i]);
  }
};

// One step of a run. Where the horizon is 1 and the quantum a power of two, there is nothing to divide by but thresholds.
template <bool kAlike, bool kExact>
PMSM_INLINE void Step(const Reading<kAlike>& reading, float horizon, float quantum, float lowest, float highest,
                      float* counts, float* emitted, size_t count) {
  const float inverse = 1.0f / quantum;
  PMSM_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    const float ratio = reading.Ratio(i);
    const float wanted = kExact ? (ratio - counts[i]) * inverse : (ratio * horizon - counts[i]) / quantum;
    counts[i] += quantum * Emit(wanted, lowest, highest);
    emitted[i] = kExact ? counts[i] : counts[i] / horizon;
  }
}

template <bool kAlike>
PMSM_INLINE void Step(const Task<AsFloats>& task, const Reading<kAlike>& reading, size_t step, size_t at, float* counts,
                      size_t count) {
  const float horizon = task.form.horizons[step], quantum = task.quanta[step];
  const float lowest = task.neurons.lowest, highest = task.neurons.highest;
  float* emitted = task.form.emitted + step * task.count + at;
  int exponent = 0;
  if (horizon == 1.0f && std::frexp(quantum, &exponent) == 0.5f) {
    Step<kAlike, true>(reading, horizon, quantum, lowest, highest, counts, emitted, count);
  } else {
    Step<kAlike, false>(reading, horizon, quantum, lowest, highest, counts, emitted, count);
  }
}

template <bool kAlike>
PMSM_INLINE void Step(const Task<AsCodes>& task, const Reading<kAlike>& reading, size_t step, size_t at, float* counts,
                      size_t count) {
  const float quantum = task.quanta[step], inverse = 1.0f / quantum;
  const float lowest = task.neurons.lowest, highest = task.neurons.highest;
  const uint8_t zero = task.form.zero;
  uint8_t* emitted = task.form.emitted + step * task.count + at;
  PMSM_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    counts[i] += quantum * EmitFew((reading.Ratio(i) - counts[i]) * inverse, lowest, highest);
    emitted[i] = CodeOfCount(counts[i], zero);
  }
}

template <bool kAlike, typename Form>
PMSM_INLINE void EmitRange(const Task<Form>& task, size_t begin, size_t end) {
  float counts[kRun], tiles[2][kRun];
  const Along &along = task.neurons.threshold, &resting = task.neurons.rest;
  for (size_t at = begin, count = 0; at < end; at += count) {
    const Neurons::Here here = task.neurons.At(at);
    count = std::min(end - at, here.longest);
    Begin(task.form, at, count, counts);
    Reading<kAlike> reading{};
    reading.threshold = here.threshold;
    reading.rest = here.rest;
    reading.thresholds = kAlike ? nullptr : along.Run(at, count, tiles[0]);
    reading.rests = kAlike ? nullptr : resting.Run(at, count, tiles[1]);
    for (size_t step = 0; step < task.steps; ++step) {
      reading.value = task.value + step * task.between + at;
      Step<kAlike>(task, reading, step, at, counts, count);
    }
  }
}

PMSM_WIDER_VECTORS void Work(const Task<AsFloats>& task, size_t begin, size_t end) {
  const bool alike = task.neurons.Alike();
  if (task.form.once && alike) EmitOnce<true>(task.neurons, task.value, task.form.emitted, begin, end);
  else if (task.form.once) EmitOnce<false>(task.neurons, task.value, task.form.emitted, begin, end);
  else if (alike) EmitRange<true>(task, begin, end);
  else EmitRange<false>(task, begin, end);
}

// At a single step there is no count to go on with.
template <bool kAlike>
PMSM_INLINE void EmitCodesOnce(const Task<AsCodes>& task, size_t begin, size_t end) {
  float tiles[2][kRun];
  const Neurons& neurons = task.neurons;
  const float lowest = neurons.lowest, highest = neurons.highest;
  const uint8_t zero = task.form.zero;
  for (size_t at = begin, count = 0; at < end; at += count) {
    const Neurons::Here here = neurons.At(at);
    count = std::min(end - at, here.longest);
    const Reading<kAlike> reading{task.value + at, kAlike ? nullptr : neurons.threshold.Run(at, count, tiles[0]),
                                  kAlike ? nullptr : neurons.rest.Run(at, count, tiles[1]), here.threshold, here.rest};
    uint8_t* emitted = task.form.emitted + at;
    PMSM_INDEPENDENT
    for (size_t i = 0; i < count; ++i) emitted[i] = CodeOfCount(EmitFew(reading.Ratio(i), lowest, highest), zero);
  }
}

PMSM_WIDER_VECTORS void Work(const Task<AsCodes>& task, size_t begin, size_t end) {
  const bool alike = task.neurons.Alike();
  if (task.form.once && alike) EmitCodesOnce<true>(task, begin, end);
  else if (task.form.once) EmitCodesOnce<false>(task, begin, end);
  else if (alike) EmitRange<true>(task, begin, end);
  else EmitRange<false>(task, begin, end);
}

// A single step whose codes are counted.
struct CountedCodes {
  const Task<AsCodes>& task;
  EmittedCounts& counts;
};

void WorkOnSteps(const CountedCodes& counted, size_t begin, size_t end) {
  const size_t step = counted.counts.Codes().Step();
  Work(counted.task, begin * step, end * step);
  counted.counts.Add(begin * step, end * step);
}

// Numbers of the first three inputs, laid along neurons of the shape of one step.
struct Read {
  Input<float> value, threshold, rest;
  std::vector<float> thresholds, rests;

  Read(const Ort& ort, const OrtKernelContext* context)
      : value(InputAt(ort, context, 0)), threshold(InputAt(ort, context, 1)), rest(InputAt(ort, context, 2)) {}

  // Fills in what a task reads, and returns the shape of what it emits.
  template <typename Form>
  Shape LayOutFor(Task<Form>& task, const Input<float>& quanta, const Shape& step, const Levels& levels) {
    task.steps = quanta.Count();
    task.quanta = quanta.data;
    Shape all = step;
    if (!all.empty()) all[0] *= static_cast<int64_t>(task.steps);
    if (value.shape != all && value.shape != step) {
      throw Failure("a value of shape " + Text(value.shape) + " does not fit " + std::to_string(task.steps) +
                    " steps of neurons of shape " + Text(step));
    }
    task.count = Product(step, 0, step.size());
    task.value = value.data;
    task.between = value.shape == all ? task.count : 0;
    task.neurons = {WrittenOut(LayOut(threshold, step, "threshold"), thresholds),
                    WrittenOut(LayOut(rest, step, "rest"), rests), levels.lowest, levels.highest};
    return all;
  }
};

template <typename Form>
void WorkInParallel(const Ort& ort, OrtKernelContext* context, const Task<Form>& task) {
  const size_t per_thread = std::max<size_t>(1, kElementsPerThread / task.steps);
  InParallel<Task<Form>, &Work>(ort, context, task, task.count, per_thread);
}

void Compute(const Ort& ort, const Levels& levels, OrtKernelContext* context) {
  Read read(ort, context);
  const auto before = InputAt(ort, context, 3), horizons = InputAt(ort, context, 4), quanta = InputAt(ort, context, 5);
  const size_t steps = horizons.Count(), rank = read.value.shape.size();
  const bool from_one_number = before.Count() == 1 && before.shape.size() < std::max<size_t>(rank, 1);
  const Shape& step = from_one_number ? read.value.shape : before.shape;
  if (!steps || quanta.Count() != steps || (steps > 1 && (step.empty() || from_one_number))) {
    throw Failure("horizons of shape " + Text(horizons.shape) + " and quanta of shape " + Text(quanta.shape) +
                  " do not fit neurons of shape " + Text(step));
  }
  Task<AsFloats> task{};
  const Shape all = read.LayOutFor(task, quanta, step, levels);
  const bool once = steps == 1 && from_one_number && *before.data == 0.0f && *horizons.data == 1.0f && *quanta.data == 1.0f;
  task.form = {before.data, from_one_number, horizons.data, OutputAt(ort, context, 0, all), once};
  WorkInParallel(ort, context, task);
}

// Numbers times a power of two, which takes no digit from them.
Input<float> Scaled(Input<float> numbers, float power, std::vector<float>& kept) {
  for (size_t i = 0; i < numbers.Count(); ++i) kept.push_back(numbers.data[i] * power);
  numbers.data = kept.data();
  return numbers;
}

struct OfCodes : Levels {
  int64_t counted_by;  // below 0: not

  OfCodes(const Ort& ort, const OrtKernelInfo* info) : Levels(ort, info), counted_by(IntegerAttribute(ort, info, "counted_by", -1)) {}
};

void ComputeCodes(const Ort& ort, const OfCodes& levels, OrtKernelContext* context) {
  Read read(ort, context);
  std::vector<float> thresholds, steps_quanta;
  const float finest = ScalarAt(ort, context, 4, "finest");
  read.threshold = Scaled(std::move(read.threshold), finest, thresholds);
  const auto quanta = Scaled(InputAt(ort, context, 3), 1.0f / finest, steps_quanta);
  const auto zero = InputAt<uint8_t>(ort, context, 5), before = OptionalInputAt<uint8_t>(ort, context, 6);
  const Shape& step = before.there ? before.shape : read.value.shape;
  const size_t steps = quanta.Count();
  if (steps != 1 && (!before.there || step.empty() || steps == 0)) {
    throw Failure("quanta of shape " + Text(quanta.shape) + " do not fit neurons of shape " + Text(step));
  }
  if (zero.Count() != 1) throw Failure("zero has shape " + Text(zero.shape));
  Task<AsCodes> task{};
  const Shape all = read.LayOutFor(task, quanta, step, levels);
  const bool once = steps == 1 && !before.there && *quanta.data == 1.0f;
  task.form = {before.data, *zero.data, OutputAt<uint8_t>(ort, context, 0, all), once};
  if (levels.counted_by < 0) return WorkInParallel(ort, context, task);
  if (steps != 1) throw Failure("what is counted is emitted at one step");
  const Limits limits(*zero.data, levels.lowest, levels.highest);
  const LaidOutCodes codes(task.form.emitted, all, levels.counted_by, nullptr, limits);
  EmittedCounts counts(codes);
  InParallel<CountedCodes, &WorkOnSteps>(ort, context, {task, counts}, codes.Steps(),
                                         std::max<size_t>(1, kElementsPerThread / std::max<size_t>(1, codes.Step())));
  counts.PutInto(ort, context, 1);
}

Operator MakeNeurons(const OrtApi* api) {
  Operator made = MakeOperator<Levels, &Compute>(api, "PolarityNeuronSteps", std::vector<ElementType>(6, kFloat),
                                                 {kFloat});
  made.InferOutputShapeFn = nullptr;  // the output has more rows than a value that is the same at every step
  MayTakeMemory(made);
  return made;
}

Operator MakeCodes(const OrtApi* api) {
  Operator made = MakeOperator<OfCodes, &ComputeCodes>(
      api, "StepCodes", {kFloat, kFloat, kFloat, kFloat, kFloat, kUint8, kUint8}, {kUint8, kFloat});
  made.required_inputs = 6;
  made.required_outputs = 1;
  return made;
}

}  // namespace

void AddNeuronSteps(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator floats = MakeNeurons(api), codes = MakeCodes(api);
  Check(ort.CustomOpDomain_Add(domain, &floats));
  Check(ort.CustomOpDomain_Add(domain, &codes));
}

}  // namespace pmsm

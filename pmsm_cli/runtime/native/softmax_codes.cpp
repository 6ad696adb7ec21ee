// Attention weights as codes, in one pass over each row of scores.
//
//   SoftmaxCodes(scores, factor, threshold, zero, lowest, highest) -> (codes, sums)
//
// weights  = softmax(scores x factor) over the last axis
// codes    = round(weights / their row's largest / threshold) + zero, within lowest and highest
// sums     = the row's counts (codes - zero), added up
//
//   SoftmaxStepCodes(scores, factor, threshold, quanta, finest, zero, [before]) -> (codes, sums, [counts])
//
// The same at several timesteps, step by step along the first axis: `codes` are what StepCodes emits on weights / their
// row's largest, `sums` the row's counts, in thresholds, and `counts`, where the attribute `counted_by` is there, StepCodes' own.
//
// A softmax over its largest value is exp(score - largest score): what softmax divides by drops out. Everything behind the
// scores but `before` is constant, factor and threshold (zero, lowest, highest) with one element for all or one for each
// channel (attention head) of the axis `axis`.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "codes.h"
#include "emitted_counts.h"
#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

constexpr size_t kElementsPerThread = 8192;
constexpr size_t kLanes = 32;

// e^x for x at most 0, to 2e-7 relative: x is n ln 2 + r, and e^r a polynomial (Cephes, expf; Moshier). Below -87 it is as
// good as nothing.
PMSM_INLINE float Exp(float x) {
  const float bounded = x > -87.0f ? x : -87.0f;
  const float shifted = bounded * 1.44269504f + 12582912.0f;  // 1.5 x 2^23: what is left are the bits of n
  const float n = shifted - 12582912.0f;
  const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  float power = 1.9875691500e-4f;
  power = power * r + 1.3981999507e-3f;
  power = power * r + 8.3334519073e-3f;
  power = power * r + 4.1665795894e-2f;
  power = power * r + 1.6666665459e-1f;
  power = power * r + 5.0000001201e-1f;
  power = (power * r) * r + (r + 1.0f);
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const int32_t scale_bits = (bits - 0x4B400000 + 127) << 23;
  float scale;
  std::memcpy(&scale, &scale_bits, sizeof scale);
  return power * scale;
}

struct SoftmaxCodes {
  size_t channels;
  PerChannel<float> factor, threshold;
  Counts counts;
  int64_t axis;

  SoftmaxCodes(const Ort& ort, const OrtKernelInfo* info)
      : channels(ChannelsOf({SizeAt<float>(ort, info, 1), SizeAt<float>(ort, info, 2), SizeAt<uint8_t>(ort, info, 3),
                             SizeAt<uint8_t>(ort, info, 4), SizeAt<uint8_t>(ort, info, 5)})),
        factor(Constants<float>(ConstantAt<float>(ort, info, 1), channels, "factor")),
        threshold(Constants<float>(ConstantAt<float>(ort, info, 2), channels, "threshold")),
        counts(ort, info, 3, channels),
        axis(IntegerAttribute(ort, info, "axis")) {}
};

struct Rows {
  const SoftmaxCodes& kernel;
  const float* scores;
  uint8_t* codes;
  float* sums;
  size_t columns, channels, inner;  // row i belongs to channel (i / inner) % channels
};

PMSM_INLINE float LargestOf(const float* scores, size_t count, float factor) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    PMSM_INDEPENDENT
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float score = scores[i + lane] * factor;
      lanes[lane] = score > lanes[lane] ? score : lanes[lane];
    }
  }
  for (; i < count; ++i) lanes[0] = std::max(lanes[0], scores[i] * factor);
  return *std::max_element(lanes, lanes + kLanes);
}

PMSM_INLINE void WorkOnRow(const Rows& rows, size_t row) {
  const size_t channel = row / rows.inner % rows.channels, count = rows.columns;
  const float* scores = rows.scores + row * count;
  uint8_t* codes = rows.codes + row * count;
  const Counts& counts = rows.kernel.counts;
  const float factor = rows.kernel.factor.Of(channel), threshold = rows.kernel.threshold.Of(channel);
  const float lowest = counts.lowest.Of(channel), highest = counts.highest.Of(channel);
  const uint8_t zero = counts.zero.Of(channel);
  const float largest = LargestOf(scores, count, factor);
  int32_t sum = 0;
  PMSM_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    const uint8_t code = CodeOf(Exp(scores[i] * factor - largest) / threshold, lowest, highest, zero);
    codes[i] = code;
    sum += code - zero;
  }
  rows.sums[row] = static_cast<float>(sum);
}

PMSM_WIDER_VECTORS void Work(const Rows& rows, size_t begin, size_t end) {
  for (size_t row = begin; row < end; ++row) WorkOnRow(rows, row);
}

void Compute(const Ort& ort, const SoftmaxCodes& kernel, OrtKernelContext* context) {
  const auto scores = InputAt<float>(ort, context, 0);
  if (scores.shape.empty()) throw Failure("scores must have an axis to sum over");
  Shape sums = scores.shape;
  sums.back() = 1;
  uint8_t* codes = OutputAt<uint8_t>(ort, context, 0, scores.shape);
  float* added = OutputAt<float>(ort, context, 1, sums);
  const Layout layout = LayOut(sums, kernel.axis, kernel.channels);
  const size_t columns = static_cast<size_t>(scores.shape.back());
  const Rows rows{kernel, scores.data, codes, added, columns, layout.channels, std::max<size_t>(1, layout.inner)};
  InParallel<Rows, &Work>(ort, context, rows, layout.count, std::max<size_t>(1, kElementsPerThread / (columns + 1)));
}

// ---------------------------------------------------------------------------------------------------- several timesteps

struct SoftmaxStepCodes {
  size_t channels;
  PerChannel<float> factor;
  float finest;
  PerChannel<float> threshold;  // as the counts and the quanta, in units of the finest one
  std::vector<float> quanta;
  uint8_t zero;
  Levels levels;
  int64_t axis, counted_by;  // below 0: not

  SoftmaxStepCodes(const Ort& ort, const OrtKernelInfo* info)
      : channels(ChannelsOf({SizeAt<float>(ort, info, 1), SizeAt<float>(ort, info, 2)})),
        factor(Constants<float>(ConstantAt<float>(ort, info, 1), channels, "factor")),
        finest(ConstantAt<float>(ort, info, 4).at(0)),
        threshold(Constants<float>(Times(ConstantAt<float>(ort, info, 2), finest), channels, "threshold")),
        quanta(Times(ConstantAt<float>(ort, info, 3), 1.0f / finest)),
        zero(ConstantAt<uint8_t>(ort, info, 5).at(0)),
        levels(ort, info),
        axis(IntegerAttribute(ort, info, "axis")),
        counted_by(IntegerAttribute(ort, info, "counted_by", -1)) {
    if (quanta.empty()) throw Failure("quanta of no step");
    if (counted_by >= 0 && quanta.size() > 1) throw Failure("what is counted is emitted at one step");
  }

 private:
  static std::vector<float> Times(std::vector<float> numbers, float power) {
    for (float& each : numbers) each *= power;
    return numbers;
  }
};

struct StepRows {
  const SoftmaxStepCodes& kernel;
  const float* scores;
  const uint8_t* before;  // null: nothing
  uint8_t* codes;
  float* sums;
  size_t rows, columns, channels, inner;  // rows: of a step
  EmittedCounts* counts;                  // null: nobody asks
};

PMSM_INLINE void WorkOnRow(const StepRows& task, size_t row) {
  const SoftmaxStepCodes& kernel = task.kernel;
  const size_t channel = row / task.inner % task.channels, count = task.columns;
  const float factor = kernel.factor.Of(channel), threshold = kernel.threshold.Of(channel);
  const float lowest = kernel.levels.lowest, highest = kernel.levels.highest;
  const uint8_t zero = kernel.zero;
  const uint8_t* before = task.before ? task.before + row * count : nullptr;
  for (size_t step = 0; step < kernel.quanta.size(); ++step) {
    const size_t at = step * task.rows + row;
    const float* scores = task.scores + at * count;
    uint8_t* codes = task.codes + at * count;
    const float largest = LargestOf(scores, count, factor), quantum = kernel.quanta[step], inverse = 1.0f / quantum;
    int32_t sum = 0;
    PMSM_INDEPENDENT
    for (size_t i = 0; i < count; ++i) {
      const float counted = before ? static_cast<float>(before[i]) - static_cast<float>(zero) : 0.0f;
      const float above = Exp(scores[i] * factor - largest) / threshold - counted;
      const uint8_t code = CodeOfCount(counted + quantum * EmitFew(above * inverse, lowest, highest), zero);
      codes[i] = code;
      sum += code - zero;
    }
    task.sums[at] = static_cast<float>(sum) * kernel.finest;
    before = codes;
  }
}

PMSM_WIDER_VECTORS void WorkOnRows(const StepRows& task, size_t begin, size_t end) {
  for (size_t row = begin; row < end; ++row) WorkOnRow(task, row);
}

void Work(const StepRows& task, size_t begin, size_t end) {
  WorkOnRows(task, begin, end);
  if (task.counts) task.counts->Add(begin * task.columns, end * task.columns);
}

void ComputeSteps(const Ort& ort, const SoftmaxStepCodes& kernel, OrtKernelContext* context) {
  const auto scores = InputAt<float>(ort, context, 0);
  const auto before = OptionalInputAt<uint8_t>(ort, context, 6);
  const int64_t steps = static_cast<int64_t>(kernel.quanta.size());
  if (scores.shape.size() < 2 || scores.shape[0] % steps) {
    throw Failure("scores of shape " + Text(scores.shape) + " are not those of " + std::to_string(steps) + " steps");
  }
  Shape once = scores.shape, sums = scores.shape;
  once[0] /= steps;
  sums.back() = 1;
  if (before.there ? before.shape != once : steps > 1) {
    throw Failure("what was emitted before has shape " + Text(before.shape) + ", not " + Text(once));
  }
  uint8_t* codes = OutputAt<uint8_t>(ort, context, 0, scores.shape);
  float* added = OutputAt<float>(ort, context, 1, sums);
  once.back() = 1;
  const Layout layout = LayOut(once, kernel.axis, kernel.channels);
  const size_t columns = static_cast<size_t>(scores.shape.back());
  std::unique_ptr<EmittedCounts> counts;
  if (kernel.counted_by >= 0) {
    const Limits limits(kernel.zero, kernel.levels.lowest, kernel.levels.highest);
    const LaidOutCodes laid_out(codes, scores.shape, kernel.counted_by, nullptr, limits);
    counts = std::make_unique<EmittedCounts>(laid_out);
    if (columns % laid_out.Step()) throw Failure("channels that are counted are not on the axis of scores " + Text(scores.shape));
  }
  const StepRows task{kernel,  scores.data,     before.data, codes, added, layout.count, columns, layout.channels,
                      std::max<size_t>(1, layout.inner), counts.get()};
  const size_t in_row = kernel.quanta.size() * (columns + 1);
  InParallel<StepRows, &Work>(ort, context, task, layout.count, std::max<size_t>(1, kElementsPerThread / in_row));
  if (counts) counts->PutInto(ort, context, 2);
}

}  // namespace

void AddSoftmaxCodes(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator op = MakeOperator<SoftmaxCodes, &Compute>(
      api, "SoftmaxCodes", {kFloat, kFloat, kFloat, kUint8, kUint8, kUint8}, {kUint8, kFloat});
  static const Operator steps = [api] {
    Operator made = MakeOperator<SoftmaxStepCodes, &ComputeSteps>(
        api, "SoftmaxStepCodes", {kFloat, kFloat, kFloat, kFloat, kFloat, kUint8, kUint8}, {kUint8, kFloat, kFloat});
    made.required_inputs = 6;
    made.required_outputs = 2;
    return made;
  }();
  Check(ort.CustomOpDomain_Add(domain, &op));
  Check(ort.CustomOpDomain_Add(domain, &steps));
}

}  // namespace pmsm

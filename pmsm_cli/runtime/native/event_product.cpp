// Products of few rows of spikes with weights, driven by events: weights are read only of inputs that spiked.
//
//   EventProduct(spikes, weights, bias) -> y                              floats
//   EventProductInteger(codes, weights, zero, scale, bias) -> y           codes and int8 weights; y in floats
//
// y = spikes weights + bias, with spikes [rows, inputs] and weights [inputs, outputs]. Codes stand for counts above
// `zero`; their sums are exact in 32 bits, then times `scale` (one, or one an output) and plus `bias`.
//
// At batch 1 a layer's time is that of reading its weights. Here it is that share of it whose inputs spike, whatever
// the share: a dense input costs what a dense product does.

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

// Outputs that are added up at a time: their sums stay in the nearest cache.
constexpr size_t kOutputs = 4096;
// Below this many weights waking another thread costs more than it saves.
constexpr size_t kWeightsPerThread = 65536;
constexpr size_t kMostParts = 16;
// Inputs that are added in one pass over the sums.
constexpr size_t kTogether = 4;

// An input that spiked, and how much.
template <typename Sum>
struct Event {
  size_t input;
  Sum size;
};

template <typename Spike, typename Weight, typename Sum>
struct Task {
  const Weight* weights;
  size_t rows, inputs, outputs, parts;
  std::vector<std::vector<Event<Sum>>> events;  // of each row
  std::vector<Sum> sums;                        // [parts, rows, outputs]: each part adds up its share of the events

  Task(const Input<Spike>& spikes, const Input<Weight>& given, Sum zero) : weights(given.data) {
    if (spikes.shape.size() != 2 || given.shape.size() != 2 || spikes.shape[1] != given.shape[0]) {
      throw Failure("spikes of shape " + Text(spikes.shape) + " do not fit weights of shape " + Text(given.shape));
    }
    rows = static_cast<size_t>(spikes.shape[0]);
    inputs = static_cast<size_t>(spikes.shape[1]);
    outputs = static_cast<size_t>(given.shape[1]);
    events.resize(rows);
    size_t all = 0;
    for (size_t row = 0; row < rows; ++row) {
      for (size_t input = 0; input < inputs; ++input) {
        const Sum size = static_cast<Sum>(spikes.data[row * inputs + input]) - zero;
        if (size != Sum{0}) events[row].push_back({input, size});
      }
      all += events[row].size();
    }
    parts = std::min(kMostParts, std::max<size_t>(1, all * outputs / kWeightsPerThread));
    sums.resize(parts * rows * outputs);
  }
};

// Whole rows of weights at a time, one after the other in memory as far as inputs spike: so they are read fastest.
template <typename Spike, typename Weight, typename Sum>
PMSM_INLINE void AddUp(Task<Spike, Weight, Sum>& task, size_t part) {
  for (size_t row = 0; row < task.rows; ++row) {
    const auto& events = task.events[row];
    const size_t begin = events.size() * part / task.parts, end = events.size() * (part + 1) / task.parts;
    for (size_t first = 0; first < task.outputs; first += kOutputs) {
      const size_t count = std::min(kOutputs, task.outputs - first);
      Sum* sums = task.sums.data() + (part * task.rows + row) * task.outputs + first;
      const Weight* weights = task.weights + first;
      size_t event = begin;
      for (; event + kTogether <= end; event += kTogether) {
        const Event<Sum>* four = events.data() + event;
        const Weight *a = weights + four[0].input * task.outputs, *b = weights + four[1].input * task.outputs;
        const Weight *c = weights + four[2].input * task.outputs, *d = weights + four[3].input * task.outputs;
        const Sum of_a = four[0].size, of_b = four[1].size, of_c = four[2].size, of_d = four[3].size;
        PMSM_INDEPENDENT
        for (size_t i = 0; i < count; ++i) {
          sums[i] += (static_cast<Sum>(a[i]) * of_a + static_cast<Sum>(b[i]) * of_b) +
                     (static_cast<Sum>(c[i]) * of_c + static_cast<Sum>(d[i]) * of_d);
        }
      }
      for (; event < end; ++event) {
        const Weight* a = weights + events[event].input * task.outputs;
        const Sum of_a = events[event].size;
        PMSM_INDEPENDENT
        for (size_t i = 0; i < count; ++i) sums[i] += static_cast<Sum>(a[i]) * of_a;
      }
    }
  }
}

using Floats = Task<float, float, float>;
using Integers = Task<uint8_t, int8_t, int32_t>;

PMSM_WIDER_VECTORS void Work(Floats& task, size_t part) { AddUp(task, part); }
PMSM_WIDER_VECTORS void Work(Integers& task, size_t part) { AddUp(task, part); }

// `scale` has one element, or one for each output.
template <typename AnyTask>
void Finish(const Ort& ort, OrtKernelContext* context, AnyTask& task, const float* scale, size_t scales,
            const Input<float>& bias) {
  for (const auto& [count, name] : {std::pair{bias.Count(), "bias"}, std::pair{scales, "scale"}}) {
    if (count != task.outputs && (count != 1 || name[0] == 'b')) {
      throw Failure("a " + std::string(name) + " of " + std::to_string(count) + " elements does not fit " +
                    std::to_string(task.outputs) + " outputs");
    }
  }
  float* y = OutputAt(ort, context, 0, {static_cast<int64_t>(task.rows), static_cast<int64_t>(task.outputs)});
  if (task.parts == 1) {
    Work(task, 0);
  } else {
    OnThreads(ort, context, task.parts, [&](size_t index) { Work(task, index); });
  }
  const size_t all = task.rows * task.outputs;
  for (size_t index = 1; index < task.parts; ++index) {
    for (size_t i = 0; i < all; ++i) task.sums[i] += task.sums[index * all + i];
  }
  for (size_t row = 0; row < task.rows; ++row) {
    for (size_t i = 0; i < task.outputs; ++i) {
      const size_t at = row * task.outputs + i;
      y[at] = static_cast<float>(task.sums[at]) * scale[scales == 1 ? 0 : i] + bias.data[i];
    }
  }
}

void ComputeFloats(const Ort& ort, const Nothing&, OrtKernelContext* context) {
  Floats task(InputAt(ort, context, 0), InputAt(ort, context, 1), 0.0f);
  const float one = 1.0f;
  Finish(ort, context, task, &one, 1, InputAt(ort, context, 2));
}

void ComputeIntegers(const Ort& ort, const Nothing&, OrtKernelContext* context) {
  const auto zero = InputAt<uint8_t>(ort, context, 2);
  if (zero.Count() != 1) throw Failure("zero must have one element, but its shape is " + Text(zero.shape));
  Integers task(InputAt<uint8_t>(ort, context, 0), InputAt<int8_t>(ort, context, 1), *zero.data);
  const auto scale = InputAt(ort, context, 3);
  Finish(ort, context, task, scale.data, scale.Count(), InputAt(ort, context, 4));
}

// The output has another shape than the first input.
Operator WithoutShape(Operator op) {
  op.InferOutputShapeFn = nullptr;
  return op;
}

}  // namespace

void AddEventProducts(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator floats = WithoutShape(
      MakeOperator<Nothing, &ComputeFloats>(api, "EventProduct", {kFloat, kFloat, kFloat}, {kFloat}));
  static const Operator integers = WithoutShape(MakeOperator<Nothing, &ComputeIntegers>(
      api, "EventProductInteger", {kUint8, kInt8, kUint8, kFloat, kFloat}, {kFloat}));
  for (const Operator* each : {&floats, &integers}) Check(ort.CustomOpDomain_Add(domain, each));
}

}  // namespace pmsm

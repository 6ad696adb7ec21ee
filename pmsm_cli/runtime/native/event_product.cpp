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
#include <vector>

#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

// Outputs that a thread adds up at a time: their sums stay in the nearest cache.
constexpr size_t kOutputs = 4096;
// Below this many weights waking another thread costs more than it saves.
constexpr size_t kWeightsPerThread = 65536;
// Inputs that are added in one pass over the sums.
constexpr size_t kTogether = 4;
constexpr size_t kAhead = 1024;

// An input that spiked, and how much.
template <typename Sum>
struct Event {
  size_t input;
  Sum size;
};

template <typename Spike, typename Weight, typename Sum>
struct Task {
  const Weight* weights;
  size_t rows, inputs, outputs;
  std::vector<std::vector<Event<Sum>>> events;  // of each row
  const float *scale, *bias;                    // scale: null for 1
  bool one_scale;
  float* y;

  Task(const Input<Spike>& spikes, const Input<Weight>& given, Sum zero)
      : weights(given.data), scale(nullptr), bias(nullptr), one_scale(true), y(nullptr) {
    if (spikes.shape.size() != 2 || given.shape.size() != 2 || spikes.shape[1] != given.shape[0]) {
      throw Failure("spikes of shape " + Text(spikes.shape) + " do not fit weights of shape " + Text(given.shape));
    }
    rows = static_cast<size_t>(spikes.shape[0]);
    inputs = static_cast<size_t>(spikes.shape[1]);
    outputs = static_cast<size_t>(given.shape[1]);
    events.resize(rows);
    for (size_t row = 0; row < rows; ++row) {
      for (size_t input = 0; input < inputs; ++input) {
        const Sum size = static_cast<Sum>(spikes.data[row * inputs + input]) - zero;
        if (size != Sum{0}) events[row].push_back({input, size});
      }
    }
  }
};

template <typename Spike, typename Weight, typename Sum>
PMSM_INLINE void AddUp(const Task<Spike, Weight, Sum>& task, size_t begin, size_t end) {
  Sum sums[kOutputs];
  for (size_t first = begin; first < end; first += kOutputs) {
    const size_t count = std::min(kOutputs, end - first);
    for (size_t row = 0; row < task.rows; ++row) {
      const auto& events = task.events[row];
      std::fill_n(sums, count, Sum{0});
      size_t event = 0;
      for (; event + kTogether <= events.size(); event += kTogether) {
        const Event<Sum>* four = events.data() + event;
        const Weight *a = task.weights + four[0].input * task.outputs + first;
        const Weight *b = task.weights + four[1].input * task.outputs + first;
        const Weight *c = task.weights + four[2].input * task.outputs + first;
        const Weight *d = task.weights + four[3].input * task.outputs + first;
        for (size_t next = event + kTogether; next < std::min(event + 2 * kTogether, events.size()); ++next) {
          const char* row_of = reinterpret_cast<const char*>(task.weights + events[next].input * task.outputs + first);
          for (size_t at = 0; at < std::min<size_t>(kAhead, count * sizeof(Weight)); at += 64) __builtin_prefetch(row_of + at);
        }
        const Sum of_a = four[0].size, of_b = four[1].size, of_c = four[2].size, of_d = four[3].size;
        PMSM_INDEPENDENT
        for (size_t i = 0; i < count; ++i) {
          sums[i] += (static_cast<Sum>(a[i]) * of_a + static_cast<Sum>(b[i]) * of_b) +
                     (static_cast<Sum>(c[i]) * of_c + static_cast<Sum>(d[i]) * of_d);
        }
      }
      for (; event < events.size(); ++event) {
        const Weight* a = task.weights + events[event].input * task.outputs + first;
        const Sum of_a = events[event].size;
        PMSM_INDEPENDENT
        for (size_t i = 0; i < count; ++i) sums[i] += static_cast<Sum>(a[i]) * of_a;
      }
      float* y = task.y + row * task.outputs + first;
      for (size_t i = 0; i < count; ++i) {
        const float scale = task.scale ? task.scale[task.one_scale ? 0 : first + i] : 1.0f;
        y[i] = static_cast<float>(sums[i]) * scale + task.bias[first + i];
      }
    }
  }
}

using Floats = Task<float, float, float>;
using Integers = Task<uint8_t, int8_t, int32_t>;

PMSM_WIDER_VECTORS void Work(const Floats& task, size_t begin, size_t end) { AddUp(task, begin, end); }
PMSM_WIDER_VECTORS void Work(const Integers& task, size_t begin, size_t end) { AddUp(task, begin, end); }

struct Nothing {
  Nothing(const Ort&, const OrtKernelInfo*) {}
};

template <typename AnyTask>
void Finish(const Ort& ort, OrtKernelContext* context, AnyTask& task, const Input<float>& bias) {
  if (bias.Count() != task.outputs) {
    throw Failure("a bias of shape " + Text(bias.shape) + " does not fit " + std::to_string(task.outputs) + " outputs");
  }
  task.bias = bias.data;
  task.y = OutputAt(ort, context, 0, {static_cast<int64_t>(task.rows), static_cast<int64_t>(task.outputs)});
  if (task.rows == 0) return;
  size_t read = 1;
  for (const auto& events : task.events) read += events.size();
  InParallel<AnyTask, &Work>(ort, context, task, task.outputs, std::max<size_t>(64, kWeightsPerThread / read));
}

void ComputeFloats(const Ort& ort, const Nothing&, OrtKernelContext* context) {
  Floats task(InputAt(ort, context, 0), InputAt(ort, context, 1), 0.0f);
  Finish(ort, context, task, InputAt(ort, context, 2));
}

void ComputeIntegers(const Ort& ort, const Nothing&, OrtKernelContext* context) {
  const auto zero = InputAt<uint8_t>(ort, context, 2);
  if (zero.Count() != 1) throw Failure("zero must have one element, but its shape is " + Text(zero.shape));
  Integers task(InputAt<uint8_t>(ort, context, 0), InputAt<int8_t>(ort, context, 1), *zero.data);
  const auto scale = InputAt(ort, context, 3);
  if (scale.Count() != 1 && scale.Count() != task.outputs) {
    throw Failure("a scale of shape " + Text(scale.shape) + " does not fit " + std::to_string(task.outputs) + " outputs");
  }
  task.scale = scale.data;
  task.one_scale = scale.Count() == 1;
  Finish(ort, context, task, InputAt(ort, context, 4));
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

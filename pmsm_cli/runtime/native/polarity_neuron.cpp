// The polarity multi-spike neuron as onnxruntime operators of the domain `ai.pmsm`.
//
//   PolarityNeuron(value, threshold) -> spikes                                          the first timestep
//   PolarityNeuronStep(value, threshold, emitted, horizon, quantum) -> (spikes, emitted_now)    any later one
//
// `pmsm_cli/neuron/reference.py` is the specification: the same operations in the same order, each rounded once to
// float32, so that the numbers are the same bit for bit. A checkpoint carries both operators as functions made of
// standard operators too; onnxruntime prefers the ones registered here.

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "ort_abi.h"

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "the neuron needs IEEE arithmetic: build without -ffast-math and -ffinite-math-only"
#endif
static_assert(FLT_EVAL_METHOD == 0, "the neuron needs float arithmetic in float32");

// One build for every processor: the loops are compiled again for wider vectors, and the loader picks. It takes a C
// library with indirect functions. The sanitizers instrument the picking, which runs before they are ready.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute) && !defined(__SANITIZE_ADDRESS__)
#if __has_attribute(target_clones)
#define PMSM_WIDER_VECTORS __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef PMSM_WIDER_VECTORS
#define PMSM_WIDER_VECTORS
#endif

// Promises that no element depends on another one, which holds even where onnxruntime computes in place.
#if defined(__clang__)
#define PMSM_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define PMSM_INDEPENDENT _Pragma("GCC ivdep")
#elif defined(_MSC_VER)
#define PMSM_INDEPENDENT __pragma(loop(ivdep))
#else
#define PMSM_INDEPENDENT
#endif

#if defined(_MSC_VER)
#define PMSM_INLINE __forceinline
#else
#define PMSM_INLINE inline __attribute__((always_inline))
#endif

namespace {

// ---------------------------------------------------------------------------------------------------- arithmetic

// One call of an operator. Element i has the threshold `threshold[(i / inner) % channels]`.
struct Task {
  const float* value;
  const float* threshold;
  const float* emitted;  // null at the first timestep, as is emitted_now
  float* spikes;
  float* emitted_now;
  float horizon, quantum;
  float lowest, highest;
  size_t count, channels, inner;
};

// To the nearest whole number, ties to the even one. SSE2 has no instruction for it, but float addition rounds this
// way: at 2^23 and above floats are whole numbers, and adding 2^23 leaves no room for a fraction.
PMSM_INLINE float RoundHalfEven(float x) {
  const float whole = 8388608.0f;
  const float shift = std::copysign(whole, x);
  const float rounded = (x + shift) - shift;
  return std::fabs(x) < whole ? rounded : x;
}

// The bounds are whole numbers, so that clipping before rounding gives the same count as after it, and is cheaper.
PMSM_INLINE float Emit(float wanted, float lowest, float highest) {
  const float raised = wanted > lowest ? wanted : lowest;
  const float clipped = raised < highest ? raised : highest;
  const float spikes = RoundHalfEven(clipped);
  return wanted == wanted ? spikes : 0.0f;  // not a number: no spike
}

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

// Cuts a range into runs that the vector loop can take: one channel's plane, a row of channels, or, where both of
// these are too short to be worth it, a tile into which the thresholds are spread out first.
template <bool kLater>
PMSM_INLINE void EmitRange(const Task& task, size_t begin, size_t end) {
  constexpr size_t kWorthwhile = 16, kTile = 512;
  float tile[kTile];
  size_t channel = begin / task.inner % task.channels;
  size_t within = begin % task.inner;
  for (size_t at = begin, count = 0; at < end; at += count) {
    if (task.inner >= kWorthwhile) {
      count = std::min(end - at, task.inner - within);
      EmitRun<kLater, true>(task, task.threshold + channel, at, count);
      within = 0;
      channel = channel + 1 == task.channels ? 0 : channel + 1;
    } else if (task.inner == 1 && task.channels >= kWorthwhile) {
      count = std::min(end - at, task.channels - channel);
      EmitRun<kLater, false>(task, task.threshold + channel, at, count);
      channel = 0;
    } else {
      count = std::min(end - at, kTile);
      for (size_t i = 0; i < count; ++i) {
        tile[i] = task.threshold[channel];
        if (++within == task.inner) {
          within = 0;
          channel = channel + 1 == task.channels ? 0 : channel + 1;
        }
      }
      EmitRun<kLater, false>(task, tile, at, count);
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

void ComputePart(void* task_pointer, size_t part) {
  const Task& task = *static_cast<const Task*>(task_pointer);
  const size_t begin = part * kElementsPerThread;
  Compute(task, begin, std::min(task.count, begin + kElementsPerThread));
}

// ---------------------------------------------------------------------------------------------------- tensors

using Shape = std::vector<int64_t>;

// Carries onnxruntime's own status, or a message of ours, to the border of the C interface.
struct Failure : std::exception {
  explicit Failure(OrtStatus* theirs) : status(theirs) {}
  explicit Failure(std::string ours) : message(std::move(ours)) {}
  OrtStatus* status = nullptr;
  std::string message;
};

void Check(OrtStatus* status) {
  if (status) throw Failure(status);
}

// Runs a function that may throw, and turns what it throws into a status.
template <typename Function>
OrtStatus* Guard(const Ort& ort, Function&& function) noexcept {
  try {
    function();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status ? failure.status : ort.CreateStatus(ORT_INVALID_ARGUMENT, failure.message.c_str());
  } catch (const std::exception& error) {
    return ort.CreateStatus(ORT_FAIL, error.what());
  }
}

std::string Text(const Shape& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? "," : "") + std::to_string(size);
  return text + "]";
}

size_t Product(const Shape& shape, size_t begin, size_t end) {
  size_t product = 1;
  for (size_t axis = begin; axis < end; ++axis) product *= static_cast<size_t>(shape[axis]);
  return product;
}

Shape ShapeOf(const Ort& ort, const OrtTensorTypeAndShapeInfo* info) {
  size_t rank = 0;
  Check(ort.GetDimensionsCount(info, &rank));
  Shape shape(rank);
  Check(ort.GetDimensions(info, shape.data(), rank));
  return shape;
}

struct Input {
  const float* data;
  Shape shape;
};

Input InputAt(const Ort& ort, const OrtKernelContext* context, size_t index) {
  const OrtValue* value = nullptr;
  Check(ort.KernelContext_GetInput(context, index, &value));
  if (!value) throw Failure("input " + std::to_string(index) + " is missing");
  void* data = nullptr;
  Check(ort.GetTensorMutableData(const_cast<OrtValue*>(value), &data));  // only the interface asks for mutable
  OrtTensorTypeAndShapeInfo* info = nullptr;
  Check(ort.GetTensorTypeAndShape(value, &info));
  Shape shape;
  OrtStatus* status = Guard(ort, [&] { shape = ShapeOf(ort, info); });
  ort.ReleaseTensorTypeAndShapeInfo(info);
  Check(status);
  return {static_cast<const float*>(data), std::move(shape)};
}

float ScalarAt(const Ort& ort, const OrtKernelContext* context, size_t index, const char* name) {
  const Input input = InputAt(ort, context, index);
  if (Product(input.shape, 0, input.shape.size()) != 1) {
    throw Failure(std::string(name) + " must have one element, but its shape is " + Text(input.shape));
  }
  return *input.data;
}

float* OutputAt(const Ort& ort, OrtKernelContext* context, size_t index, const Shape& shape) {
  OrtValue* value = nullptr;
  Check(ort.KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
  if (!value) throw Failure("output " + std::to_string(index) + " is missing");
  void* data = nullptr;
  Check(ort.GetTensorMutableData(value, &data));
  return static_cast<float*>(data);
}

// The shape with ones before it until it has the rank, as broadcasting sees it.
Shape Widened(Shape shape, size_t rank) {
  if (shape.size() < rank) shape.insert(shape.begin(), rank - shape.size(), 1);
  return shape;
}

// Where the thresholds lie along the values, or false if they do not fit. The axes on which the thresholds differ must
// be neighbours and be the value's whole axes: none (one threshold), one (per channel), or more, up to a threshold for
// each value. Both shapes have the same rank.
bool LayOutThresholds(const Shape& value, const Shape& threshold, Task& task) {
  size_t first = 0, last = value.size();
  while (first < last && threshold[first] == 1) ++first;
  while (first < last && threshold[last - 1] == 1) --last;
  for (size_t axis = first; axis < last; ++axis) {
    if (threshold[axis] != value[axis]) return false;
  }
  task.channels = Product(value, first, last);
  task.inner = first == last ? task.count : Product(value, last, value.size());
  return true;
}

// ---------------------------------------------------------------------------------------------------- operators

struct Kernel {
  Ort ort;
  float lowest, highest;
};

template <bool kLater>
OrtStatus* PMSM_ORT_CALL ComputeKernel(void* kernel_pointer, OrtKernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(kernel_pointer);
  const Ort& ort = kernel.ort;
  return Guard(ort, [&] {
    const Input value = InputAt(ort, context, 0);
    const Input threshold = InputAt(ort, context, 1);
    const size_t rank = std::max(value.shape.size(), threshold.shape.size());
    const Shape shape = Widened(value.shape, rank);
    Task task{};
    task.value = value.data;
    task.threshold = threshold.data;
    task.lowest = kernel.lowest;
    task.highest = kernel.highest;
    task.count = Product(shape, 0, rank);
    if (!LayOutThresholds(shape, Widened(threshold.shape, rank), task)) {
      throw Failure("a threshold of shape " + Text(threshold.shape) + " does not fit a value of shape " +
                    Text(value.shape) + ": it must have one element, or the value's size on one axis (or on " +
                    "neighbouring axes) and 1 on the others");
    }
    if (kLater) {
      const Input emitted = InputAt(ort, context, 2);
      if (Widened(emitted.shape, rank) != shape) {
        throw Failure("emitted has shape " + Text(emitted.shape) + ", but the value has shape " + Text(value.shape));
      }
      task.emitted = emitted.data;
      task.horizon = ScalarAt(ort, context, 3, "horizon");
      task.quantum = ScalarAt(ort, context, 4, "quantum");
    }
    task.spikes = OutputAt(ort, context, 0, shape);
    if (kLater) task.emitted_now = OutputAt(ort, context, 1, shape);
    if (task.count == 0) return;
    if (task.count < 2 * kElementsPerThread) {
      Compute(task, 0, task.count);
    } else {
      const size_t parts = (task.count + kElementsPerThread - 1) / kElementsPerThread;
      Check(ort.KernelContext_ParallelFor(context, &ComputePart, parts, 0, &task));
    }
  });
}

OrtStatus* PMSM_ORT_CALL CreateKernel(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  const Ort ort(api);
  return Guard(ort, [&] {
    int64_t negative = 0, positive = 0;
    Check(ort.KernelInfoGetAttribute_int64(info, "negative_levels", &negative));
    Check(ort.KernelInfoGetAttribute_int64(info, "positive_levels", &positive));
    *kernel = new Kernel{ort, -static_cast<float>(negative), static_cast<float>(positive)};
  });
}

void PMSM_ORT_CALL DestroyKernel(void* kernel) { delete static_cast<Kernel*>(kernel); }

// Both operators, and the interface that made them.
struct Operator : OrtCustomOp {
  const OrtApi* api;
};

// Tells onnxruntime that the outputs have the value's shape, without which it knows nothing about the shapes of the
// network behind the neuron, and leaves optimizations undone.
template <size_t kOutputs>
OrtStatus* PMSM_ORT_CALL InferShapes(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const Ort ort(static_cast<const Operator*>(op)->api);
  OrtStatus* status = Guard(ort, [&] {
    OrtTensorTypeAndShapeInfo *value = nullptr, *threshold = nullptr;
    Check(ort.ShapeInferContext_GetInputTypeShape(context, 0, &value));
    Check(ort.ShapeInferContext_GetInputTypeShape(context, 1, &threshold));
    const Shape shape = ShapeOf(ort, value);
    // An unknown shape looks like a scalar's, and an unknown size without a name would be taken for a number.
    if (shape.empty() || ShapeOf(ort, threshold).size() > shape.size()) return;
    std::vector<const char*> names(shape.size());
    Check(ort.GetSymbolicDimensions(value, names.data(), names.size()));
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      if (shape[axis] < 0 && !(names[axis] && *names[axis])) return;
    }
    for (size_t output = 0; output < kOutputs; ++output) {
      Check(ort.ShapeInferContext_SetOutputTypeShape(context, output, value));
    }
  });
  // A shape that stays unknown is no failure, and onnxruntime would not release the status.
  if (status) ort.ReleaseStatus(status);
  return nullptr;
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
Operator MakeOperator(const OrtApi* api) {
  constexpr size_t kInputs = kLater ? 5 : 2, kOutputs = kLater ? 2 : 1;
  Operator op{};
  op.api = api;
  op.version = kOrtApiVersion;
  op.GetName = [](const OrtCustomOp*) { return kLater ? "PolarityNeuronStep" : "PolarityNeuron"; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // null: the CPU
  op.GetInputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.GetInputTypeCount = [](const OrtCustomOp*) { return kInputs; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) { return kOutputs; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  // Asked only of operators with variadic inputs or outputs, but never null in onnxruntime's own wrapper either.
  op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = &CreateKernel;
  op.KernelComputeV2 = &ComputeKernel<kLater>;
  op.KernelDestroy = &DestroyKernel;
  op.InferOutputShapeFn = &InferShapes<kOutputs>;
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return INT_MAX; };
  op.GetMayInplace = &MayComputeInPlace<kOutputs>;
  op.ReleaseMayInplace = [](int*, int*) {};
  return op;
}

}  // namespace

// What Python asks for before it trusts the file; counted up whenever the operators or their meaning change.
PMSM_EXPORT int pmsm_library_version() { return 1; }

// onnxruntime calls this once for each SessionOptions that the library is registered on.
PMSM_EXPORT OrtStatus* PMSM_ORT_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  // Too old an onnxruntime: nothing is registered, and the functions in the checkpoint do the work.
  if (!api) return nullptr;
  const Ort ort(api);
  return Guard(ort, [&] {
    // Sessions keep pointers to the operators, so that these and their domain are made once and never released.
    static const Operator neuron = MakeOperator<false>(api);
    static const Operator neuron_step = MakeOperator<true>(api);
    static OrtCustomOpDomain* const domain = [&ort] {
      OrtCustomOpDomain* made = nullptr;
      Check(ort.CreateCustomOpDomain("ai.pmsm", &made));
      Check(ort.CustomOpDomain_Add(made, &neuron));
      Check(ort.CustomOpDomain_Add(made, &neuron_step));
      return made;
    }();
    Check(ort.AddCustomOpDomain(options, domain));
  });
}

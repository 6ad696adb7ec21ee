// An operator as onnxruntime takes it, described by a table instead of a class of callbacks for each.

#ifndef PMSM_OPERATORS_H
#define PMSM_OPERATORS_H

#include <algorithm>
#include <atomic>
#include <climits>
#include <exception>
#include <utility>
#include <vector>

#include "ort_abi.h"
#include "tensors.h"

namespace pmsm {

using ElementType = ONNXTensorElementDataType;
constexpr ElementType kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ElementType kUint8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
constexpr ElementType kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
constexpr ElementType kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
constexpr ElementType kAny = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

// One operator and the interface that made it.
struct Operator : OrtCustomOp {
  const char* name;
  std::vector<ElementType> inputs, outputs;
  size_t required_inputs, required_outputs;  // a node may lack those behind them
  bool variadic = false;                     // a node may repeat the last input, each time with another type
  const OrtApi* api;
};

inline const Operator& Self(const OrtCustomOp* op) { return *static_cast<const Operator*>(op); }

// Tells onnxruntime that the outputs have the first input's shape and type, without which it knows nothing about the
// shapes of the network behind the operator, and leaves optimizations undone.
OrtStatus* PMSM_ORT_CALL InferShapes(const OrtCustomOp* op, OrtShapeInferContext* context);

// A kernel: what an operator read from a node's attributes, and the interface to call.
template <typename Attributes>
struct Kernel {
  Ort ort;
  Attributes attributes;
};

// Everything of an operator but its types. `Attributes` has a constructor from (Ort, OrtKernelInfo), and `compute` is
// called with them.
template <typename Attributes, void (*compute)(const Ort&, const Attributes&, OrtKernelContext*)>
Operator MakeOperator(const OrtApi* api, const char* name, std::vector<ElementType> inputs,
                      std::vector<ElementType> outputs) {
  Operator op{};
  op.name = name;
  op.inputs = std::move(inputs);
  op.outputs = std::move(outputs);
  op.required_inputs = op.inputs.size();
  op.required_outputs = op.outputs.size();
  op.api = api;
  op.version = kOrtApiVersion;
  op.GetName = [](const OrtCustomOp* self) { return Self(self).name; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // null: the CPU
  op.GetInputType = [](const OrtCustomOp* self, size_t index) { return Self(self).inputs[index]; };
  op.GetInputTypeCount = [](const OrtCustomOp* self) { return Self(self).inputs.size(); };
  op.GetOutputType = [](const OrtCustomOp* self, size_t index) { return Self(self).outputs[index]; };
  op.GetOutputTypeCount = [](const OrtCustomOp* self) { return Self(self).outputs.size(); };
  op.GetInputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    if (Self(self).variadic && index + 1 == Self(self).inputs.size()) return INPUT_OUTPUT_VARIADIC;
    return index < Self(self).required_inputs ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  op.GetOutputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    return index < Self(self).required_outputs ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  // Asked only of operators with variadic inputs.
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* table, const OrtKernelInfo* info, void** kernel) {
    const Ort ort(table);
    return Guard(ort, [&] { *kernel = new Kernel<Attributes>{ort, Attributes(ort, info)}; });
  };
  op.KernelComputeV2 = [](void* pointer, OrtKernelContext* context) {
    const auto& kernel = *static_cast<const Kernel<Attributes>*>(pointer);
    return Guard(kernel.ort, [&] { compute(kernel.ort, kernel.attributes, context); });
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel<Attributes>*>(kernel); };
  if (op.outputs[0] == op.inputs[0]) op.InferOutputShapeFn = &InferShapes;
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return INT_MAX; };
  return op;
}

// Lets onnxruntime give the first output the memory of an input, where they are of one size; and another output that of another.
template <int input = 0, int another = -1, int output_of_another = -1>
void MayTakeMemory(Operator& op) {
  op.GetMayInplace = [](int** from, int** to) -> size_t {
    static int taken[] = {input, another}, output[] = {0, output_of_another};
    *from = taken;
    *to = output;
    return another < 0 ? 1 : 2;
  };
  op.ReleaseMayInplace = [](int*, int*) {};
}

inline int64_t IntegerAttribute(const Ort& ort, const OrtKernelInfo* info, const char* name) {
  int64_t value = 0;
  Check(ort.KernelInfoGetAttribute_int64(info, name, &value));
  return value;
}

// Where a node may lack the attribute.
inline int64_t IntegerAttribute(const Ort& ort, const OrtKernelInfo* info, const char* name, int64_t otherwise) {
  OrtStatus* status = ort.KernelInfoGetAttribute_int64(info, name, &otherwise);
  if (status) ort.ReleaseStatus(status);
  return otherwise;
}

// What an operator keeps that reads nothing beforehand.
struct Nothing {
  Nothing(const Ort&, const OrtKernelInfo*) {}
};

// The counts between which a neuron's spikes stay.
struct Levels {
  float lowest, highest;

  Levels(const Ort& ort, const OrtKernelInfo* info)
      : lowest(-static_cast<float>(IntegerAttribute(ort, info, "negative_levels"))),
        highest(static_cast<float>(IntegerAttribute(ort, info, "positive_levels"))) {}
};

// Calls work(0) ... work(count - 1) on the session's threads. Nothing may be thrown through these; what one throws comes here.
template <typename Function>
void OnThreads(const Ort& ort, const OrtKernelContext* context, size_t count, const Function& work) {
  struct All {
    const Function& work;
    std::atomic_flag failed = ATOMIC_FLAG_INIT;
    std::exception_ptr first = nullptr;
  } all{work};
  const auto one = [](void* pointer, size_t index) {
    All& each = *static_cast<All*>(pointer);
    try {
      each.work(index);
    } catch (...) {
      if (!each.failed.test_and_set()) each.first = std::current_exception();
    }
  };
  Check(ort.KernelContext_ParallelFor(context, one, count, 0, &all));
  if (all.first) std::rethrow_exception(all.first);
}

// Work on elements begin to end of a task, cut into parts for the session's threads where there is enough of it.
template <typename Task, void (*work)(const Task&, size_t, size_t)>
void InParallel(const Ort& ort, const OrtKernelContext* context, const Task& task, size_t count, size_t per_thread) {
  const size_t parts = count / per_thread;
  if (parts < 2) {
    if (count) work(task, 0, count);
    return;
  }
  const size_t size = (count + parts - 1) / parts;
  OnThreads(ort, context, parts, [&](size_t index) {
    const size_t begin = std::min(count, index * size);
    work(task, begin, std::min(count, begin + size));
  });
}

// The operators of each file, put into the domain.
void AddPolarityNeurons(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain);
void AddSpikeCodes(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain);
void AddSoftmaxCodes(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain);
void AddNeuronSteps(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain);
void AddEventProducts(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain);
void AddConvolutions(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain);
void AddConvolutionSteps(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain);
void AddImageCodes(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain);
void AddSpikeCounts(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain);
void AddSiteCounts(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain);

}  // namespace pmsm

#endif

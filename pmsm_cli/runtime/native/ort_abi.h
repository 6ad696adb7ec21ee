// The slice of onnxruntime's C interface that our operators need.
//
// No package registry carries onnxruntime's own headers, and an install must not fetch files from elsewhere. The C
// interface is a stable ABI: the table of functions (OrtApi) only grows, so that a function keeps its position for
// ever, and OrtCustomOp only grows at its end, guarded by its version field. This header declares those positions and
// that layout; names and order are onnxruntime's (onnxruntime_c_api.h, version 20, and what is said to be of a later one).

#ifndef PMSM_ORT_ABI_H
#define PMSM_ORT_ABI_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(_WIN32)
#define PMSM_ORT_CALL __stdcall
#define PMSM_EXPORT extern "C" __declspec(dllexport)
#else
#define PMSM_ORT_CALL
#define PMSM_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Handles that belong to onnxruntime; we only ever hold pointers to them.
struct OrtApi;
struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

constexpr uint32_t kOrtApiVersion = 20;  // onnxruntime 1.20, the oldest that we ask for
constexpr long kShowsShapes = 24;  // the 1.x from which on a tensor's shape is given without making an object for it

struct OrtApiBase {
  const OrtApi*(PMSM_ORT_CALL* GetApi)(uint32_t version);  // null where this onnxruntime is older than the version
  const char*(PMSM_ORT_CALL* GetVersionString)();
};

enum OrtErrorCode : int { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum OrtMemType : int { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType : int {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 = 3,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 = 6
};
enum OrtCustomOpInputOutputCharacteristic : int {
  INPUT_OUTPUT_REQUIRED = 0,
  INPUT_OUTPUT_OPTIONAL = 1,
  INPUT_OUTPUT_VARIADIC = 2
};

struct OrtCustomOp {
  uint32_t version;
  void*(PMSM_ORT_CALL* CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char*(PMSM_ORT_CALL* GetName)(const OrtCustomOp*);
  const char*(PMSM_ORT_CALL* GetExecutionProviderType)(const OrtCustomOp*);
  ONNXTensorElementDataType(PMSM_ORT_CALL* GetInputType)(const OrtCustomOp*, size_t index);
  size_t(PMSM_ORT_CALL* GetInputTypeCount)(const OrtCustomOp*);
  ONNXTensorElementDataType(PMSM_ORT_CALL* GetOutputType)(const OrtCustomOp*, size_t index);
  size_t(PMSM_ORT_CALL* GetOutputTypeCount)(const OrtCustomOp*);
  void(PMSM_ORT_CALL* KernelCompute)(void* kernel, OrtKernelContext*);
  void(PMSM_ORT_CALL* KernelDestroy)(void* kernel);
  OrtCustomOpInputOutputCharacteristic(PMSM_ORT_CALL* GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtCustomOpInputOutputCharacteristic(PMSM_ORT_CALL* GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtMemType(PMSM_ORT_CALL* GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int(PMSM_ORT_CALL* GetVariadicInputMinArity)(const OrtCustomOp*);
  int(PMSM_ORT_CALL* GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int(PMSM_ORT_CALL* GetVariadicOutputMinArity)(const OrtCustomOp*);
  int(PMSM_ORT_CALL* GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus*(PMSM_ORT_CALL* CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus*(PMSM_ORT_CALL* KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus*(PMSM_ORT_CALL* InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int(PMSM_ORT_CALL* GetStartVersion)(const OrtCustomOp*);
  int(PMSM_ORT_CALL* GetEndVersion)(const OrtCustomOp*);
  size_t(PMSM_ORT_CALL* GetMayInplace)(int** input_index, int** output_index);
  void(PMSM_ORT_CALL* ReleaseMayInplace)(int* input_index, int* output_index);
  size_t(PMSM_ORT_CALL* GetAliasMap)(int** input_index, int** output_index);
  void(PMSM_ORT_CALL* ReleaseAliasMap)(int* input_index, int* output_index);
};
static_assert(offsetof(OrtCustomOp, ReleaseAliasMap) == 25 * sizeof(void*), "OrtCustomOp has onnxruntime's layout");

// OrtApi, seen as what it is in memory: an array of function pointers, each called with the type that belongs to its
// position. Everything that returns an OrtStatus returns null when it succeeds.
class Ort {
 public:
  explicit Ort(const OrtApi* table) : functions_(reinterpret_cast<const Function*>(table)) {}

  // Finds out what this onnxruntime, whose tables are all beginnings of one, has beyond the oldest version: by its name,
  // since it complains aloud when it is asked for a table that it does not have.
  static void Meet(const OrtApiBase* base) {
#ifndef PMSM_PORTABLE
    char* rest = nullptr;
    const long major = std::strtol(base->GetVersionString(), &rest, 10), minor = *rest == '.' ? std::strtol(rest + 1, nullptr, 10) : 0;
    shows_shapes_ = major > 1 || (major == 1 && minor >= kShowsShapes);
#endif
  }

  OrtStatus* CreateStatus(OrtErrorCode code, const char* message) const {
    return At<OrtStatus*(OrtErrorCode, const char*)>(0)(code, message);
  }
  void ReleaseStatus(OrtStatus* status) const { At<void(OrtStatus*)>(93)(status); }

  OrtStatus* CreateCustomOpDomain(const char* name, OrtCustomOpDomain** out) const {
    return At<OrtStatus*(const char*, OrtCustomOpDomain**)>(26)(name, out);
  }
  OrtStatus* CustomOpDomain_Add(OrtCustomOpDomain* domain, const OrtCustomOp* op) const {
    return At<OrtStatus*(OrtCustomOpDomain*, const OrtCustomOp*)>(27)(domain, op);
  }
  OrtStatus* AddCustomOpDomain(OrtSessionOptions* options, OrtCustomOpDomain* domain) const {
    return At<OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)>(28)(options, domain);
  }

  OrtStatus* GetTensorMutableData(OrtValue* value, void** out) const {
    return At<OrtStatus*(OrtValue*, void**)>(51)(value, out);
  }
  OrtStatus* GetTensorElementType(const OrtTensorTypeAndShapeInfo* info, ONNXTensorElementDataType* out) const {
    return At<OrtStatus*(const OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType*)>(60)(info, out);
  }
  OrtStatus* GetDimensionsCount(const OrtTensorTypeAndShapeInfo* info, size_t* out) const {
    return At<OrtStatus*(const OrtTensorTypeAndShapeInfo*, size_t*)>(61)(info, out);
  }
  OrtStatus* GetDimensions(const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t count) const {
    return At<OrtStatus*(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)>(62)(info, out, count);
  }
  OrtStatus* GetSymbolicDimensions(const OrtTensorTypeAndShapeInfo* info, const char** out, size_t count) const {
    return At<OrtStatus*(const OrtTensorTypeAndShapeInfo*, const char**, size_t)>(63)(info, out, count);
  }
  OrtStatus* GetTensorTypeAndShape(const OrtValue* value, OrtTensorTypeAndShapeInfo** out) const {
    return At<OrtStatus*(const OrtValue*, OrtTensorTypeAndShapeInfo**)>(65)(value, out);
  }
  void ReleaseTensorTypeAndShapeInfo(OrtTensorTypeAndShapeInfo* info) const {
    At<void(OrtTensorTypeAndShapeInfo*)>(99)(info);
  }

  // Where shapes can be seen; the tensor owns what this gives out.
  bool ShowsShapes() const { return shows_shapes_; }
  OrtStatus* GetTensorElementTypeAndShapeDataReference(const OrtValue* value, ONNXTensorElementDataType* type,
                                                       const int64_t** dims, size_t* rank) const {
    return At<OrtStatus*(const OrtValue*, ONNXTensorElementDataType*, const int64_t**, size_t*)>(414)(value, type, dims, rank);
  }

  OrtStatus* KernelInfoGetAttribute_int64(const OrtKernelInfo* info, const char* name, int64_t* out) const {
    return At<OrtStatus*(const OrtKernelInfo*, const char*, int64_t*)>(86)(info, name, out);
  }
  // The info owns what this gives out; null where the input is no constant.
  OrtStatus* KernelInfoGetConstantInput_tensor(const OrtKernelInfo* info, size_t index, int* is_constant,
                                               const OrtValue** out) const {
    return At<OrtStatus*(const OrtKernelInfo*, size_t, int*, const OrtValue**)>(249)(info, index, is_constant, out);
  }
  OrtStatus* KernelContext_GetInputCount(const OrtKernelContext* context, size_t* out) const {
    return At<OrtStatus*(const OrtKernelContext*, size_t*)>(88)(context, out);
  }
  OrtStatus* KernelContext_GetInput(const OrtKernelContext* context, size_t index, const OrtValue** out) const {
    return At<OrtStatus*(const OrtKernelContext*, size_t, const OrtValue**)>(90)(context, index, out);
  }
  OrtStatus* KernelContext_GetOutput(OrtKernelContext* context, size_t index, const int64_t* dims, size_t rank,
                                     OrtValue** out) const {
    return At<OrtStatus*(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>(91)(context, index, dims,
                                                                                             rank, out);
  }
  // Calls task(data, 0) ... task(data, total - 1) on the session's threads; batches = 0 leaves the cut to them.
  OrtStatus* KernelContext_ParallelFor(const OrtKernelContext* context, void (*task)(void*, size_t), size_t total,
                                       size_t batches, void* data) const {
    return At<OrtStatus*(const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(
        context, task, total, batches, data);
  }

  // The context owns what this gives out.
  OrtStatus* ShapeInferContext_GetInputTypeShape(const OrtShapeInferContext* context, size_t index,
                                                 OrtTensorTypeAndShapeInfo** out) const {
    return At<OrtStatus*(const OrtShapeInferContext*, size_t, OrtTensorTypeAndShapeInfo**)>(268)(context, index, out);
  }
  OrtStatus* ShapeInferContext_SetOutputTypeShape(const OrtShapeInferContext* context, size_t index,
                                                  const OrtTensorTypeAndShapeInfo* info) const {
    return At<OrtStatus*(const OrtShapeInferContext*, size_t, const OrtTensorTypeAndShapeInfo*)>(270)(context, index,
                                                                                                       info);
  }

 private:
  using Function = void (*)();

  template <typename Signature>
  struct Convention;
  template <typename Result, typename... Arguments>
  struct Convention<Result(Arguments...)> {
    using Pointer = Result(PMSM_ORT_CALL*)(Arguments...);
  };

  template <typename Signature>
  typename Convention<Signature>::Pointer At(size_t position) const {
    return reinterpret_cast<typename Convention<Signature>::Pointer>(functions_[position]);
  }

  const Function* functions_;
  inline static std::atomic<bool> shows_shapes_{false};
};

#endif

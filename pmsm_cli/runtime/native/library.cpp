// What onnxruntime and Python look up in the library: its registration and its version.

#include "operators.h"
#include "ort_abi.h"
#include "processor.h"
#include "tensors.h"

namespace pmsm {

// An unknown shape looks like a scalar's, and an unknown size without a name would be taken for a number. Further
// inputs of a higher rank (thresholds) would widen the output.
OrtStatus* PMSM_ORT_CALL InferShapes(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const Operator& self = Self(op);
  const Ort ort(self.api);
  OrtStatus* status = Guard(ort, [&] {
    OrtTensorTypeAndShapeInfo *value = nullptr, *other = nullptr;
    Check(ort.ShapeInferContext_GetInputTypeShape(context, 0, &value));
    Check(ort.ShapeInferContext_GetInputTypeShape(context, 1, &other));
    const Shape shape = ShapeOf(ort, value);
    if (shape.empty() || ShapeOf(ort, other).size() > shape.size()) return;
    std::vector<const char*> names(shape.size());
    Check(ort.GetSymbolicDimensions(value, names.data(), names.size()));
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      if (shape[axis] < 0 && !(names[axis] && *names[axis])) return;
    }
    for (size_t output = 0; output < self.required_outputs; ++output) {
      Check(ort.ShapeInferContext_SetOutputTypeShape(context, output, value));
    }
  });
  // A shape that stays unknown is no failure, and onnxruntime would not release the status.
  if (status) ort.ReleaseStatus(status);
  return nullptr;
}

}  // namespace pmsm

// What Python asks for before it trusts the file; counted up whenever the operators or their meaning change.
PMSM_EXPORT int pmsm_library_version() { return 13; }

// How fast products of bytes are on this processor: 0: not worth taking from onnxruntime; 1: they are; 2: three of them, of
// weights in slices, take less time than one of floats.
PMSM_EXPORT int pmsm_multiplies_fast() { return pmsm::HasVnni() ? 2 : pmsm::MultipliesFast() ? 1 : 0; }

// onnxruntime calls this once for each SessionOptions that the library is registered on.
PMSM_EXPORT OrtStatus* PMSM_ORT_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  // Too old an onnxruntime: nothing is registered, and the functions in the checkpoint do the work.
  if (!api) return nullptr;
  Ort::Meet(base);
  const Ort ort(api);
  return pmsm::Guard(ort, [&] {
    // Sessions keep pointers to the operators, so that these and their domain are made once and never released.
    static OrtCustomOpDomain* const domain = [&ort, api] {
      OrtCustomOpDomain* made = nullptr;
      pmsm::Check(ort.CreateCustomOpDomain("ai.pmsm", &made));
      pmsm::AddPolarityNeurons(ort, api, made);
      pmsm::AddSpikeCodes(ort, api, made);
      pmsm::AddSoftmaxCodes(ort, api, made);
      pmsm::AddNeuronSteps(ort, api, made);
      pmsm::AddEventProducts(ort, api, made);
      pmsm::AddConvolutions(ort, api, made);
      pmsm::AddConvolutionSteps(ort, api, made);
      pmsm::AddImageCodes(ort, api, made);
      pmsm::AddSpikeCounts(ort, api, made);
      pmsm::AddSiteCounts(ort, api, made);
      return made;
    }();
    pmsm::Check(ort.AddCustomOpDomain(options, domain));
  });
}

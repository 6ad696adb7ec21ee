// Tensors as onnxruntime hands them to operators, and failures on their way back to it.

#ifndef PMSM_TENSORS_H
#define PMSM_TENSORS_H

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "ort_abi.h"

namespace pmsm {

using Shape = std::vector<int64_t>;

// Carries onnxruntime's own status, or a message of ours, to the border of the C interface.
struct Failure : std::exception {
  explicit Failure(OrtStatus* theirs) : status(theirs) {}
  explicit Failure(std::string ours) : message(std::move(ours)) {}
  OrtStatus* status = nullptr;
  std::string message;
};

inline void Check(OrtStatus* status) {
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

inline std::string Text(const Shape& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? "," : "") + std::to_string(size);
  return text + "]";
}

inline size_t Product(const Shape& shape, size_t begin, size_t end) {
  size_t product = 1;
  for (size_t axis = begin; axis < end; ++axis) product *= static_cast<size_t>(shape[axis]);
  return product;
}

inline Shape ShapeOf(const Ort& ort, const OrtTensorTypeAndShapeInfo* info) {
  size_t rank = 0;
  Check(ort.GetDimensionsCount(info, &rank));
  Shape shape(rank);
  Check(ort.GetDimensions(info, shape.data(), rank));
  return shape;
}

template <typename Element>
struct Input {
  const Element* data;  // may be null where there are no elements
  Shape shape;
  bool there = true;

  size_t Count() const { return Product(shape, 0, shape.size()); }
};

// `type`, where it is wanted: what the elements are.
template <typename Element>
Input<Element> InputOf(const Ort& ort, const OrtValue* value, ONNXTensorElementDataType* type = nullptr) {
  void* data = nullptr;
  Check(ort.GetTensorMutableData(const_cast<OrtValue*>(value), &data));  // only the interface asks for mutable
  if (ort.ShowsShapes()) {
    ONNXTensorElementDataType found{};
    const int64_t* sizes = nullptr;
    size_t rank = 0;
    Check(ort.GetTensorElementTypeAndShapeDataReference(value, &found, &sizes, &rank));
    if (type) *type = found;
    return {static_cast<const Element*>(data), Shape(sizes, sizes + rank), true};
  }
  OrtTensorTypeAndShapeInfo* info = nullptr;
  Check(ort.GetTensorTypeAndShape(value, &info));
  Shape shape;
  OrtStatus* status = Guard(ort, [&] {
    shape = ShapeOf(ort, info);
    if (type) Check(ort.GetTensorElementType(info, type));
  });
  ort.ReleaseTensorTypeAndShapeInfo(info);
  Check(status);
  return {static_cast<const Element*>(data), std::move(shape), true};
}

template <typename Element = float>
Input<Element> InputAt(const Ort& ort, const OrtKernelContext* context, size_t index, ONNXTensorElementDataType* type = nullptr) {
  const OrtValue* value = nullptr;
  Check(ort.KernelContext_GetInput(context, index, &value));
  if (!value) throw Failure("input " + std::to_string(index) + " is missing");
  return InputOf<Element>(ort, value, type);
}

// Not there where the node does not have the input.
template <typename Element>
Input<Element> OptionalInputAt(const Ort& ort, const OrtKernelContext* context, size_t index) {
  size_t count = 0;
  Check(ort.KernelContext_GetInputCount(context, &count));
  const OrtValue* value = nullptr;
  if (index < count) Check(ort.KernelContext_GetInput(context, index, &value));
  return value ? InputOf<Element>(ort, value) : Input<Element>{nullptr, {}, false};
}

// The elements of an input that must be constant.
template <typename Element>
std::vector<Element> ConstantAt(const Ort& ort, const OrtKernelInfo* info, size_t index) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  Check(ort.KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  if (!is_constant || !value) throw Failure("input " + std::to_string(index) + " must be constant");
  const Input<Element> input = InputOf<Element>(ort, value);
  return std::vector<Element>(input.data, input.data + input.Count());
}

inline float ScalarAt(const Ort& ort, const OrtKernelContext* context, size_t index, const char* name) {
  const Input<float> input = InputAt(ort, context, index);
  if (input.Count() != 1) {
    throw Failure(std::string(name) + " must have one element, but its shape is " + Text(input.shape));
  }
  return *input.data;
}

// Null where the node does not have the output.
template <typename Element = float>
Element* OptionalOutputAt(const Ort& ort, OrtKernelContext* context, size_t index, const Shape& shape) {
  OrtValue* value = nullptr;
  Check(ort.KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
  if (!value) return nullptr;
  void* data = nullptr;
  Check(ort.GetTensorMutableData(value, &data));
  return static_cast<Element*>(data);
}

template <typename Element = float>
Element* OutputAt(const Ort& ort, OrtKernelContext* context, size_t index, const Shape& shape) {
  Element* data = OptionalOutputAt<Element>(ort, context, index, shape);
  if (!data && Product(shape, 0, shape.size())) throw Failure("output " + std::to_string(index) + " is missing");
  return data;
}

// The shape with ones before it until it has the rank, as broadcasting sees it.
inline Shape Widened(Shape shape, size_t rank) {
  if (shape.size() < rank) shape.insert(shape.begin(), rank - shape.size(), 1);
  return shape;
}

// Where numbers lie along a value: element i has number (i / inner) % channels.
struct Lie {
  size_t channels, inner;
};

// The axes on which the numbers differ must be neighbours and be the value's whole axes: none (one number), one (per
// channel), or more, up to a number for each element. False: they do not fit.
inline bool LayAlong(const Shape& value, const Shape& numbers, Lie& lie) {
  const size_t rank = value.size();
  if (numbers.size() > rank) return false;
  const Shape shape = Widened(numbers, rank);
  size_t first = 0, last = rank;
  while (first < last && shape[first] == 1) ++first;
  while (first < last && shape[last - 1] == 1) --last;
  for (size_t axis = first; axis < last; ++axis) {
    if (shape[axis] != value[axis]) return false;
  }
  lie = {Product(value, first, last), Product(value, first == last ? 0 : last, rank)};
  return true;
}

}  // namespace pmsm

#endif

// Spikes as unsigned 8-bit codes, and numbers for each channel beside them.

#ifndef PMSM_CODES_H
#define PMSM_CODES_H

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {

// ---------------------------------------------------------------------------------------------------- channels

// A number for each channel, or one for all; where channels are neighbours it is laid out as loops read it beside the
// elements: over and over, so that a run of kRun elements may begin with any channel.
template <typename Element>
class PerChannel {
 public:
  explicit PerChannel(std::vector<Element> values) : size_(values.size()), values_(std::move(values)) {
    if (size_ < 2) return;
    values_.resize(size_ * (2 + kRun / size_));
    for (size_t at = size_; at < values_.size(); at += size_) std::copy_n(values_.begin(), size_, values_.begin() + at);
  }

  size_t Size() const { return size_; }
  Element Of(size_t channel) const { return values_[size_ == 1 ? 0 : channel]; }
  // Of the channels from this one on, wrapping around.
  const Element* From(size_t channel) const { return values_.data() + channel; }

 private:
  size_t size_;
  std::vector<Element> values_;
};

// Constants of a node as numbers for each channel; one number is repeated where the node has several channels.
template <typename Element, typename Given>
PerChannel<Element> Constants(const std::vector<Given>& given, size_t channels, const char* name) {
  if (given.size() != 1 && given.size() != channels) {
    throw Failure(std::string(name) + " has " + std::to_string(given.size()) + " elements, where others have " +
                  std::to_string(channels));
  }
  std::vector<Element> values(given.begin(), given.end());
  values.resize(channels, values[0]);
  return PerChannel<Element>(std::move(values));
}

// Element i belongs to channel (i / inner) % channels.
struct Layout {
  size_t count, channels, inner;
};

inline Layout LayOut(const Shape& shape, int64_t axis, size_t channels) {
  const size_t rank = shape.size();
  const size_t count = Product(shape, 0, rank);
  if (channels == 1) return {count, 1, count};
  const bool there = axis < 0 && -axis <= static_cast<int64_t>(rank);
  const size_t at = there ? rank - static_cast<size_t>(-axis) : rank;
  if (!there || static_cast<size_t>(shape[at]) != channels) {
    throw Failure("a value of shape " + Text(shape) + " has no " + std::to_string(channels) + " channels on axis " +
                  std::to_string(axis));
  }
  return {count, channels, Product(shape, at + 1, rank)};
}

// ---------------------------------------------------------------------------------------------------- arithmetic

// The nearest whole number, ties to the even one, as a code. Adding 1.5 x 2^23 leaves no room for a fraction, and the last
// bits of the sum are the number.
PMSM_INLINE uint8_t CodeOf(float wanted, float lowest, float highest, uint8_t zero) {
  const float raised = wanted > lowest ? wanted : lowest;
  const float shifted = (raised < highest ? raised : highest) + 12582912.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return static_cast<uint8_t>(bits + zero);
}

// A whole number as a code, where it is sure to be one.
PMSM_INLINE uint8_t CodeOfCount(float count, uint8_t zero) {
  const float shifted = count + (12582912.0f + static_cast<float>(zero));
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return static_cast<uint8_t>(bits);
}

// The zero of each channel's codes, and the bounds on its counts.
struct Counts {
  PerChannel<uint8_t> zero;
  PerChannel<float> lowest, highest;

  Counts(const Ort& ort, const OrtKernelInfo* info, size_t first, size_t channels)
      : zero(Constants<uint8_t>(ConstantAt<uint8_t>(ort, info, first), channels, "zero")),
        lowest(AboveZero(ort, info, first + 1, "lowest")),
        highest(AboveZero(ort, info, first + 2, "highest")) {}

 private:
  PerChannel<float> AboveZero(const Ort& ort, const OrtKernelInfo* info, size_t index, const char* name) const {
    const auto bounds = Constants<float>(ConstantAt<uint8_t>(ort, info, index), zero.Size(), name);
    std::vector<float> above(zero.Size());
    for (size_t i = 0; i < above.size(); ++i) above[i] = bounds.Of(i) - static_cast<float>(zero.Of(i));
    return PerChannel<float>(std::move(above));
  }
};

// How many channels a node tells apart: as many as its longest constant.
inline size_t ChannelsOf(std::initializer_list<size_t> sizes) { return std::max<size_t>(1, std::max(sizes)); }

template <typename Element>
size_t SizeAt(const Ort& ort, const OrtKernelInfo* info, size_t index) {
  return ConstantAt<Element>(ort, info, index).size();
}

}  // namespace pmsm

#endif

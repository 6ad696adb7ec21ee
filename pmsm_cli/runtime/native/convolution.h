// A convolution of codes, channels last: its shape, its weights in the order kernels read them, what its sums become.

#ifndef PMSM_CONVOLUTION_H
#define PMSM_CONVOLUTION_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "aligned.h"

namespace pmsm {

constexpr size_t kLanes = 16;               // sums of 32 bits in a vector
constexpr size_t kWord = 4;                 // products that one instruction adds to a sum
constexpr size_t kBlock = 64;               // output channels whose sums are made together
constexpr size_t kVectors = kBlock / kLanes;
constexpr size_t kSlices = 3;               // of bytes, that weights in slices are made of
// Places that kernels take at a time, at the most: so many pointers more are read than there are places.
constexpr size_t kMostPlaces = 32;

inline size_t UpTo(size_t multiple, size_t count) { return (count + multiple - 1) / multiple * multiple; }

// Where the window of an output place lies in the input. Sizes are in places.
struct Window {
  size_t height, width;  // of the kernel
  size_t stride_y, stride_x, step_y, step_x;
  size_t top, left, bottom, right;  // padding

  static size_t Outputs(size_t input, size_t before, size_t after, size_t kernel, size_t step, size_t stride) {
    const size_t padded = input + before + after, reach = (kernel - 1) * step + 1;
    return padded < reach ? 0 : (padded - reach) / stride + 1;
  }
  size_t OutputHeight(size_t input) const { return Outputs(input, top, bottom, height, step_y, stride_y); }
  size_t OutputWidth(size_t input) const { return Outputs(input, left, right, width, step_x, stride_x); }
  // Whether outputs lie where inputs do, whatever the axes.
  bool IsOnePlace() const {
    return height * width * stride_y * stride_x == 1 && top + left + bottom + right == 0;
  }
  // Channels last.
  std::vector<int64_t> OutputShape(size_t images, size_t input_height, size_t input_width, size_t channels) const {
    return {static_cast<int64_t>(images), static_cast<int64_t>(OutputHeight(input_height)),
            static_cast<int64_t>(OutputWidth(input_width)), static_cast<int64_t>(channels)};
  }
};

// Output channels whose sums are made together. Their numbers begin at `slot` of what is kept for all of them, kBlock apart.
// Of weights in slices each has a vector of sums, the most significant first.
struct Block {
  size_t slot, channel, channels;  // channels: from this one on, so many
  size_t slices = 1;

  size_t Vectors() const { return UpTo(kLanes, channels) / kLanes * slices; }
};

// From numbers to codes: round(number) + zero, within bounds.
struct Rounding {
  Aligned<int32_t> zero;
  Aligned<uint8_t> lowest, highest;
};

// What becomes of the sums of an output channel. Codes are (sum + bias) x factor, rounded; where another tensor is added,
// codes x own + others x other + term, rounded; where neurons fire on that, these are codes x firing + resting, rounded.
// The addition is onnxruntime's: a product and a sum are rounded once, and the second operand is added to the term first.
struct Becoming {
  Aligned<int32_t> bias;
  Aligned<float> factor;
  Rounding code;

  bool adds, own_first, fires;  // own_first: the codes are the first operand, not the others
  Aligned<float> own, other, term;
  Rounding sum;
  Aligned<float> firing, resting;
  Rounding neuron;

  bool tame;  // no number leaves what 32 bits hold
};

// Where results go: [places, channels] each.
struct Results {
  const uint8_t* others;
  uint8_t *codes, *neurons;
  size_t channels;
};

}  // namespace pmsm

#endif

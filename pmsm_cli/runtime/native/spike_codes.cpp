// Spikes as unsigned 8-bit codes, in the graphs that `pmsm_cli/lowering` makes for onnxruntime's integer kernels.
//
//   SpikeCodes(value, rest, threshold, zero, lowest, highest) -> codes   round((value - rest) / threshold) + zero
//   AffineCodes(codes, factor, term, zero, lowest, highest) -> codes     round(codes x factor + term) + zero
//   BoundCodes(codes, lowest, highest) -> codes
//
// all of them within lowest and highest. A code is the spike count plus `zero`. Whatever follows the first input is constant, with one element for all or one
// for each channel of the axis `axis` (counted from the right). Each operator is what some of onnxruntime's own do one
// after the other (`pmsm_cli/lowering/native.py` says which), code for code; values that are not numbers emit no spike.

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
namespace {

// ---------------------------------------------------------------------------------------------------- channels

// So many elements in a row that longer rows gain nothing.
constexpr size_t kRun = 512;

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

Layout LayOut(const Shape& shape, int64_t axis, size_t channels) {
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

// Calls kernel.Run<true>(channel, at, count) for stretches of one channel each, or, where neighbours belong to different
// channels, kernel.Run<false>(channel of the first, at, count).
template <typename Task>
PMSM_INLINE void InRuns(const Task& task, size_t begin, size_t end) {
  const Layout& layout = task.layout;
  if (layout.inner > 1 || layout.channels == 1) {
    for (size_t at = begin, count = 0; at < end; at += count) {
      count = std::min(end - at, layout.inner - at % layout.inner);
      task.template Run<true>(at / layout.inner % layout.channels, at, count);
    }
  } else {
    const size_t longest = std::max(kRun, layout.channels);
    for (size_t at = begin, count = 0; at < end; at += count) {
      count = std::min(end - at, longest);
      task.template Run<false>(at % layout.channels, at, count);
    }
  }
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
size_t ChannelsOf(std::initializer_list<size_t> sizes) { return std::max<size_t>(1, std::max(sizes)); }

template <typename Element>
size_t SizeAt(const Ort& ort, const OrtKernelInfo* info, size_t index) {
  return ConstantAt<Element>(ort, info, index).size();
}

struct SpikeCodes {
  using Given = float;
  static constexpr size_t kElementsPerThread = 32768;

  size_t channels;
  PerChannel<float> rest, threshold;
  Counts counts;

  SpikeCodes(const Ort& ort, const OrtKernelInfo* info)
      : channels(ChannelsOf({SizeAt<float>(ort, info, 1), SizeAt<float>(ort, info, 2), SizeAt<uint8_t>(ort, info, 3),
                             SizeAt<uint8_t>(ort, info, 4), SizeAt<uint8_t>(ort, info, 5)})),
        rest(Constants<float>(ConstantAt<float>(ort, info, 1), channels, "rest")),
        threshold(Constants<float>(ConstantAt<float>(ort, info, 2), channels, "threshold")),
        counts(ort, info, 3, channels) {}

  template <bool kOneChannel>
  PMSM_INLINE void Run(const float* in, uint8_t* out, size_t channel, size_t count) const {
    const float *rests = rest.From(channel), *units = threshold.From(channel);
    const uint8_t* zeros = counts.zero.From(channel);
    const float *lows = counts.lowest.From(channel), *highs = counts.highest.From(channel);
    const float resting = *rests, unit = *units, low = *lows, high = *highs;
    const uint8_t zero = *zeros;
    PMSM_INDEPENDENT
    for (size_t i = 0; i < count; ++i) {
      const float ratio = (in[i] - (kOneChannel ? resting : rests[i])) / (kOneChannel ? unit : units[i]);
      const float wanted = ratio == ratio ? ratio : 0.0f;
      out[i] = kOneChannel ? CodeOf(wanted, low, high, zero) : CodeOf(wanted, lows[i], highs[i], zeros[i]);
    }
  }
};

struct AffineCodes {
  using Given = uint8_t;
  static constexpr size_t kElementsPerThread = 32768;

  size_t channels;
  PerChannel<float> factor, term;
  Counts counts;

  AffineCodes(const Ort& ort, const OrtKernelInfo* info)
      : channels(ChannelsOf({SizeAt<float>(ort, info, 1), SizeAt<float>(ort, info, 2), SizeAt<uint8_t>(ort, info, 3),
                             SizeAt<uint8_t>(ort, info, 4), SizeAt<uint8_t>(ort, info, 5)})),
        factor(Constants<float>(ConstantAt<float>(ort, info, 1), channels, "factor")),
        term(Constants<float>(ConstantAt<float>(ort, info, 2), channels, "term")),
        counts(ort, info, 3, channels) {}

  template <bool kOneChannel>
  PMSM_INLINE void Run(const uint8_t* in, uint8_t* out, size_t channel, size_t count) const {
    const float *factors = factor.From(channel), *terms = term.From(channel);
    const uint8_t* zeros = counts.zero.From(channel);
    const float *lows = counts.lowest.From(channel), *highs = counts.highest.From(channel);
    const float one_factor = *factors, one_term = *terms, low = *lows, high = *highs;
    const uint8_t zero = *zeros;
    PMSM_INDEPENDENT
    for (size_t i = 0; i < count; ++i) {
      const float code = static_cast<float>(in[i]);
      out[i] = kOneChannel ? CodeOf(code * one_factor + one_term, low, high, zero)
                           : CodeOf(code * factors[i] + terms[i], lows[i], highs[i], zeros[i]);
    }
  }
};

struct BoundCodes {
  using Given = uint8_t;
  static constexpr size_t kElementsPerThread = 131072;

  size_t channels;
  PerChannel<uint8_t> lowest, highest;

  BoundCodes(const Ort& ort, const OrtKernelInfo* info)
      : channels(ChannelsOf({SizeAt<uint8_t>(ort, info, 1), SizeAt<uint8_t>(ort, info, 2)})),
        lowest(Constants<uint8_t>(ConstantAt<uint8_t>(ort, info, 1), channels, "lowest")),
        highest(Constants<uint8_t>(ConstantAt<uint8_t>(ort, info, 2), channels, "highest")) {}

  template <bool kOneChannel>
  PMSM_INLINE void Run(const uint8_t* in, uint8_t* out, size_t channel, size_t count) const {
    const uint8_t *lows = lowest.From(channel), *highs = highest.From(channel);
    const uint8_t low = *lows, high = *highs;
    PMSM_INDEPENDENT
    for (size_t i = 0; i < count; ++i) {
      out[i] = std::min(std::max(in[i], kOneChannel ? low : lows[i]), kOneChannel ? high : highs[i]);
    }
  }
};

// ---------------------------------------------------------------------------------------------------- operators

// One call of an operator.
template <typename Kernel>
struct Task {
  const Kernel& kernel;
  Layout layout;
  const typename Kernel::Given* given;
  uint8_t* codes;

  template <bool kOneChannel>
  PMSM_INLINE void Run(size_t channel, size_t at, size_t count) const {
    kernel.template Run<kOneChannel>(given + at, codes + at, channel, count);
  }
};

PMSM_WIDER_VECTORS void Work(const Task<SpikeCodes>& task, size_t begin, size_t end) { InRuns(task, begin, end); }
PMSM_WIDER_VECTORS void Work(const Task<AffineCodes>& task, size_t begin, size_t end) { InRuns(task, begin, end); }
PMSM_WIDER_VECTORS void Work(const Task<BoundCodes>& task, size_t begin, size_t end) { InRuns(task, begin, end); }

// A kernel, and the axis on which its channels lie.
template <typename Kernel>
struct OnAxis {
  Kernel kernel;
  int64_t axis;

  OnAxis(const Ort& ort, const OrtKernelInfo* info) : kernel(ort, info), axis(IntegerAttribute(ort, info, "axis")) {}
};

template <typename Kernel>
void Compute(const Ort& ort, const OnAxis<Kernel>& self, OrtKernelContext* context) {
  const auto given = InputAt<typename Kernel::Given>(ort, context, 0);
  uint8_t* codes = OutputAt<uint8_t>(ort, context, 0, given.shape);
  const Task<Kernel> task{self.kernel, LayOut(given.shape, self.axis, self.kernel.channels), given.data, codes};
  if (task.layout.count == 0) return;
  InParallel<Task<Kernel>, &Work, Kernel::kElementsPerThread>(ort, context, task, task.layout.count);
}

template <typename Kernel>
Operator MakeCodes(const OrtApi* api, const char* name, std::vector<ElementType> inputs) {
  Operator op = MakeOperator<OnAxis<Kernel>, &Compute<Kernel>>(api, name, std::move(inputs), {kUint8});
  if (op.inputs[0] != op.outputs[0]) return op;
  op.GetMayInplace = [](int** from, int** to) -> size_t {
    static int first[] = {0};
    *from = *to = first;
    return 1;
  };
  op.ReleaseMayInplace = [](int*, int*) {};
  return op;
}

}  // namespace

void AddSpikeCodes(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator spikes =
      MakeCodes<SpikeCodes>(api, "SpikeCodes", {kFloat, kFloat, kFloat, kUint8, kUint8, kUint8});
  static const Operator affine =
      MakeCodes<AffineCodes>(api, "AffineCodes", {kUint8, kFloat, kFloat, kUint8, kUint8, kUint8});
  static const Operator bound = MakeCodes<BoundCodes>(api, "BoundCodes", {kUint8, kUint8, kUint8});
  for (const Operator* each : {&spikes, &affine, &bound}) Check(ort.CustomOpDomain_Add(domain, each));
}

}  // namespace pmsm

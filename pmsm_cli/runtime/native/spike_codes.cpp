// Spikes as unsigned 8-bit codes, in the graphs that `pmsm_cli/lowering` makes for onnxruntime's integer kernels.
//
//   SpikeCodes(value, rest, threshold, zero, lowest, highest) -> codes   round((value - rest) / threshold) + zero
//   SpikeCodesLast: the same of [images, channels, ...], as [images, ..., channels]
//   AffineCodes(codes, factor, term, zero, lowest, highest) -> codes     round(codes x factor + term) + zero
//   BoundCodes(codes, lowest, highest) -> codes
//
// all of them within lowest and highest. A code is the spike count plus `zero`. Whatever follows the first input is
// constant, with one element for all or one for each channel of the axis `axis` (counted from the right). Each operator is
// what some of onnxruntime's own do one after the other (`pmsm_cli/lowering/native.py` says which), code for code; a value
// that is not a number gives `zero`.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "codes.h"
#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

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

// ---------------------------------------------------------------------------------------------------- kernels

struct SpikeCodes {
  using Given = float;
  static constexpr size_t kElementsPerThread = 16384;

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
  static constexpr size_t kElementsPerThread = 16384;

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
  static constexpr size_t kElementsPerThread = 65536;

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
  InParallel<Task<Kernel>, &Work>(ort, context, task, task.layout.count, Kernel::kElementsPerThread);
}

// One call of SpikeCodesLast: a value of [images, channels, places] becomes codes of [images, places, channels].
struct Turned {
  const SpikeCodes& kernel;
  const float* value;
  uint8_t* codes;
  size_t images, channels, places, tiles;
};

#if defined(__BYTE_ORDER__)
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "codes of neighbouring channels are stored as one number");
#endif
constexpr size_t kPlaces = 64;  // of a tile, whose codes stay in the nearest cache until all channels are there

// The codes of some neighbouring channels at neighbouring places, each channel's shifted to a byte of its own.
template <size_t kChannels>
PMSM_INLINE void TurnChannels(const Turned& task, const float* value, uint8_t* codes, size_t channel, size_t count) {
  uint32_t words[kPlaces] = {};
  for (size_t each = 0; each < kChannels; ++each) {
    const float* in = value + each * task.places;
    const float rest = task.kernel.rest.Of(channel + each), unit = task.kernel.threshold.Of(channel + each);
    const float low = task.kernel.counts.lowest.Of(channel + each);
    const float high = task.kernel.counts.highest.Of(channel + each);
    const uint8_t zero = task.kernel.counts.zero.Of(channel + each);
    PMSM_INDEPENDENT
    for (size_t i = 0; i < count; ++i) {
      const float ratio = (in[i] - rest) / unit;
      const uint32_t code = CodeOf(ratio == ratio ? ratio : 0.0f, low, high, zero);
      words[i] |= code << (8 * each);
    }
  }
  for (size_t i = 0; i < count; ++i) std::memcpy(codes + i * task.channels, &words[i], kChannels);
}

PMSM_WIDER_VECTORS void Turn(const Turned& task, size_t begin, size_t end) {
  for (size_t tile = begin; tile < end; ++tile) {
    const size_t image = tile / task.tiles, at = tile % task.tiles * kPlaces;
    const size_t count = std::min(kPlaces, task.places - at);
    const float* value = task.value + image * task.channels * task.places + at;
    uint8_t* codes = task.codes + (image * task.places + at) * task.channels;
    size_t channel = 0;
    for (; channel + 4 <= task.channels; channel += 4) {
      TurnChannels<4>(task, value + channel * task.places, codes + channel, channel, count);
    }
    for (; channel < task.channels; ++channel) {
      TurnChannels<1>(task, value + channel * task.places, codes + channel, channel, count);
    }
  }
}

void ComputeTurned(const Ort& ort, const SpikeCodes& self, OrtKernelContext* context) {
  const auto value = InputAt(ort, context, 0);
  const size_t rank = value.shape.size();
  const size_t channels = rank < 2 ? 0 : static_cast<size_t>(value.shape[1]);
  if (rank < 2 || (self.channels != 1 && channels != self.channels)) {
    throw Failure("a value of shape " + Text(value.shape) + " has no " + std::to_string(self.channels) +
                  " channels on its second axis");
  }
  Shape shape = value.shape;
  std::rotate(shape.begin() + 1, shape.begin() + 2, shape.end());
  uint8_t* codes = OutputAt<uint8_t>(ort, context, 0, shape);
  const size_t places = Product(value.shape, 2, rank), images = static_cast<size_t>(shape[0]);
  const size_t tiles = (places + kPlaces - 1) / kPlaces;
  const Turned task{self, value.data, codes, images, channels, places, tiles};
  const size_t in_tile = kPlaces * std::max<size_t>(1, channels);
  InParallel<Turned, &Turn>(ort, context, task, images * tiles,
                            std::max<size_t>(1, SpikeCodes::kElementsPerThread / in_tile));
}

template <typename Kernel>
Operator MakeCodes(const OrtApi* api, const char* name, std::vector<ElementType> inputs) {
  Operator op = MakeOperator<OnAxis<Kernel>, &Compute<Kernel>>(api, name, std::move(inputs), {kUint8});
  if (op.inputs[0] == op.outputs[0]) MayTakeMemory(op);
  return op;
}

}  // namespace

void AddSpikeCodes(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator spikes =
      MakeCodes<SpikeCodes>(api, "SpikeCodes", {kFloat, kFloat, kFloat, kUint8, kUint8, kUint8});
  static const Operator affine =
      MakeCodes<AffineCodes>(api, "AffineCodes", {kUint8, kFloat, kFloat, kUint8, kUint8, kUint8});
  static const Operator bound = MakeCodes<BoundCodes>(api, "BoundCodes", {kUint8, kUint8, kUint8});
  static const Operator turned = MakeOperator<SpikeCodes, &ComputeTurned>(
      api, "SpikeCodesLast", {kFloat, kFloat, kFloat, kUint8, kUint8, kUint8}, {kUint8});
  for (const Operator* each : {&spikes, &affine, &bound, &turned}) Check(ort.CustomOpDomain_Add(domain, each));
}

}  // namespace pmsm

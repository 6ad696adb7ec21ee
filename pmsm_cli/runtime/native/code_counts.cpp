// Counting what neurons have emitted from their codes, a byte to each neuron.
//
//   CodeCounts(codes, zero) -> counts
//
// `codes` are [images, ...], where `zero` stands for no spike, and each code above or below it for a spike more of either sign.
// `counts` is what SpikeCounts makes of such spikes (spike_counts.cpp). Channels are on the axis `axis`; where the attribute
// `positions` is not 0, they are the last one, and positions are all places before them.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "aligned.h"
#include "avx512.h"
#include "convolution_kernels.h"
#include "counting.h"
#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

// Below this many codes waking another thread costs more than it saves.
constexpr size_t kCodesPerThread = 65536;
constexpr size_t kMostParts = 8;
constexpr size_t kVector = 64, kGroup = 8;  // codes of a vector, and such as it sums up by itself
constexpr size_t kMostRows = 255;           // whose neurons a byte counts

// What a code is compared with: none; and what is at the limit, below `least` or above `most`, or not reached by any code.
struct Limits {
  uint8_t zero, least, most;
  bool has_least, has_most;

  Limits(uint8_t none, const Levels& levels) : zero(none) {
    const int lowest = none + static_cast<int>(std::max(levels.lowest, -256.0f));
    const int highest = none + static_cast<int>(std::min(levels.highest, 256.0f));
    has_least = levels.lowest < 0.0f && lowest >= 0;
    has_most = highest <= 255;
    least = static_cast<uint8_t>(has_least ? lowest : 0);
    most = static_cast<uint8_t>(has_most ? highest : 255);
  }
  bool Reached(uint8_t code) const { return (has_most && code >= most) || (has_least && code <= least); }
};

struct Counted {
  int64_t sizes = 0, firing = 0, limited = 0;

  void operator+=(const Counted& more) {
    sizes += more.sizes;
    firing += more.firing;
    limited += more.limited;
  }
};

// Where rows of channels are counted: each row's sums, unless nobody asks, and each channel's.
struct Sums {
  float *sizes, *firing;             // [rows]; null: nobody asks
  uint32_t *of_channels, *at_limit;  // [channels], whose neurons fire, and are at the limit
};

// ---------------------------------------------------------------------------------------------------- any processor

PMSM_INLINE Counted AddCode(uint8_t code, const Limits& limits) {
  const int64_t size = code > limits.zero ? code - limits.zero : limits.zero - code;
  return {size, size > 0 ? 1 : 0, limits.Reached(code) ? 1 : 0};
}

int64_t CountRowsAnywhere(const uint8_t* codes, size_t rows, size_t channels, const Limits& limits, const Sums& sums) {
  int64_t sizes = 0;
  for (size_t row = 0; row < rows; ++row) {
    Counted all;
    for (size_t channel = 0; channel < channels; ++channel) {
      const Counted one = AddCode(*codes++, limits);
      sums.of_channels[channel] += static_cast<uint32_t>(one.firing);
      sums.at_limit[channel] += static_cast<uint32_t>(one.limited);
      all += one;
    }
    if (sums.sizes) {
      sums.sizes[row] = static_cast<float>(all.sizes);
      sums.firing[row] = static_cast<float>(all.firing);
    }
    sizes += all.sizes;
  }
  return sizes;
}

Counted CountRunAnywhere(const uint8_t* codes, size_t length, const Limits& limits) {
  Counted all;
  for (size_t i = 0; i < length; ++i) all += AddCode(codes[i], limits);
  return all;
}

// ---------------------------------------------------------------------------------------------------- AVX-512

#ifdef PMSM_VNNI

struct LimitsOf {
  __m512i zero, least, most, one;
  __mmask64 has_least, has_most;

  PMSM_VNNI explicit LimitsOf(const Limits& all)
      : zero(_mm512_set1_epi8(static_cast<char>(all.zero))), least(_mm512_set1_epi8(static_cast<char>(all.least))),
        most(_mm512_set1_epi8(static_cast<char>(all.most))), one(_mm512_set1_epi8(1)),
        has_least(all.has_least ? ~__mmask64{0} : 0), has_most(all.has_most ? ~__mmask64{0} : 0) {}

  PMSM_VNNI PMSM_INLINE __m512i Load(const uint8_t* at, __mmask64 mask) const {
    return _mm512_mask_loadu_epi8(zero, mask, at);
  }
  // A byte each: 1 where a neuron fires.
  PMSM_VNNI PMSM_INLINE __m512i Fires(__m512i codes) const {
    const __m512i size = _mm512_sub_epi8(_mm512_max_epu8(codes, zero), _mm512_min_epu8(codes, zero));
    return _mm512_min_epu8(size, one);
  }
  PMSM_VNNI PMSM_INLINE __mmask64 Reached(__m512i codes) const {
    return _mm512_mask_cmpge_epu8_mask(has_most, codes, most) | _mm512_mask_cmple_epu8_mask(has_least, codes, least);
  }
  // Of each group of codes, how large spikes are, and, from bit 32 on, how many neurons fire.
  PMSM_VNNI PMSM_INLINE __m512i Both(__m512i codes, __m512i fires) const {
    const __m512i firing = _mm512_sad_epu8(fires, _mm512_setzero_si512());
    return _mm512_add_epi64(_mm512_sad_epu8(codes, zero), _mm512_slli_epi64(firing, 32));
  }
};

inline __mmask64 First(size_t bytes) { return bytes < kVector ? (__mmask64{1} << bytes) - 1 : ~__mmask64{0}; }

// What some rows have counted for each channel, a byte to each, before bytes run over.
struct Bytes {
  Aligned<uint8_t> firing, limited;

  explicit Bytes(size_t channels)
      : firing((channels + kVector - 1) / kVector * kVector), limited(firing.size()) {}

  void EmptyInto(const Sums& sums, size_t channels, size_t bytes) {
    for (size_t first = 0; first < bytes; first += channels) {
      for (size_t i = 0; i < std::min(channels, bytes - first); ++i) {
        sums.of_channels[i] += firing[first + i];
        sums.at_limit[i] += limited[first + i];
      }
    }
    std::fill(firing.begin(), firing.end(), uint8_t{0});
    std::fill(limited.begin(), limited.end(), uint8_t{0});
  }
};

// Of one vector of codes, what bytes count; how large spikes are and how many fire of each group.
PMSM_VNNI PMSM_INLINE __m512i CountVector(const uint8_t* codes, __mmask64 mask, const LimitsOf& limits, uint8_t* firing,
                                          uint8_t* limited) {
  const __m512i loaded = limits.Load(codes, mask), fires = limits.Fires(loaded);
  _mm512_store_si512(firing, _mm512_add_epi8(_mm512_load_si512(firing), fires));
  const __m512i before = _mm512_load_si512(limited);
  _mm512_store_si512(limited, _mm512_mask_add_epi8(before, limits.Reached(loaded) & mask, before, limits.one));
  return limits.Both(loaded, fires);
}

// Rows of whole vectors, but for the last one.
PMSM_VNNI int64_t CountLongRows(const uint8_t* codes, size_t rows, size_t channels, const Limits& all, const Sums& sums) {
  const LimitsOf limits(all);
  Bytes bytes(channels);
  int64_t sizes = 0;
  for (size_t begin = 0; begin < rows; begin += kMostRows) {
    for (size_t row = begin; row < std::min(rows, begin + kMostRows); ++row, codes += channels) {
      __m512i both = _mm512_setzero_si512();
      for (size_t at = 0; at < channels; at += kVector) {
        const __mmask64 mask = First(channels - at);
        both = _mm512_add_epi64(both, CountVector(codes + at, mask, limits, &bytes.firing[at], &bytes.limited[at]));
      }
      const uint64_t total = static_cast<uint64_t>(_mm512_reduce_add_epi64(both));
      if (sums.sizes) {
        sums.sizes[row] = static_cast<float>(static_cast<uint32_t>(total));
        sums.firing[row] = static_cast<float>(total >> 32);
      }
      sizes += static_cast<uint32_t>(total);
    }
    bytes.EmptyInto(sums, channels, channels);
  }
  return sizes;
}

// Rows of which a vector holds `kRows`: 2, 4 or 8.
template <size_t kRows>
PMSM_VNNI int64_t CountShortRows(const uint8_t* codes, size_t rows, const Limits& all, const Sums& sums) {
  constexpr size_t kChannels = kVector / kRows;
  constexpr __mmask8 kFirstOfRow = kRows == 8 ? 0xff : kRows == 4 ? 0x55 : 0x11;
  const LimitsOf limits(all);
  Bytes bytes(kVector);
  __m512i sizes = _mm512_setzero_si512();
  for (size_t begin = 0; begin < rows; begin += kMostRows * kRows) {
    const size_t end = std::min(rows, begin + kMostRows * kRows);
    for (size_t row = begin; row < end; row += kRows) {
      const size_t here = std::min(kRows, end - row);
      __m512i both = CountVector(codes + row * kChannels, First(here * kChannels), limits, bytes.firing.data(),
                                 bytes.limited.data());
      sizes = _mm512_add_epi64(sizes, _mm512_and_si512(both, _mm512_set1_epi64(UINT32_MAX)));
      if (!sums.sizes) continue;
      if (kRows <= 4) both = _mm512_add_epi64(both, _mm512_shuffle_epi32(both, _MM_PERM_BADC));
      if (kRows == 2) both = _mm512_add_epi64(both, _mm512_permutex_epi64(both, 0x4e));
      both = _mm512_maskz_compress_epi64(kFirstOfRow, both);
      const __mmask8 rows_here = static_cast<__mmask8>((1u << here) - 1);
      const __m256i size = _mm512_cvtepi64_epi32(both), fires = _mm512_cvtepi64_epi32(_mm512_srli_epi64(both, 32));
      _mm256_mask_storeu_ps(sums.sizes + row, rows_here, _mm256_cvtepi32_ps(size));
      _mm256_mask_storeu_ps(sums.firing + row, rows_here, _mm256_cvtepi32_ps(fires));
    }
    bytes.EmptyInto(sums, kChannels, kVector);
  }
  return _mm512_reduce_add_epi64(sizes);
}

PMSM_VNNI Counted CountRunOfVectors(const uint8_t* codes, size_t length, const Limits& all) {
  const LimitsOf limits(all);
  __m512i sizes = _mm512_setzero_si512();
  Counted counted;
  for (size_t at = 0; at < length; at += kVector) {
    const __mmask64 mask = First(length - at);
    const __m512i loaded = limits.Load(codes + at, mask);
    sizes = _mm512_add_epi64(sizes, _mm512_sad_epu8(loaded, limits.zero));
    counted.firing += __builtin_popcountll(_mm512_cmpneq_epu8_mask(loaded, limits.zero));
    counted.limited += __builtin_popcountll(limits.Reached(loaded) & mask);
  }
  counted.sizes = _mm512_reduce_add_epi64(sizes);
  return counted;
}

#endif  // PMSM_VNNI

int64_t CountRows(const uint8_t* codes, size_t rows, size_t channels, const Limits& limits, const Sums& sums) {
#ifdef PMSM_VNNI
  if (MultipliesFast()) {
    if (channels == kVector / 2) return CountShortRows<2>(codes, rows, limits, sums);
    if (channels == kVector / 4) return CountShortRows<4>(codes, rows, limits, sums);
    if (channels == kVector / 8) return CountShortRows<8>(codes, rows, limits, sums);
    return CountLongRows(codes, rows, channels, limits, sums);
  }
#endif
  return CountRowsAnywhere(codes, rows, channels, limits, sums);
}

Counted CountRun(const uint8_t* codes, size_t length, const Limits& limits) {
#ifdef PMSM_VNNI
  if (MultipliesFast()) return CountRunOfVectors(codes, length, limits);
#endif
  return CountRunAnywhere(codes, length, limits);
}

// ---------------------------------------------------------------------------------------------------- the operator

// Codes [images, rows, channels, run]. Where the run is one code, rows are counted, and shared out to the parts; else runs.
struct Task {
  const uint8_t* codes;
  Limits limits;
  size_t images, rows, channels, run;
  bool positions;
  float* counts;
  size_t parts;
  std::vector<int64_t> sizes;       // [images, parts]
  std::vector<uint32_t> of_channels;  // [images, parts, 2, channels]: that fire, at their limit

  size_t BeforeChannels() const { return positions ? 2 * rows : 4; }
  size_t Width() const { return BeforeChannels() + 2 * channels; }
};

void WorkOnRows(Task& task, size_t image, size_t part) {
  const size_t begin = task.rows * part / task.parts, end = task.rows * (part + 1) / task.parts;
  const size_t own = image * task.parts + part;
  float* places = task.positions ? task.counts + image * task.Width() + begin : nullptr;
  uint32_t* of_channels = task.of_channels.data() + own * 2 * task.channels;
  const Sums sums = {places, places + (task.positions ? task.rows : 0), of_channels, of_channels + task.channels};
  const uint8_t* codes = task.codes + (image * task.rows + begin) * task.channels;
  task.sizes[own] = CountRows(codes, end - begin, task.channels, task.limits, sums);
}

void WorkOnRuns(Task& task, size_t image, size_t part) {
  const size_t runs = task.rows * task.channels, own = image * task.parts + part;
  uint32_t* of_channels = task.of_channels.data() + own * 2 * task.channels;
  for (size_t index = runs * part / task.parts; index < runs * (part + 1) / task.parts; ++index) {
    const Counted counted = CountRun(task.codes + (image * runs + index) * task.run, task.run, task.limits);
    task.sizes[own] += counted.sizes;
    of_channels[index % task.channels] += static_cast<uint32_t>(counted.firing);
    of_channels[task.channels + index % task.channels] += static_cast<uint32_t>(counted.limited);
  }
}

void Work(void* pointer, size_t index) {
  Task& task = *static_cast<Task*>(pointer);
  task.run == 1 ? WorkOnRows(task, index / task.parts, index % task.parts)
                : WorkOnRuns(task, index / task.parts, index % task.parts);
}

void AddUp(const Task& task, size_t image) {
  float* counts = task.counts + image * task.Width();
  int64_t sizes = 0, firing = 0;
  for (size_t part = 0; part < task.parts; ++part) sizes += task.sizes[image * task.parts + part];
  for (size_t i = 0; i < 2 * task.channels; ++i) {
    int64_t total = 0;
    for (size_t part = 0; part < task.parts; ++part) {
      total += task.of_channels[(image * task.parts + part) * 2 * task.channels + i];
    }
    counts[task.BeforeChannels() + i] = static_cast<float>(total);
    if (i < task.channels) firing += total;
  }
  if (!task.positions) PutInTwo(firing, PutInTwo(sizes, counts));
}

void Compute(const Ort& ort, const CountAttributes& attributes, OrtKernelContext* context) {
  const auto codes = InputAt<uint8_t>(ort, context, 0), zero = InputAt<uint8_t>(ort, context, 1);
  const size_t rank = codes.shape.size(), axis = attributes.axis;
  if (rank == 0 || axis >= rank) throw Failure("codes of shape " + Text(codes.shape));
  if (zero.Count() != 1) throw Failure("zero must have one element, but its shape is " + Text(zero.shape));
  if (attributes.positions && (axis == 0 || axis + 1 != rank)) {
    throw Failure("positions are before channels, which are on axis " + std::to_string(axis) + " of " + Text(codes.shape));
  }
  Task task{codes.data, Limits(*zero.data, attributes), static_cast<size_t>(codes.shape[0]),
            axis == 0 ? 1 : Product(codes.shape, 1, axis), axis == 0 ? 1 : static_cast<size_t>(codes.shape[axis]),
            Product(codes.shape, axis + 1, rank), attributes.positions, nullptr, 1, {}, {}};
  task.counts =
      OutputAt(ort, context, 0, {static_cast<int64_t>(task.images), static_cast<int64_t>(task.Width())});
  const size_t of_image = task.rows * task.channels * task.run;
  task.parts = std::max<size_t>(1, std::min({kMostParts, of_image / kCodesPerThread,
                                             task.run == 1 ? task.rows : task.rows * task.channels}));
  const size_t all = task.images * task.parts;
  task.sizes.resize(all);
  task.of_channels.resize(all * 2 * task.channels);
  if (all < 2 || task.images * of_image < 2 * kCodesPerThread) {
    for (size_t index = 0; index < all; ++index) Work(&task, index);
  } else {
    Check(ort.KernelContext_ParallelFor(context, &Work, all, 0, &task));
  }
  for (size_t image = 0; image < task.images; ++image) AddUp(task, image);
}

}  // namespace

void AddCodeCounts(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator counts = MakeOperator<CountAttributes, &Compute>(api, "CodeCounts", {kUint8, kUint8}, {kFloat});
  Check(ort.CustomOpDomain_Add(domain, &counts));
}

}  // namespace pmsm

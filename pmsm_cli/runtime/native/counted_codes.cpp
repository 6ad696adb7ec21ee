#include "counted_codes.h"

#include <algorithm>
#include <vector>

#include "aligned.h"
#include "avx512.h"
#include "convolution_kernels.h"
#include "vectors.h"

namespace pmsm {
namespace {

constexpr size_t kVector = 64, kGroup = 8;  // codes of a vector, and such as it sums up by itself
constexpr size_t kMostRows = 255;           // whose neurons a byte counts

// ---------------------------------------------------------------------------------------------------- any processor

PMSM_INLINE Counted AddCode(uint8_t code, const Limits& limits) {
  const int64_t size = code > limits.zero ? code - limits.zero : limits.zero - code;
  return {size, size > 0 ? 1 : 0, limits.Reached(code) ? 1 : 0};
}

int64_t CountRowsAnywhere(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const Limits& limits,
                          const CodeSums& sums) {
  int64_t sizes = 0;
  for (size_t row = 0; row < rows; ++row) {
    Counted all;
    for (size_t channel = 0; channel < channels; ++channel) {
      const Counted one = AddCode(codes[row * stride + channel], limits);
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

// `kBoth`: as few codes as can be are a limit, too.
template <bool kBoth>
struct LimitsOf {
  __m512i zero, least, most, one;
  __mmask64 has_most;

  PMSM_VNNI explicit LimitsOf(const Limits& all)
      : zero(_mm512_set1_epi8(static_cast<char>(all.zero))), least(_mm512_set1_epi8(static_cast<char>(all.least))),
        most(_mm512_set1_epi8(static_cast<char>(all.most))), one(_mm512_set1_epi8(1)),
        has_most(all.has_most ? ~__mmask64{0} : 0) {}

  PMSM_VNNI PMSM_INLINE __m512i Load(const uint8_t* at, __mmask64 mask) const {
    return _mm512_mask_loadu_epi8(zero, mask, at);
  }
  PMSM_VNNI PMSM_INLINE __mmask64 Reached(__mmask64 mask, __m512i codes) const {
    const __mmask64 above = _mm512_mask_cmpge_epu8_mask(mask & has_most, codes, most);
    return kBoth ? above | _mm512_mask_cmple_epu8_mask(mask, codes, least) : above;
  }
};

inline __mmask64 First(size_t bytes) { return bytes < kVector ? (__mmask64{1} << bytes) - 1 : ~__mmask64{0}; }

// What some rows have counted, a byte to each of so many, goes to channels before bytes run over.
void Empty(uint8_t* bytes, size_t count, uint32_t* sums, size_t channels) {
  for (size_t first = 0; first < count; first += channels) {
    const size_t here = std::min(channels, count - first);
    for (size_t i = 0; i < here; ++i) sums[i] += bytes[first + i];
  }
  std::fill_n(bytes, count, uint8_t{0});
}

// Counts one vector of codes in bytes; which neurons fire.
template <bool kBoth>
PMSM_VNNI PMSM_INLINE __mmask64 CountInBytes(__m512i codes, __mmask64 mask, const LimitsOf<kBoth>& limits,
                                             uint8_t* firing, uint8_t* limited) {
  const __mmask64 fires = _mm512_cmpneq_epu8_mask(codes, limits.zero);
  const __m512i fired = _mm512_load_si512(firing), reached = _mm512_load_si512(limited);
  _mm512_store_si512(firing, _mm512_mask_add_epi8(fired, fires, fired, limits.one));
  _mm512_store_si512(limited, _mm512_mask_add_epi8(reached, limits.Reached(mask, codes), reached, limits.one));
  return fires;
}

// Rows of whole vectors, but for the last one.
template <bool kBoth, bool kPositions>
PMSM_VNNI int64_t CountLongRows(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const Limits& all,
                                const CodeSums& sums) {
  const LimitsOf<kBoth> limits(all);
  const size_t whole = channels / kVector * kVector;
  const __mmask64 rest = First(channels - whole);
  static thread_local Aligned<uint8_t> bytes;  // nothing but 0 between calls
  const size_t of_row = (channels + kVector - 1) / kVector * kVector;
  bytes.resize(std::max(bytes.size(), 2 * of_row));
  uint8_t *fired = bytes.data(), *limited = fired + of_row;
  __m512i sizes = _mm512_setzero_si512();
  for (size_t begin = 0; begin < rows; begin += kMostRows) {
    for (size_t row = begin; row < std::min(rows, begin + kMostRows); ++row, codes += stride) {
      __m512i size = _mm512_setzero_si512();
      int64_t firing = 0;
      const auto count = [&](size_t at, __mmask64 mask, __m512i loaded) PMSM_VNNI {
        const __mmask64 fires = CountInBytes(loaded, mask, limits, fired + at, limited + at);
        if (kPositions) firing += __builtin_popcountll(fires);
        size = _mm512_add_epi64(size, _mm512_sad_epu8(loaded, limits.zero));
      };
      for (size_t at = 0; at < whole; at += kVector) count(at, ~__mmask64{0}, _mm512_loadu_si512(codes + at));
      if (whole < channels) count(whole, rest, limits.Load(codes + whole, rest));
      sizes = _mm512_add_epi64(sizes, size);
      if (kPositions) {
        sums.sizes[row] = static_cast<float>(_mm512_reduce_add_epi64(size));
        sums.firing[row] = static_cast<float>(firing);
      }
    }
    Empty(fired, channels, sums.of_channels, channels);
    Empty(limited, channels, sums.at_limit, channels);
  }
  return _mm512_reduce_add_epi64(sizes);
}

// Rows of which a vector holds `kRows`: 2, 4 or 8. Sums of a row are those of its groups of codes.
template <bool kBoth, bool kPositions, size_t kRows>
PMSM_VNNI int64_t CountShortRows(const uint8_t* codes, size_t rows, const Limits& all, const CodeSums& sums) {
  constexpr size_t kChannels = kVector / kRows, kGroups = kVector / kGroup / kRows;
  const LimitsOf<kBoth> limits(all);
  // Where, among 32 bits each, the first groups of rows have their sizes, and, behind each, how many fire.
  alignas(kVector) int32_t places[2][kVector / sizeof(int32_t)] = {};
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t half = 0; half < 2; ++half) places[half][i] = static_cast<int32_t>(i * kGroups * 2 + half);
  }
  const __m512i lower = _mm512_load_si512(places[0]), upper = _mm512_load_si512(places[1]);
  alignas(kVector) uint8_t fired[kVector] = {}, limited[kVector] = {};
  __m512i sizes = _mm512_setzero_si512();
  for (size_t begin = 0; begin < rows; begin += kMostRows * kRows) {
    const size_t end = std::min(rows, begin + kMostRows * kRows);
    for (size_t row = begin; row < end; row += kRows) {
      const size_t here = std::min(kRows, end - row);
      const __mmask64 mask = First(here * kChannels);
      const __m512i loaded = limits.Load(codes + row * kChannels, mask), size = _mm512_sad_epu8(loaded, limits.zero);
      const __mmask64 fires = CountInBytes(loaded, mask, limits, fired, limited);
      sizes = _mm512_add_epi64(sizes, size);
      if (!kPositions) continue;
      const __m512i firing = _mm512_sad_epu8(_mm512_maskz_mov_epi8(fires, limits.one), _mm512_setzero_si512());
      __m512i both = _mm512_add_epi64(size, _mm512_slli_epi64(firing, 32));
      if (kGroups >= 2) both = _mm512_add_epi64(both, _mm512_shuffle_epi32(both, _MM_PERM_BADC));
      if (kGroups == 4) both = _mm512_add_epi64(both, _mm512_permutex_epi64(both, 0x4e));
      const __mmask16 rows_here = static_cast<__mmask16>((1u << here) - 1);
      _mm512_mask_storeu_ps(sums.sizes + row, rows_here, _mm512_cvtepi32_ps(_mm512_permutexvar_epi32(lower, both)));
      _mm512_mask_storeu_ps(sums.firing + row, rows_here, _mm512_cvtepi32_ps(_mm512_permutexvar_epi32(upper, both)));
    }
    Empty(fired, kVector, sums.of_channels, kChannels);
    Empty(limited, kVector, sums.at_limit, kChannels);
  }
  return _mm512_reduce_add_epi64(sizes);
}

template <bool kBoth, bool kPositions>
int64_t CountVectors(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const Limits& limits,
                     const CodeSums& sums) {
  if (channels != stride) return CountLongRows<kBoth, kPositions>(codes, rows, channels, stride, limits, sums);
  if (channels == kVector / 2) return CountShortRows<kBoth, kPositions, 2>(codes, rows, limits, sums);
  if (channels == kVector / 4) return CountShortRows<kBoth, kPositions, 4>(codes, rows, limits, sums);
  if (channels == kVector / 8) return CountShortRows<kBoth, kPositions, 8>(codes, rows, limits, sums);
  return CountLongRows<kBoth, kPositions>(codes, rows, channels, stride, limits, sums);
}

template <bool kBoth>
PMSM_VNNI Counted CountRunOfVectors(const uint8_t* codes, size_t length, const Limits& all) {
  const LimitsOf<kBoth> limits(all);
  __m512i sizes = _mm512_setzero_si512();
  Counted counted;
  for (size_t at = 0; at < length; at += kVector) {
    const __mmask64 mask = First(length - at);
    const __m512i loaded = limits.Load(codes + at, mask);
    sizes = _mm512_add_epi64(sizes, _mm512_sad_epu8(loaded, limits.zero));
    counted.firing += __builtin_popcountll(_mm512_cmpneq_epu8_mask(loaded, limits.zero));
    counted.limited += __builtin_popcountll(limits.Reached(mask, loaded));
  }
  counted.sizes = _mm512_reduce_add_epi64(sizes);
  return counted;
}

#endif  // PMSM_VNNI

}  // namespace

int64_t CountRows(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const Limits& limits, const CodeSums& sums) {
#ifdef PMSM_VNNI
  if (MultipliesFast() && limits.has_least) {
    return sums.sizes ? CountVectors<true, true>(codes, rows, channels, stride, limits, sums)
                      : CountVectors<true, false>(codes, rows, channels, stride, limits, sums);
  }
  if (MultipliesFast()) {
    return sums.sizes ? CountVectors<false, true>(codes, rows, channels, stride, limits, sums)
                      : CountVectors<false, false>(codes, rows, channels, stride, limits, sums);
  }
#endif
  return CountRowsAnywhere(codes, rows, channels, stride, limits, sums);
}

Counted CountRun(const uint8_t* codes, size_t length, const Limits& limits) {
#ifdef PMSM_VNNI
  if (MultipliesFast()) {
    return limits.has_least ? CountRunOfVectors<true>(codes, length, limits) : CountRunOfVectors<false>(codes, length, limits);
  }
#endif
  return CountRunAnywhere(codes, length, limits);
}

}  // namespace pmsm

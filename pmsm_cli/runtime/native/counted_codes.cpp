#include "counted_codes.h"

#include <algorithm>

#include "processor.h"
#include "targets.h"
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

RowSums CountRowsAnywhere(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const Limits& limits,
                          const OfRows& of) {
  RowSums sums;
  for (size_t row = 0; row < rows; ++row) {
    Counted all;
    for (size_t channel = 0; channel < channels; ++channel) {
      const Counted one = AddCode(codes[row * stride + channel], limits);
      of.of_channels[channel] += static_cast<uint32_t>(one.firing);
      of.at_limit[channel] += static_cast<uint32_t>(one.limited);
      all += one;
    }
    const int64_t synapses = of.map ? of.map[row] : 0;
    sums += {all.sizes, all.sizes * synapses, all.firing * synapses};
  }
  return sums;
}

Counted CountRunAnywhere(const uint8_t* codes, size_t length, const Limits& limits) {
  Counted all;
  for (size_t i = 0; i < length; ++i) all += AddCode(codes[i], limits);
  return all;
}

// ---------------------------------------------------------------------------------------------------- AVX-512

#ifdef PMSM_VNNI

// Codes at the limit as one comparison: those whose distance from `low`, counted up and around, is more than `within`.
struct LimitsOf {
  __m512i zero, low, within, one;

  PMSM_VNNI explicit LimitsOf(const Limits& all) : zero(Spread(all.zero)), one(Spread(1)) {
    const int least = all.has_least ? all.least + 1 : 0, most = all.has_most ? all.most : 256;
    low = Spread(static_cast<uint8_t>(least));
    within = Spread(static_cast<uint8_t>(most - least - 1));
  }
  // Where every code is at the limit there is no such distance.
  static bool Fits(const Limits& all) { return (all.has_most ? all.most : 256) > (all.has_least ? all.least + 1 : 0); }

  PMSM_VNNI static __m512i Spread(uint8_t byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }
  PMSM_VNNI PMSM_INLINE __m512i Load(const uint8_t* at, __mmask64 mask) const {
    return _mm512_mask_loadu_epi8(zero, mask, at);
  }
  PMSM_VNNI PMSM_INLINE __mmask64 Reached(__mmask64 mask, __m512i codes) const {
    return _mm512_mask_cmpgt_epu8_mask(mask, _mm512_sub_epi8(codes, low), within);
  }
};

inline __mmask64 First(size_t bytes) { return bytes < kVector ? (__mmask64{1} << bytes) - 1 : ~__mmask64{0}; }

// How many of some rows' neurons fire, and are at their limit, a byte to each neuron of a vector.
struct InBytes {
  __m512i fired, limited;

  PMSM_VNNI InBytes() : fired(_mm512_setzero_si512()), limited(_mm512_setzero_si512()) {}

  // Counts one vector of codes; which neurons fire.
  PMSM_VNNI PMSM_INLINE __mmask64 Add(__m512i codes, __mmask64 mask, const LimitsOf& limits) {
    const __mmask64 fires = _mm512_cmpneq_epu8_mask(codes, limits.zero);
    fired = _mm512_mask_add_epi8(fired, fires, fired, limits.one);
    limited = _mm512_mask_add_epi8(limited, limits.Reached(mask, codes), limited, limits.one);
    return fires;
  }
  // Adds the first `count` bytes to what channels have counted, which begin again after the last one.
  PMSM_VNNI void AddTo(const OfRows& of, size_t channels, size_t count) const {
    alignas(kVector) uint8_t bytes[kVector];
    for (const bool at_limit : {false, true}) {
      _mm512_store_si512(bytes, at_limit ? limited : fired);
      uint32_t* sums = at_limit ? of.at_limit : of.of_channels;
      for (size_t begin = 0; begin < count; begin += channels) {
        for (size_t i = 0; i < std::min(channels, count - begin); ++i) sums[i] += bytes[begin + i];
      }
    }
  }
};

// So many vectors of each row, the last one by its mask.
template <bool kMapped, size_t kColumns>
PMSM_VNNI RowSums CountColumns(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const LimitsOf& limits,
                               const OfRows& of) {
  const __mmask64 last = First(channels - (kColumns - 1) * kVector);
  const __m512i none = _mm512_setzero_si512();
  __m512i sizes = none, reached = none;
  RowSums sums;
  for (size_t begin = 0; begin < rows; begin += kMostRows) {
    InBytes counted[kColumns];
    for (size_t row = begin; row < std::min(rows, begin + kMostRows); ++row, codes += stride) {
      __m512i size = none;
      int64_t firing = 0;
      for (size_t column = 0; column < kColumns; ++column) {
        const __mmask64 mask = column + 1 == kColumns ? last : ~__mmask64{0};
        const __m512i loaded = limits.Load(codes + column * kVector, mask);
        const __mmask64 fires = counted[column].Add(loaded, mask, limits);
        size = _mm512_add_epi64(size, _mm512_sad_epu8(loaded, limits.zero));
        if (kMapped) firing += __builtin_popcountll(fires);
      }
      sizes = _mm512_add_epi64(sizes, size);
      if (kMapped) {
        reached = _mm512_add_epi64(reached, _mm512_mul_epu32(size, _mm512_set1_epi64(of.map[row])));
        sums.events += firing * of.map[row];
      }
    }
    for (size_t column = 0; column < kColumns; ++column) {
      const size_t at = column * kVector, count = std::min(kVector, channels - at);
      counted[column].AddTo({nullptr, of.of_channels + at, of.at_limit + at}, count, count);
    }
  }
  sums.sizes = _mm512_reduce_add_epi64(sizes);
  sums.reached = _mm512_reduce_add_epi64(reached);
  return sums;
}

// Rows of any length, some vectors of all of them at a time.
template <bool kMapped>
RowSums CountLongRows(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const LimitsOf& limits, const OfRows& of) {
  constexpr size_t kAtOnce = 4 * kVector;
  RowSums sums;
  for (size_t begin = 0; begin < channels; begin += kAtOnce) {
    const size_t here = std::min(kAtOnce, channels - begin);
    const OfRows those{of.map, of.of_channels + begin, of.at_limit + begin};
    const auto count = here > 3 * kVector   ? &CountColumns<kMapped, 4>
                       : here > 2 * kVector ? &CountColumns<kMapped, 3>
                       : here > kVector     ? &CountColumns<kMapped, 2>
                                            : &CountColumns<kMapped, 1>;
    sums += count(codes + begin, rows, here, stride, limits, those);
  }
  return sums;
}

// Rows of which a vector holds `kRows`: 2, 4 or 8. A row has several groups of codes, each with sums of its own.
template <bool kMapped, size_t kRows>
PMSM_VNNI RowSums CountShortRows(const uint8_t* codes, size_t rows, const LimitsOf& limits, const OfRows& of) {
  constexpr size_t kChannels = kVector / kRows, kGroups = kVector / kGroup / kRows;
  constexpr __mmask16 kEven = 0x5555;
  alignas(kVector) int32_t rows_of[kVector / sizeof(int32_t)] = {};  // of groups, 64 bits for each
  for (size_t group = 0; group < kVector / kGroup; ++group) rows_of[2 * group] = static_cast<int32_t>(group / kGroups);
  const __m512i row_of = _mm512_load_si512(rows_of), none = _mm512_setzero_si512();
  __m512i sizes = none, reached = none, events = none;
  for (size_t begin = 0; begin < rows; begin += kMostRows * kRows) {
    const size_t end = std::min(rows, begin + kMostRows * kRows);
    InBytes counted;
    for (size_t row = begin; row < end; row += kRows) {
      const size_t here = std::min(kRows, end - row);
      const __mmask64 mask = First(here * kChannels);
      const __m512i loaded = limits.Load(codes + row * kChannels, mask), size = _mm512_sad_epu8(loaded, limits.zero);
      const __mmask64 fires = counted.Add(loaded, mask, limits);
      sizes = _mm512_add_epi64(sizes, size);
      if (!kMapped) continue;
      const __m512i of_rows = _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << here) - 1), of.map + row);
      const __m512i synapses = _mm512_maskz_permutexvar_epi32(kEven, row_of, of_rows);
      const __m512i firing = _mm512_sad_epu8(_mm512_maskz_mov_epi8(fires, limits.one), none);
      reached = _mm512_add_epi64(reached, _mm512_mul_epu32(size, synapses));
      events = _mm512_add_epi64(events, _mm512_mul_epu32(firing, synapses));
    }
    counted.AddTo(of, kChannels, kVector);
  }
  return {_mm512_reduce_add_epi64(sizes), _mm512_reduce_add_epi64(reached), _mm512_reduce_add_epi64(events)};
}

template <bool kMapped>
RowSums CountVectors(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const Limits& all, const OfRows& of) {
  const LimitsOf limits(all);
  if (channels != stride) return CountLongRows<kMapped>(codes, rows, channels, stride, limits, of);
  if (channels == kVector / 2) return CountShortRows<kMapped, 2>(codes, rows, limits, of);
  if (channels == kVector / 4) return CountShortRows<kMapped, 4>(codes, rows, limits, of);
  if (channels == kVector / 8) return CountShortRows<kMapped, 8>(codes, rows, limits, of);
  return CountLongRows<kMapped>(codes, rows, channels, stride, limits, of);
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
    counted.limited += __builtin_popcountll(limits.Reached(mask, loaded));
  }
  counted.sizes = _mm512_reduce_add_epi64(sizes);
  return counted;
}

#endif  // PMSM_VNNI

}  // namespace

RowSums CountRows(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const Limits& limits, const OfRows& of) {
#ifdef PMSM_VNNI
  if (HasVnni() && LimitsOf::Fits(limits)) {
    return of.map ? CountVectors<true>(codes, rows, channels, stride, limits, of)
                  : CountVectors<false>(codes, rows, channels, stride, limits, of);
  }
#endif
  return CountRowsAnywhere(codes, rows, channels, stride, limits, of);
}

Counted CountRun(const uint8_t* codes, size_t length, const Limits& limits) {
#ifdef PMSM_VNNI
  if (HasVnni() && LimitsOf::Fits(limits)) return CountRunOfVectors(codes, length, limits);
#endif
  return CountRunAnywhere(codes, length, limits);
}

PMSM_WIDER_VECTORS int64_t PutChannels(const uint32_t* of_channels, size_t channels, float* counts) {
  int64_t firing = 0;
  for (size_t i = 0; i < channels; ++i) firing += of_channels[i];
  PMSM_INDEPENDENT
  for (size_t i = 0; i < 2 * channels; ++i) counts[i] = static_cast<float>(static_cast<int32_t>(of_channels[i]));
  return firing;
}

PMSM_WIDER_VECTORS void AddChannels(const uint32_t* more, size_t count, uint32_t* of_channels) {
  PMSM_INDEPENDENT
  for (size_t i = 0; i < count; ++i) of_channels[i] += more[i];
}

}  // namespace pmsm

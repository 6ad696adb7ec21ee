#include "convolution_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "avx512.h"
#include "vectors.h"

namespace pmsm {
namespace {

// Far from what 32 bits hold, and above every bound.
constexpr float kLargest = 1073741824.0f;

// ---------------------------------------------------------------------------------------------------- any processor

int32_t CodeOf(float wanted, const Rounding& rounding, size_t slot, size_t bounds) {
  const float count = RoundHalfEven(std::max(-kLargest, std::min(kLargest, wanted)));
  const int32_t code = static_cast<int32_t>(count) + rounding.zero[slot];
  return std::min<int32_t>(std::max<int32_t>(code, rounding.lowest[bounds]), rounding.highest[bounds]);
}

// The codes of one sum, which wraps around as vectors do. `slot` is where its numbers are, `bounds` where its bounds, `at` where the results go.
void Become(uint32_t products, const Becoming& becoming, const Results& results, size_t slot, size_t bounds, size_t at) {
  const int32_t all = static_cast<int32_t>(products + static_cast<uint32_t>(becoming.bias[slot]));
  const float wanted = static_cast<float>(all) * becoming.factor[slot];
  int32_t code = CodeOf(wanted, becoming.code, slot, bounds);
  if (becoming.adds) {
    const float own = static_cast<float>(code), other = static_cast<float>(results.others[at]);
    const float term = becoming.term[slot];
    const float sum = becoming.own_first
                          ? std::fma(own, becoming.own[slot], std::fma(other, becoming.other[slot], term))
                          : std::fma(other, becoming.other[slot], std::fma(own, becoming.own[slot], term));
    code = CodeOf(sum, becoming.sum, slot, bounds);
  }
  results.codes[at] = static_cast<uint8_t>(code);
  if (becoming.fires) {
    const float firing = static_cast<float>(code) * becoming.firing[slot] + becoming.resting[slot];
    results.neurons[at] = static_cast<uint8_t>(CodeOf(firing, becoming.neuron, slot, bounds));
  }
}

void DenseAnywhere(const DenseTile& tile, const Becoming& becoming, const Results& results) {
  const size_t lanes = tile.block.Vectors() * kLanes;
  for (size_t place = 0; place < tile.count; ++place) {
    uint32_t sums[kBlock] = {};
    const int8_t* weights = tile.weights;
    for (size_t run = 0; run < tile.runs; ++run) {
      const uint8_t* codes = tile.rows[run * tile.stride + place];
      for (size_t word = 0; word < tile.words; ++word, codes += kWord) {
        for (size_t lane = 0; lane < lanes; ++lane, weights += kWord) {
          for (size_t i = 0; i < kWord; ++i) sums[lane] += static_cast<uint32_t>(codes[i] * weights[i]);
        }
      }
    }
    const size_t at = (tile.place + place) * results.channels + tile.block.channel;
    for (size_t i = 0; i < tile.block.channels; ++i) {
      Become(sums[i], becoming, results, tile.block.slot + i, tile.block.slot + i, at + i);
    }
  }
}

void DepthwiseAnywhere(const DepthwiseTile& tile, const Becoming& becoming, const Results& results) {
  for (size_t place = 0; place < tile.count; ++place) {
    const size_t at = (tile.place + place) * results.channels + tile.block.channel;
    for (size_t slot = 0; slot < kBlock; ++slot) {
      const size_t channel = InterleavedChannel(slot / kLanes, slot % kLanes);
      if (channel >= tile.block.channels) continue;
      uint32_t sum = 0;
      for (size_t tap = 0; tap < tile.count_of_taps; ++tap) {
        const int8_t weight = tile.weights[(tap / kWord * kBlock + slot) * kWord + tap % kWord];
        sum += static_cast<uint32_t>(tile.taps[tap][place * tile.step + tile.block.channel + channel] * weight);
      }
      Become(sum, becoming, results, tile.block.slot + slot, tile.block.slot + channel, at + channel);
    }
  }
}

// ---------------------------------------------------------------------------------------------------- AVX-512 VNNI

#ifdef PMSM_VNNI

// `Rounding` and `Becoming` of one block as plain pointers: bytes may be stored without anything being read again.
template <typename Element>
const Element* From(const std::vector<Element>& values, size_t at) {
  return values.empty() ? nullptr : values.data() + at;
}

struct RoundingOf {
  const int32_t* zero;
  const uint8_t *lowest, *highest;

  RoundingOf(const Rounding& all, size_t slot)
      : zero(From(all.zero, slot)), lowest(From(all.lowest, slot)), highest(From(all.highest, slot)) {}
};

struct BecomingOf {
  const float *factor, *own, *other, *term, *firing, *resting;
  RoundingOf code, sum, neuron;
  const uint8_t* others;
  uint8_t *codes, *neurons;
  size_t channels, stride;  // of the block, of all of them
  bool own_first;

  BecomingOf(const Becoming& all, const Results& results, const Block& block, size_t place)
      : factor(From(all.factor, block.slot)), own(From(all.own, block.slot)), other(From(all.other, block.slot)),
        term(From(all.term, block.slot)), firing(From(all.firing, block.slot)), resting(From(all.resting, block.slot)),
        code(all.code, block.slot), sum(all.sum, block.slot), neuron(all.neuron, block.slot), others(results.others),
        codes(results.codes), neurons(results.neurons), channels(block.channels), stride(results.channels),
        own_first(all.own_first) {
    const size_t at = place * results.channels + block.channel;
    codes += at;
    if (others) others += at;
    if (neurons) neurons += at;
  }
};

// Numbers, rounded, become bytes in the order of channels; what is beyond the vectors is undefined.
template <size_t kOfBlock, bool kInterleaved = false>
PMSM_VNNI PMSM_INLINE __m512i Codes(const __m512* wanted, const RoundingOf& rounding) {
  __m512i codes[kVectors];
  for (size_t n = 0; n < kVectors; ++n) {
    codes[n] = n < kOfBlock ? _mm512_add_epi32(_mm512_cvtps_epi32(wanted[n]), _mm512_loadu_si512(rounding.zero + n * kLanes))
                            : codes[0];
  }
  // Each quarter gets four numbers of each vector.
  __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(codes[0], codes[1]), _mm512_packs_epi32(codes[2], codes[3]));
  if (!kInterleaved) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    bytes = _mm512_permutexvar_epi32(order, bytes);
  }
  const __m512i raised = _mm512_max_epu8(bytes, _mm512_loadu_si512(rounding.lowest));
  return _mm512_min_epu8(raised, _mm512_loadu_si512(rounding.highest));
}

// The codes of neighbouring channels as numbers.
template <size_t kOfBlock>
PMSM_VNNI PMSM_INLINE void Numbers(__m512i codes, __m512* numbers) {
  numbers[0] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_castsi512_si128(codes)));
  if (kOfBlock > 1) numbers[1] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(codes, 1)));
  if (kOfBlock > 2) numbers[2] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(codes, 2)));
  if (kOfBlock > 3) numbers[3] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(codes, 3)));
}

// Bytes to where they belong; `channels` of them, more than the vectors before the last one hold.
template <size_t kOfBlock>
PMSM_VNNI PMSM_INLINE void Store(uint8_t* at, __m512i bytes, size_t channels) {
  if (channels == kBlock) {
    _mm512_storeu_si512(at, bytes);
  } else if (channels < kOfBlock * kLanes) {
    _mm512_mask_storeu_epi8(at, (1ull << channels) - 1, bytes);
  } else {  // masked stores are slow
    if (kOfBlock > 1) _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), _mm512_castsi512_si256(bytes));
    if (kOfBlock == 1) _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_castsi512_si128(bytes));
    if (kOfBlock == 3) _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 32), _mm512_extracti32x4_epi32(bytes, 2));
  }
}

PMSM_VNNI PMSM_INLINE __m512i LoadCodes(const uint8_t* at, size_t channels) {
  if (channels >= kBlock) return _mm512_loadu_si512(at);
  return _mm512_maskz_loadu_epi8((1ull << channels) - 1, at);
}

// The sums of a block at a place become codes.
template <size_t kOfBlock, bool kAdds, bool kFires>
PMSM_VNNI PMSM_INLINE void Become(const __m512i* sums, const BecomingOf& becoming, size_t at) {
  __m512 numbers[kVectors];
  for (size_t n = 0; n < kOfBlock; ++n) {
    numbers[n] = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[n]), _mm512_loadu_ps(becoming.factor + n * kLanes));
  }
  __m512i codes = Codes<kOfBlock>(numbers, becoming.code);
  if (kAdds) {
    __m512 others[kVectors];
    Numbers<kOfBlock>(codes, numbers);
    Numbers<kOfBlock>(LoadCodes(becoming.others + at, becoming.channels), others);
    for (size_t n = 0; n < kOfBlock; ++n) {
      const __m512 own = _mm512_loadu_ps(becoming.own + n * kLanes), other = _mm512_loadu_ps(becoming.other + n * kLanes);
      const __m512 term = _mm512_loadu_ps(becoming.term + n * kLanes);
      numbers[n] = becoming.own_first ? _mm512_fmadd_ps(numbers[n], own, _mm512_fmadd_ps(others[n], other, term))
                                      : _mm512_fmadd_ps(others[n], other, _mm512_fmadd_ps(numbers[n], own, term));
    }
    codes = Codes<kOfBlock>(numbers, becoming.sum);
  }
  Store<kOfBlock>(becoming.codes + at, codes, becoming.channels);
  if (kFires) {
    Numbers<kOfBlock>(codes, numbers);
    for (size_t n = 0; n < kOfBlock; ++n) {
      const __m512 scaled = _mm512_mul_ps(numbers[n], _mm512_loadu_ps(becoming.firing + n * kLanes));
      numbers[n] = _mm512_add_ps(scaled, _mm512_loadu_ps(becoming.resting + n * kLanes));
    }
    Store<kOfBlock>(becoming.neurons + at, Codes<kOfBlock>(numbers, becoming.neuron), becoming.channels);
  }
}

// What will be read and written at places further on: it comes from afar.
template <bool kAdds, bool kFires>
PMSM_VNNI PMSM_INLINE void Fetch(const BecomingOf& becoming, size_t place, size_t end) {
  for (; place < end; ++place) {
    const size_t at = place * becoming.stride;
    if (kAdds) __builtin_prefetch(becoming.others + at, 0);
    __builtin_prefetch(becoming.codes + at, 1);
    if (kFires) __builtin_prefetch(becoming.neurons + at, 1);
  }
}

// The sums of a block at neighbouring places, of which `count` are wanted, and what becomes of them.
template <size_t kPlaces, size_t kOfBlock, bool kAdds, bool kFires>
PMSM_VNNI PMSM_INLINE void SumUp(const DenseTile& tile, const int32_t* bias, const BecomingOf& becoming, size_t place,
                                 size_t count) {
  __m512i sums[kPlaces][kOfBlock];
  for (size_t n = 0; n < kOfBlock; ++n) {
    for (size_t m = 0; m < kPlaces; ++m) sums[m][n] = _mm512_loadu_si512(bias + n * kLanes);
  }
  const int8_t* weights = tile.weights;
  const uint8_t* const* rows = tile.rows + place;
  for (size_t run = 0; run < tile.runs; ++run, rows += tile.stride) {
    const uint8_t* codes[kPlaces];
    for (size_t m = 0; m < kPlaces; ++m) codes[m] = rows[m];
    for (size_t at = 0; at < tile.words * kWord; at += kWord, weights += kOfBlock * 64) {
      __m512i of_word[kOfBlock];
      for (size_t n = 0; n < kOfBlock; ++n) of_word[n] = _mm512_loadu_si512(weights + n * 64);
      for (size_t m = 0; m < kPlaces; ++m) {
        int32_t word;
        std::memcpy(&word, codes[m] + at, sizeof word);
        const __m512i four = _mm512_set1_epi32(word);
        for (size_t n = 0; n < kOfBlock; ++n) sums[m][n] = _mm512_dpbusd_epi32(sums[m][n], four, of_word[n]);
      }
    }
  }
  for (size_t m = 0; m < kPlaces; ++m) {
    if (m < count) Become<kOfBlock, kAdds, kFires>(sums[m], becoming, (place + m) * becoming.stride);
  }
}

// As many places at a time as there are sums for in registers; fewer where there are no more.
template <size_t kPlaces, size_t kOfBlock, bool kAdds, bool kFires>
PMSM_VNNI void DenseVnni(const DenseTile& given, const Becoming& becoming, const Results& results) {
  const DenseTile tile = given;
  const BecomingOf here(becoming, results, tile.block, tile.place);
  const int32_t* bias = becoming.bias.data() + tile.block.slot;
  size_t place = 0;
  for (; place + kPlaces <= tile.count; place += kPlaces) {
    if (kAdds || kFires) Fetch<kAdds, kFires>(here, place + kPlaces, std::min(place + 2 * kPlaces, tile.count));
    SumUp<kPlaces, kOfBlock, kAdds, kFires>(tile, bias, here, place, kPlaces);
  }
  for (; place < tile.count; place += kPlaces / 2) {
    SumUp<kPlaces / 2, kOfBlock, kAdds, kFires>(tile, bias, here, place, std::min(kPlaces / 2, tile.count - place));
  }
}

template <size_t kPlaces, size_t kOfBlock>
PMSM_VNNI void DenseVnni(const DenseTile& tile, const Becoming& becoming, const Results& results) {
  if (becoming.adds && becoming.fires) DenseVnni<kPlaces, kOfBlock, true, true>(tile, becoming, results);
  else if (becoming.adds) DenseVnni<kPlaces, kOfBlock, true, false>(tile, becoming, results);
  else if (becoming.fires) DenseVnni<kPlaces, kOfBlock, false, true>(tile, becoming, results);
  else DenseVnni<kPlaces, kOfBlock, false, false>(tile, becoming, results);
}

// Four taps of 64 channels become words of four taps of a channel, `InterleavedChannel` by channel.
PMSM_VNNI PMSM_INLINE void Interleave(const __m512i* taps, __m512i* words) {
  const __m512i low_a = _mm512_unpacklo_epi8(taps[0], taps[1]), high_a = _mm512_unpackhi_epi8(taps[0], taps[1]);
  const __m512i low_b = _mm512_unpacklo_epi8(taps[2], taps[3]), high_b = _mm512_unpackhi_epi8(taps[2], taps[3]);
  words[0] = _mm512_unpacklo_epi16(low_a, low_b);
  words[1] = _mm512_unpackhi_epi16(low_a, low_b);
  words[2] = _mm512_unpacklo_epi16(high_a, high_b);
  words[3] = _mm512_unpackhi_epi16(high_a, high_b);
}

// `kTaps` of 0: as many as the tile says.
template <size_t kTaps, bool kWhole>
PMSM_VNNI PMSM_INLINE void DepthwiseVnni(const DepthwiseTile& tile, const Becoming& becoming, const Results& results) {
  const size_t all = kTaps ? kTaps : tile.count_of_taps, count = tile.count, step = tile.step;
  const BecomingOf here(becoming, results, tile.block, tile.place);
  const size_t channels = kWhole ? kBlock : here.channels;
  const int32_t* bias = becoming.bias.data() + tile.block.slot;
  const uint8_t* first_place[kTaps ? kTaps : 1];
  for (size_t tap = 0; tap < kTaps; ++tap) first_place[tap] = tile.taps[tap] + tile.block.channel;
  size_t at = 0;
  for (size_t place = 0; place < count; ++place, at += step) {
    const int8_t* weights = tile.weights;
    __m512i sums[kVectors];
    for (size_t n = 0; n < kVectors; ++n) sums[n] = _mm512_loadu_si512(bias + n * kLanes);
    for (size_t first = 0; first < all; first += kWord, weights += kBlock * kWord) {
      __m512i taps[kWord], words[kVectors];
      for (size_t i = 0; i < kWord; ++i) {
        taps[i] = _mm512_setzero_si512();
        if (first + i >= all) continue;
        const uint8_t* codes = kTaps ? first_place[first + i] : tile.taps[first + i] + tile.block.channel;
        taps[i] = LoadCodes(codes + at, channels);
      }
      Interleave(taps, words);
      for (size_t n = 0; n < kVectors; ++n) {
        sums[n] = _mm512_dpbusd_epi32(sums[n], words[n], _mm512_loadu_si512(weights + n * 64));
      }
    }
    __m512 numbers[kVectors];
    for (size_t n = 0; n < kVectors; ++n) {
      numbers[n] = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[n]), _mm512_loadu_ps(here.factor + n * kLanes));
    }
    Store<kVectors>(here.codes + place * here.stride, Codes<kVectors, true>(numbers, here.code), channels);
  }
}

PMSM_VNNI void DepthwiseVnni(const DepthwiseTile& tile, const Becoming& becoming, const Results& results) {
  const bool whole = tile.block.channels == kBlock, three_by_three = tile.count_of_taps == 9;
  if (three_by_three && whole) DepthwiseVnni<9, true>(tile, becoming, results);
  else if (three_by_three) DepthwiseVnni<9, false>(tile, becoming, results);
  else if (whole) DepthwiseVnni<0, true>(tile, becoming, results);
  else DepthwiseVnni<0, false>(tile, becoming, results);
}

#endif  // PMSM_VNNI

}  // namespace

bool MultipliesFast() {
#ifdef PMSM_VNNI
  static const bool fast = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  return fast;
#else
  return false;
#endif
}

void Dense(const DenseTile& tile, const Becoming& becoming, const Results& results) {
#ifdef PMSM_VNNI
  if (MultipliesFast() && becoming.tame) {
    switch (tile.block.Vectors()) {
      case 1: return DenseVnni<12, 1>(tile, becoming, results);
      case 2: return DenseVnni<8, 2>(tile, becoming, results);
      case 3: return DenseVnni<6, 3>(tile, becoming, results);
      default: return DenseVnni<6, 4>(tile, becoming, results);
    }
  }
#endif
  DenseAnywhere(tile, becoming, results);
}

void Depthwise(const DepthwiseTile& tile, const Becoming& becoming, const Results& results) {
#ifdef PMSM_VNNI
  if (MultipliesFast() && becoming.tame) {
    return DepthwiseVnni(tile, becoming, results);
  }
#endif
  DepthwiseAnywhere(tile, becoming, results);
}

}  // namespace pmsm

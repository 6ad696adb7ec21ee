#include "convolution_kernels.h"

#include <algorithm>
#include <cstring>

#include "convolution_anywhere.h"
#include "convolution_on_avx2.h"
#include "convolution_on_tiles.h"
#include "convolution_rows.h"
#include "processor.h"
#include "sums_to_codes.h"
#include "targets.h"
#include "vectors.h"

namespace pmsm {
namespace {

#ifdef PMSM_VNNI

// The sums of a block at neighbouring places, of which `count` are wanted, to whatever takes them.
template <size_t kPlaces, size_t kOfBlock, typename Taker>
PMSM_VNNI PMSM_INLINE void SumUp(const DenseTile& tile, const int32_t* bias, const Taker& take, size_t place, size_t count) {
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
    if (m < count) take(sums[m], place + m);
  }
}

// As many places at a time as there are sums for in registers; fewer where there are no more.
template <size_t kPlaces, size_t kOfBlock, bool kAdds, bool kFires>
PMSM_VNNI void DenseVnni(const DenseTile& given, const Becoming& becoming, const Results& results) {
  const DenseTile tile = given;
  const BecomingOf here(becoming, results, tile.block, tile.place);
  const VectorsToCodes<kOfBlock, kAdds, kFires> take{here};
  const int32_t* bias = becoming.bias.data() + tile.block.slot;
  size_t place = 0;
  for (; place + kPlaces <= tile.count; place += kPlaces) {
    if (kAdds || kFires) Fetch<kAdds, kFires>(here, place + kPlaces, std::min(place + 2 * kPlaces, tile.count));
    SumUp<kPlaces, kOfBlock>(tile, bias, take, place, kPlaces);
  }
  for (; place < tile.count; place += kPlaces / 2) {
    SumUp<kPlaces / 2, kOfBlock>(tile, bias, take, place, std::min(kPlaces / 2, tile.count - place));
  }
}

template <size_t kPlaces, size_t kOfBlock>
PMSM_VNNI void SumsVnni(const DenseTile& given, const int32_t* bias, int32_t* sums) {
  const DenseTile tile = given;
  const VectorsToSums<kOfBlock> take{sums};
  size_t place = 0;
  for (; place + kPlaces <= tile.count; place += kPlaces) SumUp<kPlaces, kOfBlock>(tile, bias, take, place, kPlaces);
  for (; place < tile.count; place += kPlaces / 2) {
    SumUp<kPlaces / 2, kOfBlock>(tile, bias, take, place, std::min(kPlaces / 2, tile.count - place));
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

// What takes the sums of a place, `InterleavedChannel` by channel.
struct InterleavedToCodes {
  const BecomingOf& becoming;

  PMSM_VNNI PMSM_INLINE void operator()(const __m512i* sums, size_t place, size_t channels) const {
    __m512 numbers[kVectors];
    for (size_t n = 0; n < kVectors; ++n) {
      numbers[n] = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[n]), _mm512_loadu_ps(becoming.factor + n * kLanes));
    }
    Store<kVectors>(becoming.codes + place * becoming.stride, Codes<kVectors, true>(numbers, becoming.code), channels);
  }
};

struct InterleavedToSums {
  int32_t* to;

  PMSM_VNNI PMSM_INLINE void operator()(const __m512i* sums, size_t place, size_t) const {
    // Vector n has the n-th four of every sixteen channels.
    for (size_t n = 0; n < kVectors; ++n) {
      int32_t* four = to + place * kBlock + n * 4;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(four), _mm512_castsi512_si128(sums[n]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(four + 16), _mm512_extracti32x4_epi32(sums[n], 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(four + 32), _mm512_extracti32x4_epi32(sums[n], 2));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(four + 48), _mm512_extracti32x4_epi32(sums[n], 3));
    }
  }
};

// `kTaps` of 0: as many as the tile says. The places from begin to before end, so many at a time, which lie side by side.
template <size_t kTaps, bool kWhole, typename Taker>
PMSM_VNNI PMSM_INLINE void DepthwiseVnni(const DepthwiseTile& tile, const int32_t* bias, const Taker& take, size_t begin,
                                         size_t end, size_t together) {
  const size_t all = kTaps ? kTaps : tile.count_of_taps, step = tile.step * together;
  const uint8_t* first_place[kTaps ? kTaps : 1];
  for (size_t tap = 0; tap < kTaps; ++tap) first_place[tap] = tile.taps[tap] + tile.block.channel;
  size_t at = begin * tile.step;
  for (size_t place = begin; place < end; place += together, at += step) {
    const size_t channels = kWhole ? kBlock : std::min(together, end - place) * tile.block.channels;
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
    take(sums, place, channels);
  }
}

template <typename Taker>
PMSM_VNNI PMSM_INLINE void DepthwiseVnni(const DepthwiseTile& tile, const int32_t* bias, const Taker& take, size_t together) {
  const bool three_by_three = tile.count_of_taps == 9;
  const size_t whole = tile.block.channels * together == kBlock ? tile.count / together * together : 0;
  if (three_by_three) {
    DepthwiseVnni<9, true>(tile, bias, take, 0, whole, together);
    DepthwiseVnni<9, false>(tile, bias, take, whole, tile.count, together);
  } else {
    DepthwiseVnni<0, true>(tile, bias, take, 0, whole, together);
    DepthwiseVnni<0, false>(tile, bias, take, whole, tile.count, together);
  }
}

PMSM_VNNI void DepthwiseVnni(const DepthwiseTile& tile, const Becoming& becoming, const Results& results) {
  const BecomingOf here(becoming, results, tile.block, tile.place);
  DepthwiseVnni(tile, becoming.bias.data() + tile.block.slot, InterleavedToCodes{here}, PlacesTogether(tile, results));
}

PMSM_VNNI void DepthwiseSumsVnni(const DepthwiseTile& tile, const int32_t* bias, int32_t* sums) {
  DepthwiseVnni(tile, bias, InterleavedToSums{sums}, 1);
}

#endif  // PMSM_VNNI

}  // namespace

PMSM_WIDER_VECTORS uint8_t MostOf(const uint8_t* codes, size_t count, uint8_t most) {
  for (size_t i = 0; i < count; ++i) most = std::max(most, codes[i]);
  return most;
}

void Dense(const DenseTile& tile, const Becoming& becoming, const Results& results) {
  if (tile.panels) return DenseOnTiles(tile, becoming, results);
#ifdef PMSM_VNNI
  if (HasVnni() && becoming.tame) {
    switch (tile.block.Vectors()) {
      case 1: return DenseVnni<12, 1>(tile, becoming, results);
      case 2: return DenseVnni<8, 2>(tile, becoming, results);
      case 3: return DenseVnni<6, 3>(tile, becoming, results);
      default: return DenseVnni<6, 4>(tile, becoming, results);
    }
  }
#endif
  if (AddsInPairs()) return DenseOnAvx2(tile, becoming, results);
  anywhere::Dense(tile, anywhere::ToCodes(tile, becoming, results));
}

void Depthwise(const DepthwiseTile& tile, const Becoming& becoming, const Results& results) {
#ifdef PMSM_VNNI
  if (HasVnni() && becoming.tame) {
    return DepthwiseVnni(tile, becoming, results);
  }
#endif
  if (AddsInPairs() && becoming.tame) return DepthwiseOnAvx2(tile, becoming, results);
  anywhere::Depthwise(tile, anywhere::ToCodes(tile, becoming, results));
}

void DenseSums(const DenseTile& tile, const int32_t* bias, int32_t* sums) {
  if (tile.panels) return DenseSumsOnTiles(tile, bias, sums);
#ifdef PMSM_VNNI
  if (HasVnni()) {
    switch (tile.block.Vectors()) {
      case 1: return SumsVnni<12, 1>(tile, bias, sums);
      case 2: return SumsVnni<8, 2>(tile, bias, sums);
      case 3: return SumsVnni<6, 3>(tile, bias, sums);
      default: return SumsVnni<6, 4>(tile, bias, sums);
    }
  }
#endif
  if (AddsInPairs()) return DenseSumsOnAvx2(tile, bias, sums);
  anywhere::Dense(tile, anywhere::ToSums(bias, sums));
}

void DepthwiseSums(const DepthwiseTile& tile, const int32_t* bias, int32_t* sums) {
#ifdef PMSM_VNNI
  if (HasVnni()) return DepthwiseSumsVnni(tile, bias, sums);
#endif
  if (AddsInPairs()) return DepthwiseSumsOnAvx2(tile, bias, sums);
  anywhere::Depthwise(tile, anywhere::ToSums(bias, sums));
}

}  // namespace pmsm

// What becomes of the sums of a convolution of codes, 64 output channels of a place at a time in AVX-512: for the kernels that make
// the sums with VNNI or with AMX.

#ifndef PMSM_SUMS_TO_CODES_H
#define PMSM_SUMS_TO_CODES_H

#include "convolution.h"
#include "targets.h"
#include "vectors.h"

#ifdef PMSM_VNNI

namespace pmsm {

// `Rounding` and `Becoming` of one block as plain pointers: bytes may be stored without anything being read again.
template <typename Element>
const Element* From(const Aligned<Element>& values, size_t at) {
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

// What takes the sums of a place: they become codes, or stay as they are.
template <size_t kOfBlock, bool kAdds, bool kFires>
struct VectorsToCodes {
  const BecomingOf& becoming;

  PMSM_VNNI PMSM_INLINE void operator()(const __m512i* sums, size_t place) const {
    Become<kOfBlock, kAdds, kFires>(sums, becoming, place * becoming.stride);
  }
  PMSM_VNNI PMSM_INLINE void Expect(size_t place, size_t end) const { Fetch<kAdds, kFires>(becoming, place, end); }
};

template <size_t kOfBlock>
struct VectorsToSums {
  int32_t* to;

  PMSM_VNNI PMSM_INLINE void operator()(const __m512i* sums, size_t place) const {
    for (size_t n = 0; n < kOfBlock; ++n) _mm512_storeu_si512(to + place * kBlock + n * kLanes, sums[n]);
  }
};

}  // namespace pmsm

#endif  // PMSM_VNNI

#endif

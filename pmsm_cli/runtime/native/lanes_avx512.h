// Sixteen floats in a vector of 512 bits, and what is done with them.

#ifndef PMSM_LANES_AVX512_H
#define PMSM_LANES_AVX512_H

#include "convolution.h"
#include "targets.h"
#include "vectors.h"

#ifdef PMSM_VNNI

namespace pmsm {
namespace avx512 {

using Floats = __m512;

PMSM_VNNI PMSM_INLINE Floats Spread(float number) { return _mm512_set1_ps(number); }
PMSM_VNNI PMSM_INLINE Floats Add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
PMSM_VNNI PMSM_INLINE Floats Subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
PMSM_VNNI PMSM_INLINE Floats Multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
PMSM_VNNI PMSM_INLINE Floats MultiplyAdd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
PMSM_VNNI PMSM_INLINE Floats MultiplySubtract(Floats a, Floats b, Floats c) { return _mm512_fmsub_ps(a, b, c); }
// Where either is not a number, the second one.
PMSM_VNNI PMSM_INLINE Floats Most(Floats a, Floats b) { return _mm512_max_ps(a, b); }
PMSM_VNNI PMSM_INLINE Floats Least(Floats a, Floats b) { return _mm512_min_ps(a, b); }
// To whole numbers, ties to the even one; 0 where what was asked for is not a number.
PMSM_VNNI PMSM_INLINE Floats RoundWhereNumbers(Floats a, Floats asked) {
  const __mmask16 numbers = _mm512_cmp_ps_mask(asked, asked, _CMP_ORD_Q);
  return _mm512_maskz_roundscale_ps(numbers, a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Sixteen channels; of the last ones of a layer, so many.
template <bool kWhole>
struct Lanes {
  __mmask16 mask;

  PMSM_VNNI explicit Lanes(size_t count) : mask(static_cast<__mmask16>((1u << count) - 1)) {}

  PMSM_VNNI PMSM_INLINE Floats Load(const float* at) const {
    return kWhole ? _mm512_loadu_ps(at) : _mm512_maskz_loadu_ps(mask, at);
  }
  PMSM_VNNI PMSM_INLINE Floats LoadSums(const int32_t* at) const {
    return _mm512_cvtepi32_ps(kWhole ? _mm512_loadu_si512(at) : _mm512_maskz_loadu_epi32(mask, at));
  }
  PMSM_VNNI PMSM_INLINE void Store(float* at, Floats numbers) const {
    if (kWhole) _mm512_storeu_ps(at, numbers);
    else _mm512_mask_storeu_ps(at, mask, numbers);
  }
  PMSM_VNNI PMSM_INLINE Floats LoadCodes(const uint8_t* at) const {
    const __m128i bytes = kWhole ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)) : _mm_maskz_loadu_epi8(mask, at);
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
  }
  // Counts and what is zero, in bytes.
  PMSM_VNNI PMSM_INLINE void StoreCodes(uint8_t* at, Floats counts, int32_t zero) const {
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(counts), _mm512_set1_epi32(zero)));
    if (kWhole) _mm_storeu_si128(reinterpret_cast<__m128i*>(at), bytes);
    else _mm_mask_storeu_epi8(at, mask, bytes);
  }
};

}  // namespace avx512
}  // namespace pmsm

#endif  // PMSM_VNNI

#endif

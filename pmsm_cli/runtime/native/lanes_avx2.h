// Sixteen floats in two vectors of 256 bits, with the operations of lanes_avx512.h and a division.

#ifndef PMSM_LANES_AVX2_H
#define PMSM_LANES_AVX2_H

#include <cstring>

#include "convolution.h"
#include "targets.h"
#include "vectors.h"

#ifdef PMSM_AVX2

namespace pmsm {
namespace avx2 {

constexpr size_t kHalfLanes = kLanes / 2;

struct Floats {
  __m256 low, high;
};

PMSM_AVX2 PMSM_INLINE Floats Spread(float number) { return {_mm256_set1_ps(number), _mm256_set1_ps(number)}; }
PMSM_AVX2 PMSM_INLINE Floats Add(const Floats& a, const Floats& b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
PMSM_AVX2 PMSM_INLINE Floats Subtract(const Floats& a, const Floats& b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
PMSM_AVX2 PMSM_INLINE Floats Multiply(const Floats& a, const Floats& b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
PMSM_AVX2 PMSM_INLINE Floats Divide(const Floats& a, const Floats& b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
PMSM_AVX2 PMSM_INLINE Floats MultiplyAdd(const Floats& a, const Floats& b, const Floats& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
PMSM_AVX2 PMSM_INLINE Floats MultiplySubtract(const Floats& a, const Floats& b, const Floats& c) {
  return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}
PMSM_AVX2 PMSM_INLINE Floats Most(const Floats& a, const Floats& b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
PMSM_AVX2 PMSM_INLINE Floats Least(const Floats& a, const Floats& b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
PMSM_AVX2 PMSM_INLINE Floats RoundWhereNumbers(const Floats& a, const Floats& asked) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_and_ps(_mm256_round_ps(a.low, kNearest), _mm256_cmp_ps(asked.low, asked.low, _CMP_ORD_Q)),
          _mm256_and_ps(_mm256_round_ps(a.high, kNearest), _mm256_cmp_ps(asked.high, asked.high, _CMP_ORD_Q))};
}

template <bool kWhole>
struct Lanes {
  size_t count;

  PMSM_AVX2 explicit Lanes(size_t of_them) : count(of_them) {}

  PMSM_AVX2 PMSM_INLINE Floats Load(const float* at) const {
    if (kWhole) return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + kHalfLanes)};
    float numbers[kLanes] = {};
    std::memcpy(numbers, at, count * sizeof(float));
    return {_mm256_loadu_ps(numbers), _mm256_loadu_ps(numbers + kHalfLanes)};
  }
  PMSM_AVX2 PMSM_INLINE Floats LoadSums(const int32_t* at) const {
    int32_t some[kLanes] = {};
    if (!kWhole) std::memcpy(some, at, count * sizeof(int32_t));
    const auto* sums = reinterpret_cast<const __m256i*>(kWhole ? at : some);
    return {_mm256_cvtepi32_ps(_mm256_loadu_si256(sums)), _mm256_cvtepi32_ps(_mm256_loadu_si256(sums + 1))};
  }
  PMSM_AVX2 PMSM_INLINE void Store(float* at, const Floats& numbers) const {
    float some[kLanes];
    float* to = kWhole ? at : some;
    _mm256_storeu_ps(to, numbers.low);
    _mm256_storeu_ps(to + kHalfLanes, numbers.high);
    if (!kWhole) std::memcpy(at, some, count * sizeof(float));
  }
  PMSM_AVX2 PMSM_INLINE Floats LoadCodes(const uint8_t* at) const {
    uint8_t some[kLanes] = {};
    if (!kWhole) std::memcpy(some, at, count);
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kWhole ? at : some));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  PMSM_AVX2 PMSM_INLINE void StoreCodes(uint8_t* at, const Floats& counts, int32_t zero) const {
    const __m256i above = _mm256_set1_epi32(zero);
    const __m256i low = _mm256_add_epi32(_mm256_cvtps_epi32(counts.low), above);
    const __m256i high = _mm256_add_epi32(_mm256_cvtps_epi32(counts.high), above);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    uint8_t some[kLanes];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(kWhole ? at : some), bytes);
    if (!kWhole) std::memcpy(at, some, count);
  }
};

}  // namespace avx2
}  // namespace pmsm

#endif  // PMSM_AVX2

#endif

#include "convolution_on_avx2.h"

#include <algorithm>
#include <cstring>

#include "convolution_anywhere.h"
#include "targets.h"
#include "vectors.h"

namespace pmsm {

#ifdef PMSM_AVX2
namespace {

constexpr size_t kHalf = 32;              // bytes of a vector of 256 bits, half the weights of a word of kLanes outputs
constexpr size_t kHalfLanes = kLanes / 2;  // its sums
constexpr size_t kHalves = 2;
constexpr size_t kOfWord = kHalves * kHalf;
constexpr size_t kPlaces = 3;  // whose sums, in 16 bits and in 32, are in registers together
static_assert(kPlaces <= kMostPlaces, "pointers behind the last place are read");

PMSM_AVX2 PMSM_INLINE __m256i Load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
PMSM_AVX2 PMSM_INLINE void Store(void* at, __m256i vector) { _mm256_storeu_si256(static_cast<__m256i*>(at), vector); }

PMSM_AVX2 PMSM_INLINE __m256i FourCodes(const uint8_t* codes) {
  int32_t word;
  std::memcpy(&word, codes, sizeof word);
  return _mm256_set1_epi32(word);
}

// GCC would add up many products at once, in an order of its own, and run out of registers.
PMSM_AVX2 PMSM_INLINE void KeepInRegister([[maybe_unused]] __m256i& vector) {
#if defined(__GNUC__)
  __asm__ volatile("" : "+x"(vector));
#endif
}

// Pairs of sums of 16 bits, times a number, onto sums of 32 bits.
PMSM_AVX2 PMSM_INLINE __m256i AddPairs(__m256i sums, __m256i pairs, __m256i times) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, times));
}

// The sums of kLanes outputs at kPlaces neighbouring places, of which some may be nobody's.
struct Sums {
  __m256i all[kPlaces][kHalves];

  PMSM_AVX2 PMSM_INLINE explicit Sums(const int32_t* bias) {
    for (size_t m = 0; m < kPlaces; ++m) {
      for (size_t n = 0; n < kHalves; ++n) all[m][n] = Load(bias + n * kHalfLanes);
    }
  }
  PMSM_AVX2 PMSM_INLINE void StoreAt(int32_t* to) const {
    for (size_t m = 0; m < kPlaces; ++m) {
      for (size_t n = 0; n < kHalves; ++n) Store(to + m * kBlock + n * kHalfLanes, all[m][n]);
    }
  }
};

// So many words' products, whose sums fit 16 bits.
template <size_t kWords>
PMSM_AVX2 PMSM_INLINE void AddWordsOfSmallCodes(const uint8_t* const* codes, size_t at, const int8_t* weights, Sums& sums) {
  __m256i pairs[kPlaces][kHalves];
  PMSM_UNROLLED
  for (size_t i = 0; i < kWords; ++i, at += kWord, weights += kOfWord) {
    const __m256i word[kHalves] = {Load(weights), Load(weights + kHalf)};
    for (size_t m = 0; m < kPlaces; ++m) {
      const __m256i four = FourCodes(codes[m] + at);
      for (size_t n = 0; n < kHalves; ++n) {
        const __m256i products = _mm256_maddubs_epi16(four, word[n]);
        pairs[m][n] = i ? _mm256_add_epi16(pairs[m][n], products) : products;
        KeepInRegister(pairs[m][n]);
      }
    }
  }
  const __m256i once = _mm256_set1_epi16(1);
  for (size_t m = 0; m < kPlaces; ++m) {
    for (size_t n = 0; n < kHalves; ++n) sums.all[m][n] = AddPairs(sums.all[m][n], pairs[m][n], once);
  }
}

// Half of each code, four bits: eight words of their products fit, whatever the weights.
template <bool kHigh>
PMSM_AVX2 PMSM_INLINE __m256i FourBits(__m256i codes) {
  return _mm256_and_si256(kHigh ? _mm256_srli_epi16(codes, 4) : codes, _mm256_set1_epi8(15));
}

// So many words' products of large codes, their low bits and their high ones each on its own.
template <size_t kWords>
PMSM_AVX2 PMSM_INLINE void AddWordsOfLargeCodes(const uint8_t* const* codes, size_t at, const int8_t* weights, Sums& sums) {
  const __m256i once = _mm256_set1_epi16(1), sixteen_times = _mm256_set1_epi16(16);
  for (size_t n = 0; n < kHalves; ++n) {
    __m256i low[kPlaces], high[kPlaces];
    PMSM_UNROLLED
    for (size_t i = 0; i < kWords; ++i) {
      const __m256i word = Load(weights + i * kOfWord + n * kHalf);
      for (size_t m = 0; m < kPlaces; ++m) {
        __m256i four = FourCodes(codes[m] + at + i * kWord);
        KeepInRegister(four);  // for this half alone
        const __m256i of_low = _mm256_maddubs_epi16(FourBits<false>(four), word);
        const __m256i of_high = _mm256_maddubs_epi16(FourBits<true>(four), word);
        low[m] = i ? _mm256_add_epi16(low[m], of_low) : of_low;
        high[m] = i ? _mm256_add_epi16(high[m], of_high) : of_high;
        KeepInRegister(low[m]);
        KeepInRegister(high[m]);
      }
    }
    for (size_t m = 0; m < kPlaces; ++m) {
      sums.all[m][n] = AddPairs(AddPairs(sums.all[m][n], low[m], once), high[m], sixteen_times);
    }
  }
}

template <size_t kWords, bool kLarge>
PMSM_AVX2 PMSM_INLINE void AddWords(const uint8_t* const* codes, size_t at, const int8_t* weights, Sums& sums) {
  if (kLarge) AddWordsOfLargeCodes<kWords>(codes, at, weights, sums);
  else AddWordsOfSmallCodes<kWords>(codes, at, weights, sums);
}

// All words of the tile, so many of a run at a time.
template <size_t kWords, bool kLarge>
PMSM_AVX2 PMSM_INLINE void AddRuns(const DenseTile& tile, const uint8_t* const* rows, const int8_t* weights, Sums& sums) {
  const size_t bytes = tile.words * kWord;
  for (size_t run = 0; run < tile.runs; ++run, rows += tile.stride) {
    const uint8_t* codes[kPlaces];
    for (size_t m = 0; m < kPlaces; ++m) codes[m] = rows[m];
    size_t at = 0;
    for (; at + kWords * kWord <= bytes; at += kWords * kWord, weights += kWords * kOfWord) {
      AddWords<kWords, kLarge>(codes, at, weights, sums);
    }
    for (; at < bytes; at += kWord, weights += kOfWord) AddWords<1, kLarge>(codes, at, weights, sums);
  }
}

// A vector of output channels at all places.
template <size_t kWords, bool kLarge = false>
PMSM_AVX2 void SumUp(const DenseTile& given, const int8_t* weights, const int32_t* bias, int32_t* to) {
  const DenseTile tile = given;
  for (size_t place = 0; place < tile.count; place += kPlaces) {
    Sums sums(bias);
    AddRuns<kWords, kLarge>(tile, tile.rows + place, weights, sums);
    sums.StoreAt(to + place * kBlock);
  }
}

void SumUpVector(const DenseTile& tile, size_t vector, const int32_t* bias, int32_t* sums) {
  const int8_t* weights = tile.weights + vector * tile.runs * tile.words * kOfWord;
  switch (tile.narrow.Words(vector)) {
    case 8: return SumUp<8>(tile, weights, bias, sums);
    case 4: return SumUp<4>(tile, weights, bias, sums);
    case 2: return SumUp<2>(tile, weights, bias, sums);
    case 1: return SumUp<1>(tile, weights, bias, sums);
    default: return SumUp<8, true>(tile, weights, bias, sums);
  }
}

// ---------------------------------------------------------------------------------------------------- codes

constexpr size_t kHalfBlock = kBlock / 2;
constexpr size_t kQuarters = kHalfBlock / kHalfLanes;

// The first so many of the eight words of a vector.
PMSM_AVX2 PMSM_INLINE __m256i FirstWords(size_t words) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(words)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Up to 32 codes; what is behind the last one is undefined.
PMSM_AVX2 PMSM_INLINE __m256i LoadCodes(const uint8_t* at, size_t count) {
  if (count >= kHalfBlock) return Load(at);
  if (count == kHalfBlock / 2) return _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  if (count % kWord == 0) return _mm256_maskload_epi32(reinterpret_cast<const int*>(at), FirstWords(count / kWord));
  alignas(kHalf) uint8_t codes[kHalf] = {};
  std::memcpy(codes, at, count);
  return Load(codes);
}

PMSM_AVX2 PMSM_INLINE void StoreCodes(uint8_t* at, __m256i codes, size_t count) {
  if (count >= kHalfBlock) return Store(at, codes);
  if (count == kHalfBlock / 2) return _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm256_castsi256_si128(codes));
  if (count % kWord == 0) return _mm256_maskstore_epi32(reinterpret_cast<int*>(at), FirstWords(count / kWord), codes);
  alignas(kHalf) uint8_t some[kHalf];
  Store(some, codes);
  std::memcpy(at, some, count);
}

// Of 32 channels.
struct Numbers {
  __m256 quarter[kQuarters];
};

PMSM_AVX2 PMSM_INLINE __m256 At(const Aligned<float>& numbers, size_t slot, size_t quarter) {
  return _mm256_loadu_ps(numbers.data() + slot + quarter * kHalfLanes);
}

PMSM_AVX2 PMSM_INLINE Numbers NumbersOf(__m256i codes) {
  const __m128i low = _mm256_castsi256_si128(codes), high = _mm256_extracti128_si256(codes, 1);
  const __m128i eight[kQuarters] = {low, _mm_srli_si128(low, 8), high, _mm_srli_si128(high, 8)};
  Numbers numbers;
  for (size_t n = 0; n < kQuarters; ++n) numbers.quarter[n] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight[n]));
  return numbers;
}

// Counts above zero become bytes, four of each vector to either half.
PMSM_AVX2 PMSM_INLINE __m256i Bytes(const __m256i* counts) {
  return _mm256_packus_epi16(_mm256_packs_epi32(counts[0], counts[1]), _mm256_packs_epi32(counts[2], counts[3]));
}

PMSM_AVX2 PMSM_INLINE __m256i Bounded(__m256i codes, const Rounding& rounding, size_t slot) {
  return _mm256_min_epu8(_mm256_max_epu8(codes, Load(rounding.lowest.data() + slot)), Load(rounding.highest.data() + slot));
}

// Numbers, rounded, become codes.
PMSM_AVX2 PMSM_INLINE __m256i Codes(const Numbers& wanted, const Rounding& rounding, size_t slot) {
  __m256i counts[kQuarters];
  for (size_t n = 0; n < kQuarters; ++n) {
    counts[n] = _mm256_add_epi32(_mm256_cvtps_epi32(wanted.quarter[n]), Load(rounding.zero.data() + slot + n * kHalfLanes));
  }
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return Bounded(_mm256_permutevar8x32_epi32(Bytes(counts), in_order), rounding, slot);
}

// The sums of up to 32 output channels of a place become codes; `at` is where these go.
template <bool kAdds, bool kFires>
PMSM_AVX2 PMSM_INLINE void Become(const int32_t* sums, const Becoming& becoming, const Results& results, size_t slot, size_t at,
                                  size_t channels) {
  Numbers numbers;
  for (size_t n = 0; n < kQuarters; ++n) {
    numbers.quarter[n] = _mm256_mul_ps(_mm256_cvtepi32_ps(Load(sums + n * kHalfLanes)), At(becoming.factor, slot, n));
  }
  __m256i codes = Codes(numbers, becoming.code, slot);
  if (kAdds) {
    const Numbers own = NumbersOf(codes), others = NumbersOf(LoadCodes(results.others + at, channels));
    for (size_t n = 0; n < kQuarters; ++n) {
      const __m256 by_own = At(becoming.own, slot, n), by_other = At(becoming.other, slot, n), term = At(becoming.term, slot, n);
      const __m256 first = becoming.own_first ? own.quarter[n] : others.quarter[n];
      const __m256 second = becoming.own_first ? others.quarter[n] : own.quarter[n];
      numbers.quarter[n] = _mm256_fmadd_ps(first, becoming.own_first ? by_own : by_other,
                                           _mm256_fmadd_ps(second, becoming.own_first ? by_other : by_own, term));
    }
    codes = Codes(numbers, becoming.sum, slot);
  }
  StoreCodes(results.codes + at, codes, channels);
  if (kFires) {
    numbers = NumbersOf(codes);
    for (size_t n = 0; n < kQuarters; ++n) {
      const __m256 scaled = _mm256_mul_ps(numbers.quarter[n], At(becoming.firing, slot, n));
      numbers.quarter[n] = _mm256_add_ps(scaled, At(becoming.resting, slot, n));
    }
    StoreCodes(results.neurons + at, Codes(numbers, becoming.neuron, slot), channels);
  }
}

template <bool kAdds, bool kFires>
PMSM_AVX2 void BecomeCodes(const DenseTile& tile, const int32_t* sums, const Becoming& becoming, const Results& given) {
  const Results results = given;  // nothing that is stored changes it
  const Block block = tile.block;
  for (size_t m = 0; m < tile.count; ++m, sums += kBlock) {
    const size_t at = (tile.place + m) * results.channels + block.channel;
    for (size_t first = 0; first < block.channels; first += kHalfBlock) {
      Become<kAdds, kFires>(sums + first, becoming, results, block.slot + first, at + first, block.channels - first);
    }
  }
}

// What will be read and written of the tile comes from afar.
void Fetch(const DenseTile& tile, const Results& results) {
  for (size_t m = 0; m < tile.count; ++m) {
    const size_t at = (tile.place + m) * results.channels + tile.block.channel;
    if (results.others) PMSM_FETCH(results.others + at, 0);
    PMSM_FETCH(results.codes + at, 1);
    if (results.neurons) PMSM_FETCH(results.neurons + at, 1);
  }
}

// What is not tame.
void BecomeAnyCodes(const DenseTile& tile, const int32_t* sums, const Becoming& becoming, const Results& results) {
  for (size_t m = 0; m < tile.count; ++m) anywhere::BecomeAll(tile, becoming, results, sums + m * kBlock, m);
}

// ---------------------------------------------------------------------------------------------------- each channel

// Where the channels of a half begin in the vectors of `InterleavedChannel`.
constexpr size_t LaneOf(size_t first_channel) { return first_channel / kVectors; }

// Four taps of 32 channels become words of four taps of a channel: half of each vector of `InterleavedChannel`.
PMSM_AVX2 PMSM_INLINE void Interleave(const __m256i* taps, __m256i* words) {
  const __m256i low_a = _mm256_unpacklo_epi8(taps[0], taps[1]), high_a = _mm256_unpackhi_epi8(taps[0], taps[1]);
  const __m256i low_b = _mm256_unpacklo_epi8(taps[2], taps[3]), high_b = _mm256_unpackhi_epi8(taps[2], taps[3]);
  words[0] = _mm256_unpacklo_epi16(low_a, low_b);
  words[1] = _mm256_unpackhi_epi16(low_a, low_b);
  words[2] = _mm256_unpacklo_epi16(high_a, high_b);
  words[3] = _mm256_unpackhi_epi16(high_a, high_b);
}

template <bool kFits>
PMSM_AVX2 PMSM_INLINE __m256i AddWord(__m256i sums, __m256i codes, __m256i weights) {
  const __m256i once = _mm256_set1_epi16(1);
  if (kFits) return AddPairs(sums, _mm256_maddubs_epi16(codes, weights), once);
  sums = AddPairs(sums, _mm256_maddubs_epi16(FourBits<false>(codes), weights), once);
  return AddPairs(sums, _mm256_maddubs_epi16(FourBits<true>(codes), weights), _mm256_set1_epi16(16));
}

// The sums of half a block at all places, `together` of them at a time, which lie side by side; `take` gets a vector of each
// quarter, `InterleavedChannel` by channel.
template <bool kFits, typename Taker>
PMSM_AVX2 PMSM_INLINE void SumUpHalf(const DepthwiseTile& tile, const int32_t* bias, size_t first_channel, size_t together,
                                     const Taker& take) {
  const size_t all = tile.count_of_taps, lane = LaneOf(first_channel);
  for (size_t place = 0; place < tile.count; place += together) {
    const size_t channels = std::min(together, tile.count - place) * tile.block.channels;
    if (channels <= first_channel) return;
    const size_t at = place * tile.step + tile.block.channel + first_channel;
    const int8_t* weights = tile.weights + lane * kWord;
    __m256i sums[kVectors];
    for (size_t n = 0; n < kVectors; ++n) sums[n] = Load(bias + n * kLanes + lane);
    for (size_t first = 0; first < all; first += kWord, weights += kBlock * kWord) {
      __m256i taps[kWord], words[kVectors];
      for (size_t i = 0; i < kWord; ++i) {
        const bool there = first + i < all;
        taps[i] = there ? LoadCodes(tile.taps[first + i] + at, channels - first_channel) : _mm256_setzero_si256();
      }
      Interleave(taps, words);
      for (size_t n = 0; n < kVectors; ++n) sums[n] = AddWord<kFits>(sums[n], words[n], Load(weights + n * 2 * kHalf));
    }
    take(sums, place, first_channel, channels - first_channel);
  }
}

template <typename Taker>
PMSM_AVX2 void SumUpEach(const DepthwiseTile& given, const int32_t* bias, size_t together, const Taker& take) {
  const DepthwiseTile tile = given;
  for (size_t first = 0; first < kBlock; first += kHalfBlock) {
    if (tile.narrow.Words(0)) SumUpHalf<true>(tile, bias, first, together, take);
    else SumUpHalf<false>(tile, bias, first, together, take);
  }
}

struct EachToSums {
  int32_t* to;

  PMSM_AVX2 PMSM_INLINE void operator()(const __m256i* sums, size_t place, size_t first, size_t) const {
    // Vector n has the n-th four of either sixteen channels.
    for (size_t n = 0; n < kVectors; ++n) {
      int32_t* four = to + place * kBlock + first + n * 4;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(four), _mm256_castsi256_si128(sums[n]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(four + kLanes), _mm256_extracti128_si256(sums[n], 1));
    }
  }
};

struct EachToCodes {
  const Becoming& becoming;
  size_t slot;
  uint8_t* codes;  // of the first place and channel
  size_t stride;

  PMSM_AVX2 PMSM_INLINE void operator()(const __m256i* sums, size_t place, size_t first, size_t channels) const {
    __m256i counts[kVectors];
    for (size_t n = 0; n < kVectors; ++n) {
      const size_t at = slot + n * kLanes + LaneOf(first);
      const __m256 wanted = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[n]), At(becoming.factor, at, 0));
      counts[n] = _mm256_add_epi32(_mm256_cvtps_epi32(wanted), Load(becoming.code.zero.data() + at));
    }
    StoreCodes(codes + place * stride + first, Bounded(Bytes(counts), becoming.code, slot + first), channels);
  }
};

}  // namespace

void DenseSumsOnAvx2(const DenseTile& tile, const int32_t* bias, int32_t* sums) {
  for (size_t vector = 0; vector < tile.block.Vectors(); ++vector) {
    SumUpVector(tile, vector, bias + vector * kLanes, sums + vector * kLanes);
  }
}

// Some places at a time, so that their sums stay in the nearest cache.
void DenseOnAvx2(const DenseTile& all, const Becoming& becoming, const Results& results) {
  constexpr size_t kAtOnce = 24;
  static_assert(kAtOnce % kPlaces == 0, "there is room for places that are nobody's");
  alignas(kCacheLine) int32_t sums[kAtOnce * kBlock];
  const int32_t* bias = becoming.tame ? becoming.bias.data() + all.block.slot : anywhere::kNoBias;
  DenseTile tile = all;
  for (const size_t end = all.place + all.count; tile.place < end; tile.place += kAtOnce, tile.rows += kAtOnce) {
    tile.count = std::min(kAtOnce, end - tile.place);
    Fetch(tile, results);
    DenseSumsOnAvx2(tile, bias, sums);
    if (!becoming.tame) BecomeAnyCodes(tile, sums, becoming, results);
    else if (becoming.adds && becoming.fires) BecomeCodes<true, true>(tile, sums, becoming, results);
    else if (becoming.adds) BecomeCodes<true, false>(tile, sums, becoming, results);
    else if (becoming.fires) BecomeCodes<false, true>(tile, sums, becoming, results);
    else BecomeCodes<false, false>(tile, sums, becoming, results);
  }
}

void DepthwiseSumsOnAvx2(const DepthwiseTile& tile, const int32_t* bias, int32_t* sums) {
  SumUpEach(tile, bias, 1, EachToSums{sums});
}

void DepthwiseOnAvx2(const DepthwiseTile& tile, const Becoming& becoming, const Results& results) {
  const size_t slot = tile.block.slot;
  uint8_t* codes = results.codes + tile.place * results.channels + tile.block.channel;
  SumUpEach(tile, becoming.bias.data() + slot, PlacesTogether(tile, results),
            EachToCodes{becoming, slot, codes, results.channels});
}

#else

void DenseOnAvx2(const DenseTile&, const Becoming&, const Results&) {}
void DepthwiseOnAvx2(const DepthwiseTile&, const Becoming&, const Results&) {}
void DenseSumsOnAvx2(const DenseTile&, const int32_t*, int32_t*) {}
void DepthwiseSumsOnAvx2(const DepthwiseTile&, const int32_t*, int32_t*) {}

#endif

}  // namespace pmsm

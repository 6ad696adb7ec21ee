// How many products of a code and a weight may be added up in 16 bits, as processors do that have AVX2 and no VNNI: they multiply
// pairs of bytes, and what does not fit is cut off. The fewer the levels of the neurons are, the more products fit.

#ifndef PMSM_NARROW_SUMS_H
#define PMSM_NARROW_SUMS_H

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "convolution.h"

namespace pmsm {

class NarrowSums {
 public:
  NarrowSums() = default;  // of nothing

  // Of weights [runs, words, lanes, kWord]: for each number of words, the largest codes whose products fit.
  NarrowSums(const int8_t* weights, size_t runs, size_t words, size_t lanes) {
    constexpr int32_t kHighest = 32767;
    std::array<int32_t, kSizes.size()> largest;
    largest.fill(1);
    for (size_t run = 0; run < runs; ++run) {
      for (size_t first = 0; first < words; first += kSizes.back()) {
        const size_t count = std::min(kSizes.back(), words - first);
        for (size_t lane = 0; lane < lanes; ++lane) Meet(weights + lane * kWord, count, lanes * kWord, largest);
        weights += count * lanes * kWord;
      }
    }
    for (size_t i = 0; i < largest.size(); ++i) most_[i] = static_cast<uint8_t>(std::min(kHighest / largest[i], 255));
  }

  // How many words' products fit 16 bits, pair by pair, for codes up to this one; 0: not even one's.
  size_t Words(uint8_t most) const {
    size_t words = 0;
    for (size_t i = 0; i < kSizes.size() && most_[i] >= most; ++i) words = kSizes[i];
    return words;
  }

 private:
  static constexpr std::array<size_t, 4> kSizes{1, 2, 4, 8};  // each twice the one before it

  // What the weights of some words above 0, and below it, sum up to: of each word's first pair, and of its second one.
  struct Sides {
    std::array<int32_t, 4> sums{};

    Sides() = default;
    explicit Sides(const int8_t* word) {
      for (size_t byte = 0; byte < kWord; ++byte) {
        sums[byte / 2] += std::max<int32_t>(word[byte], 0);
        sums[2 + byte / 2] -= std::min<int32_t>(word[byte], 0);
      }
    }
    void operator+=(const Sides& other) {
      for (size_t i = 0; i < sums.size(); ++i) sums[i] += other.sums[i];
    }
    int32_t Largest() const { return *std::max_element(sums.begin(), sums.end()); }
  };

  // A lane's words, `next` bytes apart, up to as many as are ever added up: the largest sums of each size.
  static void Meet(const int8_t* word, size_t count, size_t next, std::array<int32_t, kSizes.size()>& largest) {
    std::array<Sides, kSizes.back()> sides;
    for (size_t i = 0; i < count; ++i) sides[i] = Sides(word + i * next);
    for (int32_t& most : largest) {
      for (size_t i = 0; i < count; ++i) most = std::max(most, sides[i].Largest());
      for (size_t i = 0; 2 * i < count; ++i) {  // neighbours together
        sides[i] = sides[2 * i];
        if (2 * i + 1 < count) sides[i] += sides[2 * i + 1];
      }
      count = (count + 1) / 2;
    }
  }

  std::array<uint8_t, kSizes.size()> most_{};
};

}  // namespace pmsm

#endif

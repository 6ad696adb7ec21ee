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
    for (size_t i = 0; i < kSizes.size(); ++i) largest_[i] = LargestCode(weights, runs, words, lanes, kSizes[i]);
  }

  // How many words' products fit 16 bits, pair by pair, for codes up to this one; 0: not even one's.
  size_t Words(uint8_t most) const {
    size_t words = 0;
    for (size_t i = 0; i < kSizes.size() && largest_[i] >= most; ++i) words = kSizes[i];
    return words;
  }

 private:
  static constexpr std::array<size_t, 4> kSizes{1, 2, 4, 8};

  static uint8_t LargestCode(const int8_t* weights, size_t runs, size_t words, size_t lanes, size_t together) {
    constexpr int32_t kHighest = 32767;
    int32_t most = 1;
    for (size_t run = 0; run < runs; ++run, weights += words * lanes * kWord) {
      for (size_t first = 0; first < words; first += together) {
        const size_t count = std::min(together, words - first);
        for (size_t lane = 0; lane < lanes; ++lane) {
          const int8_t* word = weights + (first * lanes + lane) * kWord;
          int32_t above[2] = {0, 0}, below[2] = {0, 0};  // of the first pair and the second one
          for (size_t i = 0; i < count; ++i, word += lanes * kWord) {
            for (size_t byte = 0; byte < kWord; ++byte) {
              above[byte / 2] += std::max<int32_t>(word[byte], 0);
              below[byte / 2] -= std::min<int32_t>(word[byte], 0);
            }
          }
          most = std::max({most, above[0], above[1], below[0], below[1]});
        }
      }
    }
    return static_cast<uint8_t>(std::min(kHighest / most, 255));
  }

  std::array<uint8_t, kSizes.size()> largest_{};
};

}  // namespace pmsm

#endif

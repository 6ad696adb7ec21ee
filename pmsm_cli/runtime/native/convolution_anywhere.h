// Convolutions of codes on any processor: what kernels for particular ones compute, sum by sum.

#ifndef PMSM_CONVOLUTION_ANYWHERE_H
#define PMSM_CONVOLUTION_ANYWHERE_H

#include <algorithm>
#include <cmath>

#include "convolution_kernels.h"
#include "vectors.h"

namespace pmsm {
namespace anywhere {

// Far from what 32 bits hold, and above every bound.
constexpr float kLargest = 1073741824.0f;

inline int32_t CodeOf(float wanted, const Rounding& rounding, size_t slot, size_t bounds) {
  const float count = RoundHalfEven(std::max(-kLargest, std::min(kLargest, wanted)));
  const int32_t code = static_cast<int32_t>(count) + rounding.zero[slot];
  return std::min<int32_t>(std::max<int32_t>(code, rounding.lowest[bounds]), rounding.highest[bounds]);
}

// The codes of one sum, which wraps around as vectors do. `slot` is where its numbers are, `bounds` where its bounds, `at` where the results go.
inline void Become(uint32_t products, const Becoming& becoming, const Results& results, size_t slot, size_t bounds, size_t at) {
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

// Calls become(products, place, slot, channel) for all sums of a block; of slices, lane by lane.
template <typename Function>
void Dense(const DenseTile& tile, Function&& become) {
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
    const size_t count = tile.block.slices > 1 ? lanes : tile.block.channels;
    for (size_t i = 0; i < count; ++i) become(sums[i], place, i, i);
  }
}

template <typename Function>
void Depthwise(const DepthwiseTile& tile, Function&& become) {
  for (size_t place = 0; place < tile.count; ++place) {
    for (size_t slot = 0; slot < kBlock; ++slot) {
      const size_t channel = InterleavedChannel(slot / kLanes, slot % kLanes);
      if (channel >= tile.block.channels) continue;
      uint32_t sum = 0;
      for (size_t tap = 0; tap < tile.count_of_taps; ++tap) {
        const int8_t weight = tile.weights[(tap / kWord * kBlock + slot) * kWord + tap % kWord];
        sum += static_cast<uint32_t>(tile.taps[tap][place * tile.step + tile.block.channel + channel] * weight);
      }
      become(sum, place, slot, channel);
    }
  }
}

template <typename Tile>
auto ToCodes(const Tile& tile, const Becoming& becoming, const Results& results) {
  return [&](uint32_t products, size_t place, size_t slot, size_t channel) {
    const size_t at = (tile.place + place) * results.channels + tile.block.channel + channel;
    Become(products, becoming, results, tile.block.slot + slot, tile.block.slot + channel, at);
  };
}

// Without a bias: sums that it is added to afterwards, since they may become numbers which 32 bits do not hold.
constexpr int32_t kNoBias[kBlock] = {};

// The codes of a block's sums, without their bias, at a place of the tile.
inline void BecomeAll(const DenseTile& tile, const Becoming& becoming, const Results& results, const int32_t* sums, size_t place) {
  const auto become = ToCodes(tile, becoming, results);
  for (size_t i = 0; i < tile.block.channels; ++i) become(static_cast<uint32_t>(sums[i]), place, i, i);
}

inline auto ToSums(const int32_t* bias, int32_t* sums) {
  return [=](uint32_t products, size_t place, size_t slot, size_t channel) {
    sums[place * kBlock + channel] = static_cast<int32_t>(products + static_cast<uint32_t>(bias[slot]));
  };
}

}  // namespace anywhere
}  // namespace pmsm

#endif

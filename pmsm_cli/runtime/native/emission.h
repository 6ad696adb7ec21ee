// Numbers along a neuron's values, and what neurons emit at a single step.

#ifndef PMSM_EMISSION_H
#define PMSM_EMISSION_H

#include <algorithm>
#include <string>
#include <vector>

#include "tensors.h"
#include "vectors.h"

namespace pmsm {

// Element i has data[(i / inner) % channels].
struct Along {
  static constexpr size_t kWorthwhile = 16;

  const float* data;
  size_t channels, inner;

  bool Alike() const { return channels == 1 || inner >= kWorthwhile; }
  // How many elements from `at` on may share a run.
  size_t Longest(size_t at) const {
    if (channels == 1) return kRun;
    if (inner >= kWorthwhile) return inner - at % inner;
    return inner == 1 && channels >= kWorthwhile ? channels - at % channels : kRun;
  }
  float At(size_t at) const { return data[at / inner % channels]; }
  // The numbers of a run, in place where they lie as the run does, else in the tile.
  const float* Run(size_t at, size_t count, float* tile) const {
    const size_t first = at / inner % channels;
    if (inner == 1 && first + count <= channels) return data + first;
    if (Alike()) {
      std::fill_n(tile, count, data[first]);
    } else {
      for (size_t i = 0; i < count; ++i) tile[i] = At(at + i);
    }
    return tile;
  }
};

inline Along LayOut(const Input<float>& numbers, const Shape& value, const char* name) {
  Lie lie{};
  if (!LayAlong(value, numbers.shape, lie)) {
    throw Failure(std::string(name) + " of shape " + Text(numbers.shape) + " does not fit neurons of shape " +
                  Text(value));
  }
  return {numbers.data, lie.channels, std::max<size_t>(lie.inner, 1)};
}

// The same numbers, few neighbouring ones written out over and over until runs of them are long. `kept` holds them.
inline Along WrittenOut(const Along& along, std::vector<float>& kept) {
  if (along.inner != 1 || along.channels < 2 || 2 * along.channels > kRun) return along;
  kept.resize(kRun / along.channels * along.channels);
  for (size_t i = 0; i < kept.size(); ++i) kept[i] = along.data[i % along.channels];
  return {kept.data(), kept.size(), 1};
}

// Neurons that read what lies above `rest`.
struct Neurons {
  Along threshold, rest;
  float lowest, highest;

  bool Alike() const { return threshold.Alike() && rest.Alike(); }
  bool OneForAll() const { return threshold.channels == 1 && rest.channels == 1; }
  size_t Longest(size_t at) const { return std::min({kRun, threshold.Longest(at), rest.Longest(at)}); }
};

// What they emit at a first step, from `begin` to `end`: the arithmetic of Sub and PolarityNeuron, in the same order.
template <bool kAlike>
PMSM_INLINE void EmitOnce(const Neurons& neurons, const float* value, float* spikes, size_t begin, size_t end) {
  float tiles[2][kRun];
  const float lowest = neurons.lowest, highest = neurons.highest;
  for (size_t at = begin, count = 0; at < end; at += count) {
    count = std::min(end - at, neurons.Longest(at));
    const float threshold = neurons.threshold.At(at), rest = neurons.rest.At(at);
    const float* thresholds = kAlike ? nullptr : neurons.threshold.Run(at, count, tiles[0]);
    const float* rests = kAlike ? nullptr : neurons.rest.Run(at, count, tiles[1]);
    PMSM_INDEPENDENT
    for (size_t i = 0; i < count; ++i) {
      const float ratio = (value[at + i] - (kAlike ? rest : rests[i])) / (kAlike ? threshold : thresholds[i]);
      spikes[at + i] = Emit(ratio, lowest, highest);
    }
  }
}

}  // namespace pmsm

#endif

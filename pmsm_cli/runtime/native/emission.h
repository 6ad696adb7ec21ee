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

  // Whose number an element has, and how many of the same are before it. Divisions take long beside a run: once is enough.
  struct Place {
    size_t channel, within;
  };

  bool Alike() const { return channels == 1 || inner >= kWorthwhile; }
  bool LiesAs(const Along& other) const { return channels == other.channels && inner == other.inner; }
  Place PlaceOf(size_t at) const {
    if (channels == 1) return {0, 0};
    const size_t line = at / inner;
    return {line % channels, at - line * inner};
  }
  // How many elements from there on may share a run.
  size_t Longest(const Place& place) const {
    if (channels == 1) return kRun;
    if (inner >= kWorthwhile) return inner - place.within;
    return inner == 1 && channels >= kWorthwhile ? channels - place.channel : kRun;
  }
  float At(size_t at) const { return data[PlaceOf(at).channel]; }
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

  // The numbers of an element, and how many may share a run from there on.
  struct Here {
    float threshold, rest;
    size_t longest;
  };
  Here At(size_t at) const {
    const Along::Place one = threshold.PlaceOf(at), other = rest.LiesAs(threshold) ? one : rest.PlaceOf(at);
    return {threshold.data[one.channel], rest.data[other.channel],
            std::min({kRun, threshold.Longest(one), rest.Longest(other)})};
  }
};

// What they emit at a first step, from `begin` to `end`: the arithmetic of Sub and PolarityNeuron, in the same order.
template <bool kAlike>
PMSM_INLINE void EmitOnce(const Neurons& neurons, const float* value, float* spikes, size_t begin, size_t end) {
  float tiles[2][kRun];
  const float lowest = neurons.lowest, highest = neurons.highest;
  for (size_t at = begin, count = 0; at < end; at += count) {
    const Neurons::Here here = neurons.At(at);
    count = std::min(end - at, here.longest);
    const float threshold = here.threshold, rest = here.rest;
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

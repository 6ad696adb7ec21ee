// Codes of neurons counted: how large spikes are, how many neurons fire, and how many emit as much as they can.

#ifndef PMSM_COUNTED_CODES_H
#define PMSM_COUNTED_CODES_H

#include <cstddef>
#include <cstdint>

namespace pmsm {

// What a code is compared with: none; and what is at the limit, below `least` or above `most`, or not reached by any code.
struct Limits {
  uint8_t zero, least, most;
  bool has_least, has_most;

  // As few as `lowest` spikes, unless that is 0, and as many as `highest`.
  Limits(uint8_t none, float lowest, float highest)
      : zero(none), least(0), most(255), has_least(lowest < 0.0f && none + lowest >= 0.0f), has_most(none + highest <= 255.0f) {
    if (has_least) least = static_cast<uint8_t>(none + lowest);
    if (has_most) most = static_cast<uint8_t>(none + highest);
  }
  bool Reached(uint8_t code) const { return (has_most && code >= most) || (has_least && code <= least); }
};

struct Counted {
  int64_t sizes = 0, firing = 0, limited = 0;

  void operator+=(const Counted& more) {
    sizes += more.sizes;
    firing += more.firing;
    limited += more.limited;
  }
};

// What rows are counted by: how many synapses a neuron of each reaches, and how many of each channel fire and are at the limit,
// which is added to.
struct OfRows {
  const int32_t* map;                // [rows]; null: nobody asks
  uint32_t *of_channels, *at_limit;  // [channels]
};

// How large spikes are together, and how many synapses they reach, each as often as its size says (`reached`), or once.
struct RowSums {
  int64_t sizes = 0, reached = 0, events = 0;

  void operator+=(const RowSums& more) {
    sizes += more.sizes;
    reached += more.reached;
    events += more.events;
  }
};

// Rows of `channels` codes, each `stride` behind the one before.
RowSums CountRows(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const Limits& limits, const OfRows& of);

Counted CountRun(const uint8_t* codes, size_t length, const Limits& limits);

// Counts [2, channels] as numbers; how many neurons fire, which is the sum of the first ones.
int64_t PutChannels(const uint32_t* of_channels, size_t channels, float* counts);

void AddChannels(const uint32_t* more, size_t count, uint32_t* of_channels);

// A sum as two numbers, of 2^20 and of what is left; what is behind them.
inline float* PutInTwo(int64_t sum, float* at) {
  *at++ = static_cast<float>(sum >> 20);
  *at++ = static_cast<float>(sum & ((1 << 20) - 1));
  return at;
}

}  // namespace pmsm

#endif

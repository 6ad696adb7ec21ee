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

// Where rows of channels are counted: each row's sums, unless nobody asks, and each channel's, which are added to.
struct CodeSums {
  float *sizes, *firing;             // [rows]; null: nobody asks
  uint32_t *of_channels, *at_limit;  // [channels], whose neurons fire, and are at the limit
};

// Rows of `channels` codes, each `stride` behind the one before; how large their spikes are together.
int64_t CountRows(const uint8_t* codes, size_t rows, size_t channels, size_t stride, const Limits& limits, const CodeSums& sums);

Counted CountRun(const uint8_t* codes, size_t length, const Limits& limits);

// A sum as two numbers, of 2^20 and of what is left; what is behind them.
inline float* PutInTwo(int64_t sum, float* at) {
  *at++ = static_cast<float>(sum >> 20);
  *at++ = static_cast<float>(sum & ((1 << 20) - 1));
  return at;
}

}  // namespace pmsm

#endif

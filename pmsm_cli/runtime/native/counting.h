// What operators that count spikes have in common, whatever they read them from.

#ifndef PMSM_COUNTING_H
#define PMSM_COUNTING_H

#include <cstddef>
#include <cstdint>

#include "operators.h"

namespace pmsm {

struct CountAttributes : Levels {
  size_t axis;  // of the channels; 0: there are none
  bool positions;

  CountAttributes(const Ort& ort, const OrtKernelInfo* info)
      : Levels(ort, info),
        axis(static_cast<size_t>(IntegerAttribute(ort, info, "axis"))),
        positions(IntegerAttribute(ort, info, "positions") != 0) {}
};

// A sum as two numbers, of 2^20 and of what is left; what is behind them.
inline float* PutInTwo(int64_t sum, float* at) {
  *at++ = static_cast<float>(sum >> 20);
  *at++ = static_cast<float>(sum & ((1 << 20) - 1));
  return at;
}

}  // namespace pmsm

#endif

// What the sums of a convolution of running counts become at several timesteps: values, and what neurons have emitted on them.

#ifndef PMSM_STEP_ENDING_H
#define PMSM_STEP_ENDING_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "aligned.h"
#include "convolution.h"

namespace pmsm {

// Of a layer. What there is for each channel lies in the order of channels, kBlock apart for each block.
struct StepEnding {
  Aligned<float> factor, bias;
  float low, high;
  std::vector<float> map;  // [places of an image, channels], or nothing

  bool fires;
  // Counts are in units of the finest quantum, and so are these: what a value is multiplied by to be one, what the
  // neurons rest at, and each step's quantum, whose multiples a step adds, at most so many.
  Aligned<float> reciprocal, rest;
  std::vector<float> quanta, finer;  // finer: what takes a count in units of the finest quantum to the step's own
  float lowest, highest;
  uint8_t zero;
};

// [steps, places, channels] each, but for what was emitted before and others that are the same at every step.
struct StepTensors {
  size_t steps, places, places_of_image, channels;
  const float* others;  // null: nothing is added
  bool others_once;
  const uint8_t* before;  // null: nothing
  float* values;          // null: nobody asks
  uint8_t* emitted;

  size_t Step() const { return places * channels; }
};

// The sums of neighbouring places of a block at all steps, [steps, places, kBlock], and where they belong. A block may begin
// behind the first of the sums made for it.
struct StepSums {
  const int32_t* sums;
  size_t between;  // from one step's to the next one's
  size_t apart;    // from one slice's to the next one's; 0: weights are not in slices
  Block block;
  size_t place, count;
};

void Finish(const StepEnding& ending, const StepTensors& tensors, const StepSums& sums);

// What finishing will read and write of a step is on its way while its sums are made.
void FetchForFinish(const StepTensors& tensors, size_t step, const Block& block, size_t place, size_t count);

}  // namespace pmsm

#endif

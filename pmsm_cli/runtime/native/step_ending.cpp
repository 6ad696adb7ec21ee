#include "step_ending.h"

#include "lanes_avx2.h"
#include "lanes_avx512.h"
#include "processor.h"
#include "vectors.h"

namespace pmsm {
namespace {

// What a unit of one slice of weights is in the next one, and in that behind it.
constexpr float kSlice = 256.0f, kSliceSquared = kSlice * kSlice;

// ---------------------------------------------------------------------------------------------------- any processor

void FinishAnywhere(const StepEnding& ending, const StepTensors& tensors, const StepSums& given, size_t index) {
  const size_t place = given.place + index, at = place * tensors.channels + given.block.channel;
  for (size_t i = 0; i < given.block.channels; ++i) {
    const size_t slot = given.block.slot + i;
    float counted = tensors.before ? static_cast<float>(tensors.before[at + i] - ending.zero) : 0.0f;
    for (size_t step = 0; step < tensors.steps; ++step) {
      const size_t later = step * tensors.Step();
      const int32_t* sums = given.sums + step * given.between + index * kBlock + i;
      float sum = static_cast<float>(sums[0]);
      if (given.apart) {
        const float middle = static_cast<float>(sums[given.apart]), least = static_cast<float>(sums[2 * given.apart]);
        sum = sum * kSliceSquared + (middle * kSlice + least);
      }
      float value = sum * ending.factor[slot] + ending.bias[slot];
      if (!ending.map.empty()) {
        value += ending.map[place % tensors.places_of_image * tensors.channels + given.block.channel + i];
      }
      if (tensors.others) value += tensors.others[(tensors.others_once ? 0 : later) + at + i];
      value = value < ending.low ? ending.low : value;  // what is not a number stays so
      value = value > ending.high ? ending.high : value;
      if (tensors.values) tensors.values[later + at + i] = value;
      if (!ending.fires) continue;
      const float quantum = ending.quanta[step];
      const float wanted = (value * ending.reciprocal[slot] - ending.rest[slot] - counted) * ending.finer[step];
      counted += quantum * EmitFew(wanted, ending.lowest, ending.highest);
      tensors.emitted[later + at + i] = static_cast<uint8_t>(static_cast<int32_t>(counted) + ending.zero);
    }
  }
}

// ---------------------------------------------------------------------------------------------------- vectors

#ifdef PMSM_VNNI

// What neurons do with the values of a layer.
enum class Firing {
  kNone,
  kOnce,  // one step that begins with nothing, whose quantum is the unit
  kSteps,
};

}  // namespace

namespace avx512 {
namespace {
#define PMSM_TARGET PMSM_VNNI
#include "step_ending_vectors.h"
#undef PMSM_TARGET
}  // namespace
}  // namespace avx512

namespace avx2 {
namespace {
#define PMSM_TARGET PMSM_AVX2
#include "step_ending_vectors.h"
#undef PMSM_TARGET
}  // namespace
}  // namespace avx2

namespace {

#endif  // PMSM_VNNI

}  // namespace

void Finish(const StepEnding& ending, const StepTensors& tensors, const StepSums& sums) {
#ifdef PMSM_VNNI
  if (HasVnni()) return avx512::FinishAll(ending, tensors, sums);
  if (MultipliesFast()) return avx2::FinishAll(ending, tensors, sums);
#endif
  for (size_t index = 0; index < sums.count; ++index) FinishAnywhere(ending, tensors, sums, index);
}

void FetchForFinish(const StepTensors& tensors, size_t step, const Block& block, size_t place, size_t count) {
  constexpr size_t kLine = 64;
  const size_t size = block.channels * sizeof(float);
  for (size_t i = 0; i < count; ++i) {
    const size_t once = (place + i) * tensors.channels + block.channel, at = once + step * tensors.Step();
    const float* others = tensors.others ? tensors.others + (tensors.others_once ? once : at) : nullptr;
    for (size_t line = 0; line < size; line += kLine) {
      if (others) PMSM_FETCH(reinterpret_cast<const char*>(others) + line, 0);
      if (tensors.values && tensors.values + at != others) PMSM_FETCH(reinterpret_cast<char*>(tensors.values + at) + line, 1);
    }
    if (tensors.emitted) PMSM_FETCH(tensors.emitted + at, 1);
  }
}

}  // namespace pmsm

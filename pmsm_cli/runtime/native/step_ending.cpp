#include "step_ending.h"

#include "avx512.h"
#include "convolution_kernels.h"
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

// ---------------------------------------------------------------------------------------------------- AVX-512

#ifdef PMSM_VNNI

// Sixteen channels; of the last ones of a layer, those of the mask.
template <bool kWhole>
struct Lanes {
  __mmask16 mask;

  PMSM_VNNI PMSM_INLINE __m512 Load(const float* at) const {
    return kWhole ? _mm512_loadu_ps(at) : _mm512_maskz_loadu_ps(mask, at);
  }
  PMSM_VNNI PMSM_INLINE __m512i LoadSums(const int32_t* at) const {
    return kWhole ? _mm512_loadu_si512(at) : _mm512_maskz_loadu_epi32(mask, at);
  }
  PMSM_VNNI PMSM_INLINE void Store(float* at, __m512 numbers) const {
    if (kWhole) _mm512_storeu_ps(at, numbers);
    else _mm512_mask_storeu_ps(at, mask, numbers);
  }
  PMSM_VNNI PMSM_INLINE __m512 LoadCodes(const uint8_t* at) const {
    const __m128i bytes = kWhole ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)) : _mm_maskz_loadu_epi8(mask, at);
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
  }
  PMSM_VNNI PMSM_INLINE void StoreCodes(uint8_t* at, __m512i codes) const {
    const __m128i bytes = _mm512_cvtepi32_epi8(codes);
    if (kWhole) _mm_storeu_si128(reinterpret_cast<__m128i*>(at), bytes);
    else _mm_mask_storeu_epi8(at, mask, bytes);
  }
};

// The numbers of a layer as plain pointers and vectors: what is stored in between changes none of them.
struct EndingOf {
  const float *factor, *bias, *reciprocal, *rest, *map;
  const float *quanta, *finer;
  __m512 low, high, lowest, highest, zero;
  __m512i zero_code;

  PMSM_VNNI EndingOf(const StepEnding& all, size_t slot)
      : factor(all.factor.data() + slot), bias(all.bias.data() + slot),
        reciprocal(all.fires ? all.reciprocal.data() + slot : nullptr), rest(all.fires ? all.rest.data() + slot : nullptr),
        map(all.map.empty() ? nullptr : all.map.data()), quanta(all.quanta.data()), finer(all.finer.data()),
        low(_mm512_set1_ps(all.low)), high(_mm512_set1_ps(all.high)), lowest(_mm512_set1_ps(all.lowest)),
        highest(_mm512_set1_ps(all.highest)), zero(_mm512_set1_ps(static_cast<float>(all.zero))),
        zero_code(_mm512_set1_epi32(all.zero)) {}
};

// What neurons do with the values of a layer.
enum class Firing {
  kNone,
  kOnce,  // one step that begins with nothing, whose quantum is the unit
  kSteps,
};

// One vector of a place at all steps. `at` is where it lies in tensors, `in_image` in the map.
template <bool kSliced, bool kWhole, bool kOthers, bool kValues, Firing kFiring>
PMSM_VNNI PMSM_INLINE void FinishVector(const EndingOf& ending, const StepTensors& tensors, const Lanes<kWhole>& lanes,
                                        const int32_t* sums, size_t between, size_t apart, size_t of_block, size_t at,
                                        size_t in_image) {
  const __m512 factor = lanes.Load(ending.factor + of_block), bias = lanes.Load(ending.bias + of_block);
  const __m512 map = ending.map ? lanes.Load(ending.map + in_image) : _mm512_setzero_ps();
  __m512 reciprocal{}, rest{}, counted = _mm512_setzero_ps();
  if (kFiring != Firing::kNone) {
    reciprocal = lanes.Load(ending.reciprocal + of_block);
    rest = lanes.Load(ending.rest + of_block);
    if (tensors.before) counted = _mm512_sub_ps(lanes.LoadCodes(tensors.before + at), ending.zero);
  }
  size_t later = at;
  const size_t steps = kFiring == Firing::kOnce ? 1 : tensors.steps;
  for (size_t step = 0; step < steps; ++step, sums += between, later += tensors.Step()) {
    __m512 sum = _mm512_cvtepi32_ps(lanes.LoadSums(sums + of_block));
    if (kSliced) {
      const __m512 middle = _mm512_cvtepi32_ps(lanes.LoadSums(sums + apart + of_block));
      const __m512 least = _mm512_cvtepi32_ps(lanes.LoadSums(sums + 2 * apart + of_block));
      sum = _mm512_fmadd_ps(sum, _mm512_set1_ps(kSliceSquared), _mm512_fmadd_ps(middle, _mm512_set1_ps(kSlice), least));
    }
    __m512 value = _mm512_fmadd_ps(sum, factor, bias);
    if (ending.map) value = _mm512_add_ps(value, map);
    if (kOthers) value = _mm512_add_ps(value, lanes.Load(tensors.others + (tensors.others_once ? at : later)));
    // Of what is not a number the second operand stays.
    value = _mm512_min_ps(ending.high, _mm512_max_ps(ending.low, value));
    if (kValues) lanes.Store(tensors.values + later, value);
    if (kFiring == Firing::kNone) continue;
    __m512 wanted = _mm512_fmsub_ps(value, reciprocal, rest);
    if (kFiring == Firing::kSteps) {
      wanted = _mm512_mul_ps(_mm512_sub_ps(wanted, counted), _mm512_set1_ps(ending.finer[step]));
    }
    const __mmask16 numbers = _mm512_cmp_ps_mask(wanted, wanted, _CMP_ORD_Q);
    const __m512 clipped = _mm512_min_ps(_mm512_max_ps(wanted, ending.lowest), ending.highest);
    const __m512 spikes = _mm512_maskz_roundscale_ps(numbers, clipped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    counted = kFiring == Firing::kOnce ? spikes : _mm512_fmadd_ps(spikes, _mm512_set1_ps(ending.quanta[step]), counted);
    lanes.StoreCodes(tensors.emitted + later, _mm512_add_epi32(_mm512_cvtps_epi32(counted), ending.zero_code));
  }
}

template <bool kSliced, bool kOthers, bool kValues, Firing kFiring>
PMSM_VNNI void FinishVectors(const StepEnding& all, const StepTensors& given, const StepSums& sums) {
  const StepTensors tensors = given;
  const EndingOf ending(all, sums.block.slot);
  const size_t whole = sums.block.channels / kLanes, rest = sums.block.channels % kLanes;
  for (size_t index = 0; index < sums.count; ++index) {
    const size_t place = sums.place + index, at = place * tensors.channels + sums.block.channel;
    const size_t in_image = ending.map ? place % tensors.places_of_image * tensors.channels + sums.block.channel : 0;
    const int32_t* own = sums.sums + index * kBlock;
    for (size_t n = 0; n < whole; ++n) {
      FinishVector<kSliced, true, kOthers, kValues, kFiring>(ending, tensors, Lanes<true>{}, own, sums.between, sums.apart, n * kLanes,
                                                   at + n * kLanes, in_image + n * kLanes);
    }
    if (rest) {
      const Lanes<false> lanes{static_cast<__mmask16>((1u << rest) - 1)};
      FinishVector<kSliced, false, kOthers, kValues, kFiring>(ending, tensors, lanes, own, sums.between, sums.apart, whole * kLanes,
                                                    at + whole * kLanes, in_image + whole * kLanes);
    }
  }
}

template <bool kSliced, bool kOthers, bool kValues>
PMSM_VNNI void FinishVectors(const StepEnding& ending, const StepTensors& tensors, const StepSums& sums) {
  const bool once = ending.fires && tensors.steps == 1 && ending.quanta[0] == 1.0f && !tensors.before;
  if (!ending.fires) FinishVectors<kSliced, kOthers, kValues, Firing::kNone>(ending, tensors, sums);
  else if (once) FinishVectors<kSliced, kOthers, kValues, Firing::kOnce>(ending, tensors, sums);
  else FinishVectors<kSliced, kOthers, kValues, Firing::kSteps>(ending, tensors, sums);
}

template <bool kSliced>
PMSM_VNNI void FinishVectors(const StepEnding& ending, const StepTensors& tensors, const StepSums& sums) {
  if (tensors.others && tensors.values) FinishVectors<kSliced, true, true>(ending, tensors, sums);
  else if (tensors.others) FinishVectors<kSliced, true, false>(ending, tensors, sums);
  else if (tensors.values) FinishVectors<kSliced, false, true>(ending, tensors, sums);
  else FinishVectors<kSliced, false, false>(ending, tensors, sums);
}

#endif  // PMSM_VNNI

}  // namespace

void Finish(const StepEnding& ending, const StepTensors& tensors, const StepSums& sums) {
#ifdef PMSM_VNNI
  if (MultipliesFast()) {
    return sums.apart ? FinishVectors<true>(ending, tensors, sums) : FinishVectors<false>(ending, tensors, sums);
  }
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

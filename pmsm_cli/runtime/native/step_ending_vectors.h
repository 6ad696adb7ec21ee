// The ending of steps in vectors; included once for each kind of them, in its namespace, with PMSM_TARGET set to its attribute.

// The numbers of a layer as plain pointers and vectors: what is stored in between changes none of them.
struct EndingOf {
  const float *factor, *bias, *reciprocal, *rest, *map;
  const float *quanta, *finer;
  Floats low, high, lowest, highest, zero;
  int32_t zero_code;

  PMSM_TARGET EndingOf(const StepEnding& all, size_t slot)
      : factor(all.factor.data() + slot), bias(all.bias.data() + slot),
        reciprocal(all.fires ? all.reciprocal.data() + slot : nullptr), rest(all.fires ? all.rest.data() + slot : nullptr),
        map(all.map.empty() ? nullptr : all.map.data()), quanta(all.quanta.data()), finer(all.finer.data()),
        low(Spread(all.low)), high(Spread(all.high)), lowest(Spread(all.lowest)), highest(Spread(all.highest)),
        zero(Spread(static_cast<float>(all.zero))), zero_code(all.zero) {}
};

// One vector of a place at all steps. `at` is where it lies in tensors, `in_image` in the map.
template <bool kSliced, bool kWhole, bool kOthers, bool kValues, Firing kFiring>
PMSM_TARGET PMSM_INLINE void FinishVector(const EndingOf& ending, const StepTensors& tensors, const Lanes<kWhole>& lanes,
                                          const int32_t* sums, size_t between, size_t apart, size_t of_block, size_t at,
                                          size_t in_image) {
  const Floats factor = lanes.Load(ending.factor + of_block), bias = lanes.Load(ending.bias + of_block);
  const Floats map = ending.map ? lanes.Load(ending.map + in_image) : Spread(0.0f);
  Floats reciprocal{}, rest{}, counted = Spread(0.0f);
  if (kFiring != Firing::kNone) {
    reciprocal = lanes.Load(ending.reciprocal + of_block);
    rest = lanes.Load(ending.rest + of_block);
    if (tensors.before) counted = Subtract(lanes.LoadCodes(tensors.before + at), ending.zero);
  }
  size_t later = at;
  const size_t steps = kFiring == Firing::kOnce ? 1 : tensors.steps;
  for (size_t step = 0; step < steps; ++step, sums += between, later += tensors.Step()) {
    Floats sum = lanes.LoadSums(sums + of_block);
    if (kSliced) {
      const Floats middle = lanes.LoadSums(sums + apart + of_block), least = lanes.LoadSums(sums + 2 * apart + of_block);
      sum = MultiplyAdd(sum, Spread(kSliceSquared), MultiplyAdd(middle, Spread(kSlice), least));
    }
    Floats value = MultiplyAdd(sum, factor, bias);
    if (ending.map) value = Add(value, map);
    if (kOthers) value = Add(value, lanes.Load(tensors.others + (tensors.others_once ? at : later)));
    // Of what is not a number the second operand stays.
    value = Least(ending.high, Most(ending.low, value));
    if (kValues) lanes.Store(tensors.values + later, value);
    if (kFiring == Firing::kNone) continue;
    Floats wanted = MultiplySubtract(value, reciprocal, rest);
    if (kFiring == Firing::kSteps) wanted = Multiply(Subtract(wanted, counted), Spread(ending.finer[step]));
    const Floats spikes = RoundWhereNumbers(Least(Most(wanted, ending.lowest), ending.highest), wanted);
    counted = kFiring == Firing::kOnce ? spikes : MultiplyAdd(spikes, Spread(ending.quanta[step]), counted);
    lanes.StoreCodes(tensors.emitted + later, counted, ending.zero_code);
  }
}

template <bool kSliced, bool kOthers, bool kValues, Firing kFiring>
PMSM_TARGET void FinishVectors(const StepEnding& all, const StepTensors& given, const StepSums& sums) {
  const StepTensors tensors = given;
  const EndingOf ending(all, sums.block.slot);
  const Lanes<true> all_lanes(kLanes);
  const size_t whole = sums.block.channels / kLanes, rest = sums.block.channels % kLanes;
  for (size_t index = 0; index < sums.count; ++index) {
    const size_t place = sums.place + index, at = place * tensors.channels + sums.block.channel;
    const size_t in_image = ending.map ? place % tensors.places_of_image * tensors.channels + sums.block.channel : 0;
    const int32_t* own = sums.sums + index * kBlock;
    for (size_t n = 0; n < whole; ++n) {
      FinishVector<kSliced, true, kOthers, kValues, kFiring>(ending, tensors, all_lanes, own, sums.between, sums.apart,
                                                             n * kLanes, at + n * kLanes, in_image + n * kLanes);
    }
    if (rest) {
      FinishVector<kSliced, false, kOthers, kValues, kFiring>(ending, tensors, Lanes<false>(rest), own, sums.between,
                                                              sums.apart, whole * kLanes, at + whole * kLanes,
                                                              in_image + whole * kLanes);
    }
  }
}

template <bool kSliced, bool kOthers, bool kValues>
PMSM_TARGET void FinishVectors(const StepEnding& ending, const StepTensors& tensors, const StepSums& sums) {
  const bool once = ending.fires && tensors.steps == 1 && ending.quanta[0] == 1.0f && !tensors.before;
  if (!ending.fires) FinishVectors<kSliced, kOthers, kValues, Firing::kNone>(ending, tensors, sums);
  else if (once) FinishVectors<kSliced, kOthers, kValues, Firing::kOnce>(ending, tensors, sums);
  else FinishVectors<kSliced, kOthers, kValues, Firing::kSteps>(ending, tensors, sums);
}

template <bool kSliced>
PMSM_TARGET void FinishVectors(const StepEnding& ending, const StepTensors& tensors, const StepSums& sums) {
  if (tensors.others && tensors.values) FinishVectors<kSliced, true, true>(ending, tensors, sums);
  else if (tensors.others) FinishVectors<kSliced, true, false>(ending, tensors, sums);
  else if (tensors.values) FinishVectors<kSliced, false, true>(ending, tensors, sums);
  else FinishVectors<kSliced, false, false>(ending, tensors, sums);
}

PMSM_TARGET inline void FinishAll(const StepEnding& ending, const StepTensors& tensors, const StepSums& sums) {
  if (sums.apart) FinishVectors<true>(ending, tensors, sums);
  else FinishVectors<false>(ending, tensors, sums);
}

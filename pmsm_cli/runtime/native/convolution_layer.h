// What a ConvolutionCodes node keeps from one call to the next: everything constant, in the order that kernels read it.

#ifndef PMSM_CONVOLUTION_LAYER_H
#define PMSM_CONVOLUTION_LAYER_H

#include <cmath>
#include <vector>

#include "convolution.h"
#include "operators.h"
#include "packed_weights.h"
#include "tensors.h"

namespace pmsm {

// The node's inputs; of codes, sums and neurons `zero`, `lowest` and `highest` follow one another.
struct ConvolutionInputs {
  enum : size_t { kCodes, kWeights, kPadding, kBias, kFactor, kCode, kOthers = 8, kOwn, kOther, kTerm, kSum,
                  kFiring = 15, kResting, kNeuron };
};

class Layer : public PackedWeights {
 public:
  uint8_t padding;
  Becoming becoming;

  Layer(const Ort& ort, const OrtKernelInfo* info) : PackedWeights(ort, info) {
    ReadNumbers(ort, info);
    TakePaddingOff();
  }

 private:
  void ReadNumbers(const Ort& ort, const OrtKernelInfo* info) {
    using In = ConvolutionInputs;
    const std::vector<size_t> summed = Slots(true), in_order = Slots(false);
    const auto floats = [&](size_t index) { return Spread<float, float>(ort, info, index, outputs, summed); };
    const auto rounding = [&](size_t index) {
      return Rounding{Spread<int32_t, uint8_t>(ort, info, index, outputs, summed),
                      Spread<uint8_t, uint8_t>(ort, info, index + 1, outputs, in_order),
                      Spread<uint8_t, uint8_t>(ort, info, index + 2, outputs, in_order)};
    };
    padding = ConstantAt<uint8_t>(ort, info, In::kPadding).at(0);
    becoming.bias = Spread<int32_t, int32_t>(ort, info, In::kBias, outputs, summed);
    becoming.factor = floats(In::kFactor);
    becoming.code = rounding(In::kCode);
    becoming.adds = IntegerAttribute(ort, info, "adds") != 0;
    becoming.own_first = IntegerAttribute(ort, info, "adds") == 1;
    becoming.fires = IntegerAttribute(ort, info, "fires") != 0;
    if (depthwise && (becoming.adds || becoming.fires)) throw Failure("kernels of each channel neither add nor fire");
    if (becoming.adds) {
      becoming.own = floats(In::kOwn);
      becoming.other = floats(In::kOther);
      becoming.term = floats(In::kTerm);
      becoming.sum = rounding(In::kSum);
    }
    if (becoming.fires) {
      becoming.firing = floats(In::kFiring);
      becoming.resting = floats(In::kResting);
      becoming.neuron = rounding(In::kNeuron);
    }
  }

  // Sums of codes instead of sums of what lies above the padding; and whether all numbers keep within bounds.
  void TakePaddingOff() {
    const std::vector<size_t> slots = Slots(true);
    becoming.tame = true;
    const auto see = [&](double number) { becoming.tame = becoming.tame && number < 1e9; };  // false for what is no number
    for (size_t slot = 0; slot < slots.size(); ++slot) {
      if (slots[slot] == kNone) continue;
      becoming.bias[slot] = static_cast<int32_t>(becoming.bias[slot] - padding * totals[slots[slot]]);
      const double bias = std::fabs(static_cast<double>(becoming.bias[slot]));
      const double sum = 255.0 * static_cast<double>(sizes[slots[slot]]) + bias;
      see(sum * std::fabs(becoming.factor[slot]));
      if (becoming.adds) {
        const double terms = std::fabs(becoming.own[slot]) + std::fabs(becoming.other[slot]);
        see(255.0 * terms + std::fabs(becoming.term[slot]));
      }
      if (becoming.fires) {
        see(255.0 * std::fabs(becoming.firing[slot]) + std::fabs(becoming.resting[slot]));
      }
    }
  }
};

}  // namespace pmsm

#endif

// The weights of a convolution of codes in the order that kernels read them, and how its window is moved.

#ifndef PMSM_PACKED_WEIGHTS_H
#define PMSM_PACKED_WEIGHTS_H

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "aligned.h"
#include "convolution.h"
#include "convolution_kernels.h"
#include "convolution_rows.h"
#include "narrow_sums.h"
#include "operators.h"
#include "processor.h"
#include "tensors.h"

namespace pmsm {

constexpr size_t kWeightsInput = 1;

// The weights of a layer of images, the second input of all kinds of it; the kernel's info owns them.
template <typename Element>
Input<Element> WeightsAt(const Ort& ort, const OrtKernelInfo* info) {
  const OrtValue* value = nullptr;
  int is_constant = 0;
  Check(ort.KernelInfoGetConstantInput_tensor(info, kWeightsInput, &is_constant, &value));
  if (!is_constant || !value) throw Failure("weights must be constant");
  Input<Element> weights = InputOf<Element>(ort, value);
  if (weights.shape.size() != 4 || weights.Count() == 0) throw Failure("weights of shape " + Text(weights.shape));
  return weights;
}

constexpr size_t kNone = ~size_t{0};

// The constants at an input, one element for all outputs or one for each, put where `slots` say whose they are; `beyond`
// where a slot is nobody's (kNone).
template <typename Kept, typename Given>
Aligned<Kept> Spread(const Ort& ort, const OrtKernelInfo* info, size_t index, size_t outputs,
                     const std::vector<size_t>& slots, Kept beyond = 0) {
  const std::vector<Given> given = ConstantAt<Given>(ort, info, index);
  if (given.size() != 1 && given.size() != outputs) {
    throw Failure("input " + std::to_string(index) + " has " + std::to_string(given.size()) +
                  " elements, where there are " + std::to_string(outputs) + " output channels");
  }
  Aligned<Kept> values(slots.size(), beyond);
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot] != kNone) values[slot] = static_cast<Kept>(given[given.size() == 1 ? 0 : slots[slot]]);
  }
  return values;
}

// Weights as ONNX lays them out, [outputs, inputs, taps].
struct GivenWeights {
  const int8_t* values;
  size_t outputs, inputs, taps;

  int8_t At(size_t output, size_t input, size_t tap) const { return values[(output * inputs + input) * taps + tap]; }
};

// A kernel's size, and the attributes that say how it is moved.
inline Window WindowOf(const Ort& ort, const OrtKernelInfo* info, size_t height, size_t width) {
  const auto number = [&](const char* name) {
    const int64_t value = IntegerAttribute(ort, info, name);
    if (value < 0) throw Failure(std::string(name) + " is below 0");
    return static_cast<size_t>(value);
  };
  const Window window{height,           width,         number("stride_y"), number("stride_x"), number("step_y"),
                      number("step_x"), number("top"), number("left"),     number("bottom"),   number("right")};
  if (window.stride_y * window.stride_x * window.step_y * window.step_x == 0) throw Failure("a stride or dilation of 0");
  return window;
}

// A kernel for all channels, or one for each.
class PackedWeights {
 public:
  Window window;
  size_t outputs, inputs;  // channels
  size_t slices;           // 1, or kSlices: [slices x outputs, inputs, height, width], the most significant first
  bool depthwise;
  std::vector<Block> blocks;
  Aligned<int8_t> weights;
  std::vector<size_t> weights_at;  // of each block
  // Of each row of weights, an output's or a slice of them: what they sum up to, and what their sizes do.
  std::vector<int64_t> totals, sizes;

  PackedWeights(const Ort& ort, const OrtKernelInfo* info, size_t of_slices = 1) : slices(of_slices) {
    const auto given = WeightsAt<int8_t>(ort, info);
    const auto size = [&](size_t axis) { return static_cast<size_t>(given.shape[axis]); };
    window = WindowOf(ort, info, size(2), size(3));
    const GivenWeights all{given.data, size(0), size(1), size(2) * size(3)};
    if (all.outputs % slices) throw Failure("weights of shape " + Text(given.shape) + " are not whole slices");
    outputs = all.outputs / slices;
    const size_t group = static_cast<size_t>(IntegerAttribute(ort, info, "group"));
    depthwise = group != 1;
    inputs = depthwise ? outputs : all.inputs;
    if (depthwise && (group != outputs || all.inputs != 1)) throw Failure("groups of more than one channel");
    CutIntoBlocks();
    AddUp(all);
    const bool in_pairs = AddsInPairs();
    for (const Block& block : blocks) {
      weights_at.push_back(weights.size());
      if (depthwise) PackByTap(all, block);  // slice by slice
      else if (RunsOfWindow().OnTiles()) PackByTile(all, block);
      else PackByRun(all, block, in_pairs ? 1 : block.Vectors());
      if (in_pairs) AddNarrowSums(block);
    }
  }

  // What kernels that add up in 16 bits ask of a block.
  Narrow NarrowOf(size_t block, uint8_t most) const {
    return {narrow_.empty() ? nullptr : narrow_.data() + block * kVectors, most};
  }

  Runs RunsOfWindow() const { return Runs(window, inputs, !depthwise); }

  // The row of weights of a lane of a block; kNone behind its last channel.
  size_t RowOf(const Block& block, size_t lane) const {
    const size_t channel = block.slices > 1 ? lane % kLanes : lane, slice = block.slices > 1 ? lane / kLanes : 0;
    return channel < block.channels && slice < slices ? slice * outputs + block.channel + channel : kNone;
  }

  // Bytes from the weights of a block's kernels, one for each channel, to those of the next slice.
  size_t SliceOfTaps() const { return UpTo(kWord, window.height * window.width) * kBlock; }

  // The channel of each slot, in the order of channels or in that in which sums are made.
  std::vector<size_t> Slots(bool as_summed) const {
    std::vector<size_t> channels(blocks.size() * kBlock, kNone);
    for (const Block& block : blocks) {
      for (size_t slot = 0; slot < kBlock; ++slot) {
        const size_t lane = as_summed && depthwise ? InterleavedChannel(slot / kLanes, slot % kLanes) : slot;
        if (lane < Lanes(block)) channels[block.slot + slot] = block.channel + lane % block.channels;
      }
    }
    return channels;
  }

 private:
  // How many of a block's lanes are in use: those of few kernels, one for each channel, serve several places at once.
  size_t Lanes(const Block& block) const { return block.channels * (depthwise ? PlacesOfBlock(block) : 1); }

  // As even as can be, so that none is left with few channels; kernels of each channel want whole blocks, which may overlap.
  void CutIntoBlocks() {
    if (slices > 1 && !depthwise) {
      for (size_t first = 0; first < outputs; first += kLanes) {
        blocks.push_back({first / kLanes * kBlock, first, std::min(kLanes, outputs - first), slices});
      }
      return;
    }
    const size_t vectors = UpTo(kLanes, outputs) / kLanes, count = UpTo(kBlock, outputs) / kBlock;
    for (size_t i = 0; i < count; ++i) {
      size_t first = vectors * i / count * kLanes, last = std::min(outputs, vectors * (i + 1) / count * kLanes);
      if (depthwise) {
        first = std::min(i * kBlock, outputs < kBlock ? 0 : outputs - kBlock);
        last = std::min(outputs, first + kBlock);
      }
      blocks.push_back({i * kBlock, first, last - first, 1});
    }
  }

  // Of the block that was packed last.
  void AddNarrowSums(const Block& block) {
    const int8_t* own = weights.data() + weights_at.back();
    const size_t first = narrow_.size();
    narrow_.resize(first + kVectors);
    if (depthwise) {  // whose vectors are multiplied together
      narrow_[first] = NarrowSums(own, slices, SliceOfTaps() / kBlock / kWord, kBlock);
      return;
    }
    const Runs runs = RunsOfWindow();
    const size_t words = runs.Padded() / kWord;
    for (size_t vector = 0; vector < block.Vectors(); ++vector, own += runs.count * words * kLanes * kWord) {
      narrow_[first + vector] = NarrowSums(own, runs.count, words, kLanes);
    }
  }

  void AddUp(const GivenWeights& all) {
    for (size_t output = 0; output < all.outputs; ++output) {
      const int8_t* own = all.values + output * all.inputs * all.taps;
      int64_t total = 0, size = 0;
      for (size_t i = 0; i < all.inputs * all.taps; ++i) {
        total += own[i];
        size += std::abs(own[i]);
      }
      totals.push_back(total);
      sizes.push_back(size);
    }
  }

  // Where the weight of a run's byte is among those of an output.
  size_t Lies(const GivenWeights& all, const Runs& runs, size_t run, size_t byte) const {
    return byte % inputs * all.taps + run * runs.taps + byte / inputs;
  }

  // A word for each lane of a vector; nothing behind the run's last byte and the block's last channel.
  void PackWord(const GivenWeights& all, const Block& block, const Runs& runs, size_t run, size_t word, size_t vector) {
    for (size_t lane = vector * kLanes; lane < (vector + 1) * kLanes; ++lane) {
      const size_t row = RowOf(block, lane);
      for (size_t byte = word * kWord; byte < (word + 1) * kWord; ++byte) {
        const bool there = row != kNone && byte < runs.bytes;
        weights.push_back(there ? all.values[row * inputs * all.taps + Lies(all, runs, run, byte)] : 0);
      }
    }
  }

  // [runs, words, vectors, lanes, kWord] of so many vectors at a time.
  void PackByRun(const GivenWeights& all, const Block& block, size_t together) {
    const Runs runs = RunsOfWindow();
    for (size_t first = 0; first < block.Vectors(); first += together) {
      for (size_t run = 0; run < runs.count; ++run) {
        for (size_t word = 0; word < runs.Padded() / kWord; ++word) {
          for (size_t vector = first; vector < first + together; ++vector) PackWord(all, block, runs, run, word, vector);
        }
      }
    }
  }

  // [pairs of vectors, runs, tiles of a run, vectors of the pair, words of a tile, lanes, kWord]
  void PackByTile(const GivenWeights& all, const Block& block) {
    const Runs runs = RunsOfWindow();
    for (size_t first = 0; first < block.Vectors(); first += 2) {
      for (size_t run = 0; run < runs.count; ++run) {
        for (size_t tile = 0; tile < runs.Padded() / kWord; tile += kTileWords) {
          for (size_t vector = first; vector < std::min(first + 2, block.Vectors()); ++vector) {
            for (size_t word = tile; word < tile + kTileWords; ++word) PackWord(all, block, runs, run, word, vector);
          }
        }
      }
    }
  }

  // [slices, taps / kWord up, vectors, lanes, kWord]
  void PackByTap(const GivenWeights& all, const Block& block) {
    for (size_t row = block.channel; row < all.outputs; row += outputs) {
      for (size_t first = 0; first < all.taps; first += kWord) {
        for (size_t slot = 0; slot < kBlock; ++slot) {
          const size_t lane = InterleavedChannel(slot / kLanes, slot % kLanes);
          for (size_t tap = first; tap < first + kWord; ++tap) {
            const bool there = lane < Lanes(block) && tap < all.taps;
            weights.push_back(there ? all.At(row + lane % block.channels, 0, tap) : 0);
          }
        }
      }
    }
  }

  std::vector<NarrowSums> narrow_;  // of each block, kVectors apart
};

}  // namespace pmsm

#endif

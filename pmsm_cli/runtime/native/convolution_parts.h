// A convolution of codes cut into parts that threads share: so many output places, and so many blocks of output channels each.

#ifndef PMSM_CONVOLUTION_PARTS_H
#define PMSM_CONVOLUTION_PARTS_H

#include <algorithm>

#include "convolution.h"
#include "convolution_rows.h"
#include "convolution_tiles.h"
#include "operators.h"
#include "packed_weights.h"
#include "tensors.h"

namespace pmsm {

inline size_t Quotient(size_t count, size_t by) { return (count + by - 1) / by; }

// The places from begin to before end, of the blocks from first to before last.
struct Part {
  size_t begin, end, first, last;
};

class Parts {
 public:
  // Of `places` to a step, that read so many codes at all steps. None has more than `most` places.
  Parts(const PackedWeights& layer, size_t codes, const Runs& runs, size_t places, size_t steps, size_t most)
      : places_(places), blocks_(layer.blocks.size()) {
    // A kernel of each channel does about as much beside a multiply-accumulate as others do in sixteen.
    const size_t work =
        steps * places * runs.count * runs.bytes * layer.slices * (layer.depthwise ? 16 : layer.outputs);
    const size_t wanted = std::clamp<size_t>(work / kWorkPerPart, 1, kMostParts);
    // Whichever is larger is read by few threads: the weights, or the codes. Threads that write to neighbouring channels
    // of the same places are in each other's way.
    const bool heavy = !layer.depthwise && layer.weights.size() > std::max<size_t>(1u << 20, codes);
    const size_t cuts = heavy ? std::min(blocks_, wanted) : 1;
    blocks_each_ = Quotient(blocks_, cuts);
    // Codes of a place that no other reads.
    const size_t reads = steps * layer.window.stride_y * layer.window.stride_x * layer.inputs;
    const size_t share = std::min(Quotient(places, Quotient(wanted, cuts)), kCodesOfPart / reads);
    places_each_ = std::min(most, UpTo(runs.OnTiles() ? kPlacesTogether : kFewestPlacesOfPart, std::max<size_t>(1, share)));
  }

  size_t Count() const { return PartsOfPlaces() * Quotient(blocks_, blocks_each_); }

  Part At(size_t index) const {
    const size_t begin = index % PartsOfPlaces() * places_each_, first = index / PartsOfPlaces() * blocks_each_;
    return {begin, std::min(places_, begin + places_each_), first, std::min(blocks_, first + blocks_each_)};
  }

 private:
  // Multiply-accumulates below which waking another thread costs more than it saves, and parts that share the work well.
  static constexpr size_t kWorkPerPart = 500'000;
  static constexpr size_t kMostParts = 24;
  // Codes that the windows of a part read: they stay in the second cache while all output channels read them.
  static constexpr size_t kCodesOfPart = 131'072;
  static constexpr size_t kFewestPlacesOfPart = 24;

  size_t PartsOfPlaces() const { return Quotient(places_, places_each_); }

  size_t places_, blocks_, places_each_ = 1, blocks_each_ = 1;
};

// Calls work(task, part) for all parts, on the session's threads where there are several.
template <typename Task, void (*work)(const Task&, const Part&)>
void RunParts(const Ort& ort, OrtKernelContext* context, const Task& task, const Parts& parts) {
  if (parts.Count() == 1) return work(task, parts.At(0));
  OnThreads(ort, context, parts.Count(), [&](size_t index) { work(task, parts.At(index)); });
}

}  // namespace pmsm

#endif

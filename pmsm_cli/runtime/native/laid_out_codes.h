// Codes as a tensor holds them, and what is counted of them, image by image.

#ifndef PMSM_LAID_OUT_CODES_H
#define PMSM_LAID_OUT_CODES_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "counted_codes.h"
#include "tensors.h"

namespace pmsm {

// What codes of some images add up to, in memory of somebody else's, which begins with zeros.
struct Tally {
  RowSums* sums;          // [images]
  uint32_t* of_channels;  // [images, 2, channels]: how many neurons fire, and how many are at their limit

  Tally Behind(size_t images, size_t channels) const { return {sums + images, of_channels + images * 2 * channels}; }
};

// Codes [images, places, channels], maybe with a run of neighbours to each channel. Whoever counts them gets, for each image, how
// large spikes are together and how many neurons fire; where there is a map, which says how many synapses a neuron of a place
// reaches, also how many these spikes, and these neurons, reach; all of them as two numbers. Then, of each channel, how many
// neurons fire, and how many are at their limit.
class LaidOutCodes {
 public:
  // `map`: [places]; null: there is none.
  LaidOutCodes(const uint8_t* codes, size_t images, size_t places, size_t channels, const int32_t* map, const Limits& limits)
      : codes_(codes), images_(images), places_(places), channels_(channels), run_(1), map_(map), limits_(limits) {}

  // `axis`: of the channels, 0 where there are none.
  LaidOutCodes(const uint8_t* codes, const Shape& shape, int64_t axis, const int32_t* map, const Limits& limits)
      : codes_(codes), map_(map), limits_(limits) {
    const size_t rank = shape.size(), at = static_cast<size_t>(axis);
    if (axis < 0 || at >= rank) throw Failure("codes of shape " + Text(shape));
    if (map && (at == 0 || at + 1 != rank)) {
      throw Failure("positions are before channels, which are on axis " + std::to_string(axis) + " of " + Text(shape));
    }
    images_ = Product(shape, 0, 1);
    places_ = at ? Product(shape, 1, at) : 1;
    channels_ = at ? Product(shape, at, at + 1) : 1;
    run_ = Product(shape, at + 1, rank);
  }

  size_t Images() const { return images_; }
  size_t Places() const { return places_; }
  size_t Channels() const { return channels_; }
  size_t Count() const { return images_ * places_ * channels_ * run_; }
  // What belongs together: codes of channels, where these are last.
  size_t Step() const { return run_ == 1 ? channels_ : 1; }
  size_t Steps() const { return Step() ? Count() / Step() : 0; }
  size_t Width() const { return (map_ ? 8 : 4) + 2 * channels_; }

  // Adds the codes from begin to before end, both of them whole steps, to a tally that begins with an image.
  void AddTo(const Tally& tally, size_t image, size_t begin, size_t end) const {
    if (begin == end) return;
    if (run_ == 1) return AddPlacesTo(tally, image, begin / channels_, end / channels_, 0, channels_);
    while (begin < end) {
      const size_t line = begin / run_, until = std::min(end, (line + 1) * run_);
      AddRunTo(tally, line / (places_ * channels_) - image, line % channels_, begin, until - begin);
      begin = until;
    }
  }

  // The same of places, of all images in a row, and of the channels from first to before last, which have no neighbours.
  void AddPlacesTo(const Tally& tally, size_t image, size_t begin, size_t end, size_t first, size_t last) const {
    for (size_t at = begin, until = 0; at < end; at = until) {
      const size_t here = at / places_, line = here - image;
      until = std::min(end, (here + 1) * places_);
      uint32_t* of_channels = tally.of_channels + line * 2 * channels_ + first;
      const OfRows of{map_ ? map_ + at % places_ : nullptr, of_channels, of_channels + channels_};
      tally.sums[line] += CountRows(codes_ + at * channels_ + first, until - at, last - first, channels_, limits_, of);
    }
  }

  // A tally's first image; where the next one's go.
  float* Put(const Tally& tally, float* counts) const {
    const RowSums& sums = *tally.sums;
    float* of_channels = counts + (map_ ? 8 : 4);
    const int64_t firing = PutChannels(tally.of_channels, channels_, of_channels);
    counts = PutInTwo(firing, PutInTwo(sums.sizes, counts));
    if (map_) PutInTwo(sums.events, PutInTwo(sums.reached, counts));
    return of_channels + 2 * channels_;
  }

 private:
  void AddRunTo(const Tally& tally, size_t line, size_t channel, size_t begin, size_t length) const {
    const Counted counted = CountRun(codes_ + begin, length, limits_);
    uint32_t* of_channels = tally.of_channels + line * 2 * channels_ + channel;
    tally.sums[line].sizes += counted.sizes;
    of_channels[0] += static_cast<uint32_t>(counted.firing);
    of_channels[channels_] += static_cast<uint32_t>(counted.limited);
  }

  const uint8_t* codes_;
  size_t images_, places_, channels_, run_;
  const int32_t* map_;
  Limits limits_;
};

}  // namespace pmsm

#endif

// What neurons emit, counted by several threads: by those that compute it, while the codes are in their caches, or afterwards.

#ifndef PMSM_EMITTED_COUNTS_H
#define PMSM_EMITTED_COUNTS_H

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "counted_codes.h"

namespace pmsm {

// For what takes less time than to put a thread to sleep and wake it, which a mutex does.
class Briefly {
 public:
  explicit Briefly(std::atomic_flag& taken) : taken_(taken) {
    constexpr int kPatience = 1000;
    for (int tries = 0; taken_.test_and_set(std::memory_order_acquire); ++tries) {
      if (tries > kPatience) std::this_thread::yield();
    }
  }
  ~Briefly() { taken_.clear(std::memory_order_release); }
  Briefly(const Briefly&) = delete;
  Briefly& operator=(const Briefly&) = delete;

 private:
  std::atomic_flag& taken_;
};

// Of codes [images, places, channels]; any thread may add some places and channels, each of them once.
class EmittedCounts {
 public:
  EmittedCounts(size_t images, size_t places, size_t channels, bool positions, const Limits& limits)
      : images_(images), places_(places), channels_(channels), positions_(positions), limits_(limits), sizes_(images),
        of_channels_(images * 2 * channels) {}

  size_t Width() const { return BeforeChannels() + 2 * channels_; }

  // Where counts are to go, [images, Width()].
  void WriteTo(float* counts) {
    counts_ = counts;
    if (positions_) std::fill_n(counts, images_ * Width(), 0.0f);
  }

  // The places from begin to before end, of all images in a row, and the channels from first to before last.
  void Add(const uint8_t* codes, size_t begin, size_t end, size_t first, size_t last) {
    while (begin < end) {
      const size_t image = begin / places_, until = std::min(end, (image + 1) * places_);
      AddOfImage(codes + begin * channels_ + first, image, begin % places_, until - begin, first, last - first);
      begin = until;
    }
  }

  // Neighbouring codes of one channel.
  void AddRun(const uint8_t* codes, size_t length, size_t image, size_t channel) {
    const Counted counted = CountRun(codes, length, limits_);
    const Briefly alone(taken_);
    uint32_t* of_channels = of_channels_.data() + image * 2 * channels_ + channel;
    sizes_[image] += counted.sizes;
    of_channels[0] += static_cast<uint32_t>(counted.firing);
    of_channels[channels_] += static_cast<uint32_t>(counted.limited);
  }

  void Finish() {
    for (size_t image = 0; image < images_; ++image) {
      float* counts = counts_ + image * Width();
      const uint32_t* sums = of_channels_.data() + image * 2 * channels_;
      int64_t firing = 0;
      for (size_t i = 0; i < 2 * channels_; ++i) {
        counts[BeforeChannels() + i] = static_cast<float>(sums[i]);
        if (i < channels_) firing += sums[i];
      }
      if (!positions_) PutInTwo(firing, PutInTwo(sizes_[image], counts));
    }
  }

 private:
  size_t BeforeChannels() const { return positions_ ? 2 * places_ : 4; }

  void AddOfImage(const uint8_t* codes, size_t image, size_t place, size_t rows, size_t first, size_t channels) {
    static thread_local std::vector<uint32_t> sums;
    static thread_local std::vector<float> of_rows;
    sums.assign(2 * channels, 0);
    float* places = positions_ ? counts_ + image * Width() + place : nullptr;
    const bool shared = positions_ && channels != channels_;  // with threads that have other channels of these places
    CodeSums counted = {nullptr, nullptr, sums.data(), sums.data() + channels};
    if (shared) {
      of_rows.resize(2 * rows);
      counted.sizes = of_rows.data();
      counted.firing = of_rows.data() + rows;
    } else if (positions_) {
      counted.sizes = places;
      counted.firing = places + places_;
    }
    const int64_t all = CountRows(codes, rows, channels, channels_, limits_, counted);
    const Briefly alone(taken_);
    sizes_[image] += all;
    uint32_t* of_channels = of_channels_.data() + image * 2 * channels_ + first;
    for (size_t i = 0; i < channels; ++i) {
      of_channels[i] += sums[i];
      of_channels[channels_ + i] += sums[channels + i];
    }
    for (size_t row = 0; shared && row < rows; ++row) {
      places[row] += counted.sizes[row];
      places[places_ + row] += counted.firing[row];
    }
  }

  size_t images_, places_, channels_;
  bool positions_;
  Limits limits_;
  float* counts_ = nullptr;
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
  std::vector<int64_t> sizes_;
  std::vector<uint32_t> of_channels_;
};

}  // namespace pmsm

#endif

// What neurons emit, counted by several threads: by those that compute it, while the codes are in their caches, or afterwards.

#ifndef PMSM_EMITTED_COUNTS_H
#define PMSM_EMITTED_COUNTS_H

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "counted_codes.h"
#include "tensors.h"

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

// Of codes [images, places, channels]; any thread may add some places and channels, each of them once. For each image: how large
// spikes are together and how many neurons fire; where there is a map, which says how many synapses a neuron of a place reaches,
// also how many these spikes, and these neurons, reach; all of them as two numbers. Then, of each channel, how many neurons fire,
// and how many are at their limit.
class EmittedCounts {
 public:
  // `map`: [places]; null: there is none.
  EmittedCounts(size_t images, size_t places, size_t channels, const int32_t* map, const Limits& limits, bool shared)
      : images_(images), places_(places), channels_(channels), map_(map), limits_(limits) {
    if (shared) shared_.reset(new std::array<Share, 16>);
  }

  size_t Width() const { return (map_ ? 8 : 4) + 2 * channels_; }

  // The places from begin to before end, of all images in a row, and the channels from first to before last.
  void Add(const uint8_t* codes, size_t begin, size_t end, size_t first, size_t last) {
    WithOwn([&](Share& own) {
      for (size_t at = begin, until = 0; at < end; at = until) {
        const size_t image = at / places_;
        until = std::min(end, (image + 1) * places_);
        uint32_t* of_channels = own.of_channels.data() + image * 2 * channels_ + first;
        const OfRows of{map_ ? map_ + at % places_ : nullptr, of_channels, of_channels + channels_};
        own.sums[image] += CountRows(codes + at * channels_ + first, until - at, last - first, channels_, limits_, of);
      }
    });
  }

  // Neighbouring codes of one channel; there is no map.
  void AddRun(const uint8_t* codes, size_t length, size_t image, size_t channel) {
    WithOwn([&](Share& own) {
      const Counted counted = CountRun(codes, length, limits_);
      uint32_t* of_channels = own.of_channels.data() + image * 2 * channels_ + channel;
      own.sums[image].sizes += counted.sizes;
      of_channels[0] += static_cast<uint32_t>(counted.firing);
      of_channels[channels_] += static_cast<uint32_t>(counted.limited);
    });
  }

  // When no thread adds any more: an output of the node's, [images, Width()].
  void PutInto(const Ort& ort, OrtKernelContext* context, size_t output) {
    float* counts = OutputAt(ort, context, output, {static_cast<int64_t>(images_), static_cast<int64_t>(Width())});
    for (size_t image = 0; image < images_; ++image) Put(image, counts + image * Width());
  }

  // The same of one image.
  void Put(size_t image, float* counts) {
    static thread_local std::vector<uint32_t> of_channels;
    of_channels.assign(2 * channels_, 0);
    RowSums sums;
    ForAll([&](const Share& share) {
      if (share.sums.empty()) return;
      sums += share.sums[image];
      const uint32_t* more = share.of_channels.data() + image * 2 * channels_;
      for (size_t i = 0; i < 2 * channels_; ++i) of_channels[i] += more[i];
    });
    int64_t firing = 0;
    for (size_t i = 0; i < channels_; ++i) firing += of_channels[i];
    counts = PutInTwo(firing, PutInTwo(sums.sizes, counts));
    if (map_) counts = PutInTwo(sums.events, PutInTwo(sums.reached, counts));
    for (size_t i = 0; i < 2 * channels_; ++i) counts[i] = static_cast<float>(of_channels[i]);
  }

 private:
  // What a thread has counted: numbers that several write to would go to and fro between their caches, and a lock would wait
  // for all that is stored.
  struct alignas(64) Share {
    std::atomic<size_t> owner{0};
    std::vector<RowSums> sums;          // [images]
    std::vector<uint32_t> of_channels;  // [images, 2, channels]
  };

  // A number for each thread, above 0.
  static size_t Self() {
    static std::atomic<size_t> threads{0};
    static thread_local const size_t self = ++threads;
    return self;
  }

  // Calls function(share) with the thread's own; those that come too late for one have the first together, as all where
  // nothing is shared.
  template <typename Function>
  void WithOwn(Function&& function) {
    const size_t self = Self();
    const auto with = [&](Share& share) {
      if (share.sums.empty()) {
        share.of_channels.resize(images_ * 2 * channels_);
        share.sums.resize(images_);
      }
      function(share);
    };
    for (size_t i = 0; shared_ && i < shared_->size(); ++i) {
      Share& share = (*shared_)[i];
      size_t owner = share.owner.load(std::memory_order_relaxed);
      if (owner == self || (owner == 0 && share.owner.compare_exchange_strong(owner, self))) return with(share);
    }
    const Briefly alone(taken_);
    with(first_);
  }

  template <typename Function>
  void ForAll(Function&& function) {
    function(first_);
    if (!shared_) return;
    for (Share& share : *shared_) {
      if (share.owner.load(std::memory_order_relaxed)) function(share);
    }
  }

  size_t images_, places_, channels_;
  const int32_t* map_;
  Limits limits_;
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
  Share first_;
  std::unique_ptr<std::array<Share, 16>> shared_;
};

// The same of codes of any shape, whose channels are on any axis.
class LaidOutCodes {
 public:
  // `axis`: of the channels, 0 where there are none. With more than `of_part` codes several threads add lines.
  LaidOutCodes(const uint8_t* codes, const Shape& shape, int64_t axis, const int32_t* map, const Limits& limits, size_t of_part)
      : codes_(codes), axis_(AxisOf(shape, axis)), images_(Product(shape, 0, 1)), rows_(axis_ ? Product(shape, 1, axis_) : 1),
        channels_(axis_ ? Product(shape, axis_, axis_ + 1) : 1), run_(Product(shape, axis_ + 1, shape.size())),
        counts_(images_, rows_, channels_, map, limits, Count() > of_part) {
    if (map && (axis_ == 0 || axis_ + 1 != shape.size())) {
      throw Failure("positions are before channels, which are on axis " + std::to_string(axis) + " of " + Text(shape));
    }
  }

  size_t Images() const { return images_; }
  size_t Positions() const { return rows_; }
  size_t Count() const { return images_ * rows_ * channels_ * run_; }
  // What belongs together: codes of channels, where these are last.
  size_t Step() const { return run_ == 1 ? channels_ : 1; }
  size_t Steps() const { return Step() ? Count() / Step() : 0; }
  EmittedCounts& Counts() { return counts_; }

  // The codes from begin to before end, both of them whole steps.
  void Add(size_t begin, size_t end) {
    if (begin == end) return;
    if (run_ == 1) return counts_.Add(codes_, begin / channels_, end / channels_, 0, channels_);
    while (begin < end) {
      const size_t line = begin / run_, until = std::min(end, (line + 1) * run_);
      counts_.AddRun(codes_ + begin, until - begin, line / (rows_ * channels_), line % channels_);
      begin = until;
    }
  }

 private:
  static size_t AxisOf(const Shape& shape, int64_t axis) {
    if (axis < 0 || axis >= static_cast<int64_t>(shape.size())) throw Failure("codes of shape " + Text(shape));
    return static_cast<size_t>(axis);
  }

  const uint8_t* codes_;
  size_t axis_, images_, rows_, channels_, run_;
  EmittedCounts counts_;
};

}  // namespace pmsm

#endif

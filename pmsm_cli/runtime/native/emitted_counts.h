// What neurons emit, counted by the threads that compute it, while the codes are in their caches.

#ifndef PMSM_EMITTED_COUNTS_H
#define PMSM_EMITTED_COUNTS_H

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "laid_out_codes.h"
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

// Any thread may add some of the codes, each of them once.
class EmittedCounts {
 public:
  explicit EmittedCounts(const LaidOutCodes& codes) : codes_(codes) {}

  const LaidOutCodes& Codes() const { return codes_; }

  void Add(size_t begin, size_t end) {
    WithOwn([&](const Tally& tally) { codes_.AddTo(tally, 0, begin, end); });
  }
  void AddPlaces(size_t begin, size_t end, size_t first, size_t last) {
    WithOwn([&](const Tally& tally) { codes_.AddPlacesTo(tally, 0, begin, end, first, last); });
  }

  // When no thread adds any more: an output of the node's, [images, width].
  void PutInto(const Ort& ort, OrtKernelContext* context, size_t output) {
    const size_t images = codes_.Images();
    float* counts = OutputAt(ort, context, output, {static_cast<int64_t>(images), static_cast<int64_t>(codes_.Width())});
    Tally all = first_.In(codes_);
    for (Share& share : shares_) {
      if (!share.owner.load(std::memory_order_relaxed)) continue;
      for (size_t i = 0; i < share.sums.size(); ++i) first_.sums[i] += share.sums[i];
      AddChannels(share.of_channels.data(), share.of_channels.size(), first_.of_channels.data());
    }
    for (size_t image = 0; image < images; ++image) {
      counts = codes_.Put(all, counts);
      all = all.Behind(1, codes_.Channels());
    }
  }

 private:
  // What a thread has counted: numbers that several write to would go to and fro between their caches, and a lock would wait
  // for all that is stored.
  struct alignas(64) Share {
    std::atomic<size_t> owner{0};
    std::vector<RowSums> sums;
    std::vector<uint32_t> of_channels;

    Tally In(const LaidOutCodes& codes) {
      if (sums.empty()) {
        of_channels.resize(codes.Images() * 2 * codes.Channels());
        sums.resize(codes.Images());
      }
      return {sums.data(), of_channels.data()};
    }
  };

  // A number for each thread, above 0.
  static size_t Self() {
    static std::atomic<size_t> threads{0};
    static thread_local const size_t self = ++threads;
    return self;
  }

  // Calls function(tally) with the thread's own; those that come too late for one have the first together.
  template <typename Function>
  void WithOwn(Function&& function) {
    const size_t self = Self();
    for (Share& share : shares_) {
      size_t owner = share.owner.load(std::memory_order_relaxed);
      if (owner == self || (owner == 0 && share.owner.compare_exchange_strong(owner, self))) return function(share.In(codes_));
    }
    const Briefly alone(taken_);
    function(first_.In(codes_));
  }

  LaidOutCodes codes_;
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
  Share first_;
  std::array<Share, 16> shares_;
};

}  // namespace pmsm

#endif

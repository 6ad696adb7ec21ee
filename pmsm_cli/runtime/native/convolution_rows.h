// Where kernels of a convolution find what the windows of neighbouring output places hold.

#ifndef PMSM_CONVOLUTION_ROWS_H
#define PMSM_CONVOLUTION_ROWS_H

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "convolution.h"
#include "convolution_tiles.h"
#include "processor.h"

namespace pmsm {

// The input of a convolution, [images, height, width, channels].
struct Map {
  const uint8_t* codes;
  size_t images, height, width, channels;
  uint8_t padding;  // the code that stands for nothing

  const uint8_t* At(size_t image, size_t y, size_t x) const {
    return codes + ((image * height + y) * width + x) * channels;
  }
  size_t Count() const { return images * height * width * channels; }
  const uint8_t* End() const { return codes + Count(); }
};

// A window as runs of bytes: taps that lie side by side in the input are one run.
struct Runs {
  size_t count, taps, bytes;  // runs, taps of each, bytes of each

  Runs(const Window& window, size_t channels, bool together)
      : count(window.height * (together && window.step_x == 1 ? 1 : window.width)),
        taps(together && window.step_x == 1 ? window.width : 1),
        bytes(taps * channels) {}

  size_t Padded() const { return UpTo(kWord, bytes); }
  // Whether tiles multiply them: few bytes leave most of a tile empty, and words of them are no more work.
  bool OnTiles() const { return FastestKernels() == Kernels::kTiles && bytes > kTileBytes / 2; }
};

// The largest of some codes and one more.
uint8_t MostOf(const uint8_t* codes, size_t count, uint8_t most);

// Neighbouring places of an output row. `top` and `left` are where the first one's window begins in the padded input;
// `inside`: no window reaches over an edge, nor does what kernels read beyond it reach past the input.
struct Stretch {
  size_t image, top, left, place, count;
  bool inside;
};

class Windows {
 public:
  Windows(const Map& map, const Window& window, const Runs& runs) : map_(map), window_(window), runs_(runs) {}

  // Calls visit(stretch) for the places begin to end, one after the other; places at edges come one by one.
  template <typename Visit>
  void InStretches(size_t begin, size_t end, Visit&& visit) const {
    const size_t width = window_.OutputWidth(map_.width), places = width * window_.OutputHeight(map_.height);
    for (size_t at = begin; at < end;) {
      const size_t image = at / places, y = at % places / width, first = at % width;
      const size_t last = std::min(width, first + end - at), top = y * window_.stride_y;
      const size_t from = std::clamp((window_.left + window_.stride_x - 1) / window_.stride_x, first, last);
      const size_t to = std::max(from, std::min(last, EndInside(image, top)));
      const auto stretch = [&](size_t x, size_t count, bool inside) {
        visit(Stretch{image, top, x * window_.stride_x, at + x - first, count, inside});
      };
      for (size_t x = first; x < from; ++x) stretch(x, 1, false);
      if (from < to) stretch(from, to - from, true);
      for (size_t x = to; x < last; ++x) stretch(x, 1, false);
      at += last - first;
    }
  }

  // What a tap of a stretch's first window reads; null where that is padding.
  const uint8_t* Tap(const Stretch& stretch, size_t tap) const {
    const size_t y = stretch.top + tap / window_.width * window_.step_y;
    const size_t x = stretch.left + tap % window_.width * window_.step_x;
    const bool beyond = y < window_.top || y - window_.top >= map_.height || x < window_.left || x - window_.left >= map_.width;
    return beyond ? nullptr : map_.At(stretch.image, y - window_.top, x - window_.left);
  }

  // The largest code that the places begin to end may read, or more: that of the rows in which their windows lie, where kernels ask.
  uint8_t MostRead(size_t begin, size_t end) const {
    if (!AddsInPairs()) return 255;
    if (begin >= end) return map_.padding;
    if (window_.IsOnePlace()) return MostOf(map_.codes + begin * map_.channels, (end - begin) * map_.channels, map_.padding);
    const size_t width = window_.OutputWidth(map_.width), height = window_.OutputHeight(map_.height);
    const size_t first = begin / width, last = (end - 1) / width, reach = (window_.height - 1) * window_.step_y;
    const size_t top = first % height * window_.stride_y, bottom = last % height * window_.stride_y + reach + 1;
    const size_t from = std::min(map_.height, top - std::min(top, window_.top));
    const size_t to = std::min(map_.height, bottom - std::min(bottom, window_.top));
    const uint8_t* codes = map_.At(first / height, from, 0);
    const uint8_t* behind = map_.At(last / height, to, 0);
    return codes < behind ? MostOf(codes, static_cast<size_t>(behind - codes), map_.padding) : map_.padding;
  }

  // Bytes from one place of a stretch to the next one.
  size_t Step() const { return window_.stride_x * map_.channels; }

  const Map& map() const { return map_; }
  const Runs& runs() const { return runs_; }

 private:
  // The output place of a row before which windows lie wholly inside the input.
  size_t EndInside(size_t image, size_t top) const {
    const size_t reach_y = (window_.height - 1) * window_.step_y, reach_x = (window_.width - 1) * window_.step_x;
    const size_t bottom = top + reach_y - window_.top;
    if (top < window_.top || bottom >= map_.height || window_.left + map_.width <= reach_x) return 0;
    size_t end = (window_.left + map_.width - reach_x - 1) / window_.stride_x + 1;
    const size_t over = runs_.Padded() - runs_.bytes;  // read, and multiplied by nothing
    const auto past_the_input = [&](size_t x) {
      return map_.At(image, bottom, x * window_.stride_x + reach_x - window_.left) + map_.channels + over > map_.End();
    };
    while (over && end > 0 && (end - 1) * window_.stride_x >= window_.left && past_the_input(end - 1)) --end;
    return end;
  }

  const Map& map_;
  const Window& window_;
  const Runs& runs_;
};

// One call of a kernel, told from all others: what a thread has found of its input holds for the parts of this call.
class Call {
 public:
  Call() : number_(++Last()) {}
  bool operator==(const Call& other) const { return number_ == other.number_; }

 private:
  static std::atomic<uint64_t>& Last() {
    static std::atomic<uint64_t> last{0};
    return last;
  }

  uint64_t number_;
};

// Windows over an input that holds one step or several, one behind the other.
struct StepWindows {
  Windows windows;
  size_t steps;
};

// In what order places of several steps follow one another: so many of each step, whose places lie `between` apart, and then
// as many further ones. What is left of a step's places then fills vectors and tiles together with that of others.
struct StepOrder {
  const StepWindows* inputs;
  size_t count;  // of inputs
  size_t between, at_once;

  size_t Steps() const {
    size_t steps = 0;
    for (size_t i = 0; i < count; ++i) steps += inputs[i].steps;
    return steps;
  }

  // The largest code that the places begin to end of all steps may read, or more, where kernels ask.
  uint8_t MostRead(size_t begin, size_t end) const {
    uint8_t most = 0;
    for (size_t i = 0; i < count; ++i) {
      for (size_t step = 0; step < inputs[i].steps; ++step) {
        most = std::max(most, inputs[i].windows.MostRead(step * between + begin, step * between + end));
      }
    }
    return most;
  }

  // Calls visit(windows, begin, end) for neighbouring places, in order.
  template <typename Visit>
  void InTurn(size_t begin, size_t end, Visit&& visit) const {
    for (size_t place = begin; place < end; place += std::min(at_once, end - place)) {
      for (size_t i = 0; i < count; ++i) {
        for (size_t step = 0; step < inputs[i].steps; ++step) {
          visit(inputs[i].windows, step * between + place, step * between + place + std::min(at_once, end - place));
        }
      }
    }
  }
};

// Pointers to the runs of windows, [runs, places of all steps]. Behind the last place it is repeated, for kernels that take up
// to kMostPlaces at once. Runs that are not as they lie in the input are copies.
class Rows {
 public:
  // From the first step's place `begin` to before its `end`, and those of other steps.
  void Find(const StepOrder& order, size_t begin, size_t end, const Call& call) {
    if (call == call_ && begin == begin_ && end == end_) return;  // for other channels
    begin_ = end_ = 0;  // nothing holds until all is found: memory may not suffice
    const Runs& runs = order.inputs->windows.runs();
    const size_t places = order.Steps() * (end - begin);
    const auto in_stretches = [&](auto&& visit) {
      order.InTurn(begin, end, [&](const Windows& windows, size_t from, size_t to) {
        windows.InStretches(from, to, [&](const Stretch& stretch) { visit(windows, stretch); });
      });
    };
    stride_ = places + kMostPlaces;
    size_t at_edges = 0;
    in_stretches([&](const Windows&, const Stretch& stretch) { at_edges += !stretch.inside; });
    Grow(pointers_, runs.count * stride_);
    Grow(copies_, at_edges * runs.count * runs.Padded());
    nothing_.assign(runs.Padded(), order.inputs->windows.map().padding);
    uint8_t* copy = copies_.data();
    size_t at = 0;
    in_stretches([&](const Windows& windows, const Stretch& stretch) {
      for (size_t run = 0; run < runs.count; ++run) {
        const uint8_t** row = pointers_.data() + run * stride_ + at;
        if (stretch.inside) {
          const uint8_t* codes = windows.Tap(stretch, run * runs.taps);
          for (size_t i = 0; i < stretch.count; ++i) row[i] = codes + i * windows.Step();
        } else {
          *row = AtAnEdge(windows, stretch, run, copy);
          copy += runs.Padded();
        }
      }
      at += stretch.count;
    });
    for (size_t run = 0; run < runs.count; ++run) {
      const uint8_t** row = pointers_.data() + run * stride_;
      std::fill(row + places, row + stride_, row[places - 1]);
    }
    most_ = order.MostRead(begin, end);
    on_tiles_ = runs.OnTiles();
    if (on_tiles_) panels_.Find(Pointers(), stride_, runs.count, runs.Padded(), places);
    call_ = call;
    begin_ = begin;
    end_ = end;
  }

  // Of the first run; those of the next one are `Stride` further on.
  const uint8_t* const* Pointers() const { return pointers_.data(); }
  size_t Stride() const { return stride_; }
  // The largest code, where kernels ask.
  uint8_t Most() const { return most_; }
  // Those of a place, which is a multiple of kPlacesTogether; null where tiles do not multiply them.
  const Panel* PanelsAt(size_t place) const { return on_tiles_ ? panels_.At(place) : nullptr; }

 private:
  // What is written before it is read needs no zeros.
  template <typename Element>
  static void Grow(std::vector<Element>& values, size_t count) {
    if (values.size() < count) values.resize(count);
  }

  const uint8_t* AtAnEdge(const Windows& windows, const Stretch& stretch, size_t run, uint8_t* copy) const {
    const Runs& runs = windows.runs();
    const Map& map = windows.map();
    if (runs.taps == 1) {
      const uint8_t* codes = windows.Tap(stretch, run);
      if (!codes) return nothing_.data();
      if (codes + runs.Padded() <= map.End()) return codes;
    }
    std::memset(copy, map.padding, runs.Padded());
    for (size_t tap = 0; tap < runs.taps; ++tap) {
      const uint8_t* codes = windows.Tap(stretch, run * runs.taps + tap);
      if (codes) std::memcpy(copy + tap * map.channels, codes, map.channels);
    }
    return copy;
  }

  std::vector<const uint8_t*> pointers_;
  std::vector<uint8_t> copies_, nothing_;
  Panels panels_;
  bool on_tiles_ = false;
  uint8_t most_ = 255;
  Call call_;
  size_t stride_ = 0, begin_ = 0, end_ = 0;
};

// So many places whose rows are worth being found together, with those of further steps.
inline size_t MostPlaces(const Runs& runs, size_t steps) {
  return runs.OnTiles() ? Panels::MostPlaces(steps * runs.count * UpTo(kTileBytes, runs.Padded())) : ~size_t{0} / 2;
}

// Stretches of windows whose taps are read each on its own, and pointers to the taps of the first place of each.
class Taps {
 public:
  void Find(const Windows& windows, size_t begin, size_t end) {
    const size_t taps = windows.runs().count;
    nothing_.assign(windows.map().channels, windows.map().padding);
    stretches_.clear();
    pointers_.clear();
    windows.InStretches(begin, end, [&](const Stretch& stretch) {
      stretches_.push_back(stretch);
      for (size_t tap = 0; tap < taps; ++tap) {
        const uint8_t* codes = windows.Tap(stretch, tap);
        pointers_.push_back(codes ? codes : nothing_.data());
      }
    });
  }

  const std::vector<Stretch>& stretches() const { return stretches_; }
  const uint8_t* const* Pointers() const { return pointers_.data(); }

 private:
  std::vector<Stretch> stretches_;
  std::vector<const uint8_t*> pointers_;
  std::vector<uint8_t> nothing_;
};

}  // namespace pmsm

#endif

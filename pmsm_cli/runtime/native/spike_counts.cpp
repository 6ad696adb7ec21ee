// Counting spikes in one pass over them.
//
//   SpikeCounts(spikes) -> (count, firing, channels, limit)
//
// Spikes have the shape [images, first, rest ...]. Summed over the first axis behind the images (over the images, where
// there is no further axis), `count` is how large spikes are whichever their sign, and `firing` how many neurons emit any.
// `channels` [images, C] is how many neurons of each channel fire, and `limit` how many emit as much as they can: at
// least `positive_levels`, or, where `negative_levels` is above 0, at most -`negative_levels`. Channels are on the axis
// `axis`, counted from the left; 0: there are none, and `channels` and `limit` are of all neurons together.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

// Neighbouring positions that are summed up together: what they are summed up in stays in the nearest cache.
constexpr size_t kTile = 1024;
// Below this many elements waking another thread costs more than it saves.
constexpr size_t kElementsPerThread = 65536;
constexpr size_t kMostParts = 8;

struct Attributes : Levels {
  size_t axis;

  Attributes(const Ort& ort, const OrtKernelInfo* info)
      : Levels(ort, info), axis(static_cast<size_t>(IntegerAttribute(ort, info, "axis"))) {}
};

struct Task {
  const float* spikes;
  size_t images, first, rest;
  float lowest, highest;
  bool by_row;  // channels are on the first axis: each of its rows is one
  float *count, *firing;
  std::vector<float> at_limit;  // like firing; empty where channels are rows
  size_t parts;
  std::vector<int32_t> of_rows;  // neurons that fire and neurons at their limit: [parts, 2, images x first]

  size_t Tiles() const { return (rest + kTile - 1) / kTile; }
  size_t Lines() const { return images * first; }
};

// What some rows of a tile add to the sums of its positions, and how many of their neurons fire and are at the limit.
// Several rows at once: the sums are then read and written once for all of them.
template <size_t kRows, bool kByRow>
PMSM_INLINE void AddRows(const Task& task, const float* spikes, size_t length, float* count, float* firing, float* limit,
                         int32_t* fired, int32_t* limited) {
  const float highest = task.highest, lowest = task.lowest < 0 ? task.lowest : -INFINITY;
  int32_t fired_here[kRows] = {}, limited_here[kRows] = {};
  PMSM_INDEPENDENT
  for (size_t i = 0; i < length; ++i) {
    float sizes = 0.0f;
    int32_t fire = 0, at_limit = 0;
    for (size_t row = 0; row < kRows; ++row) {
      const float spike = spikes[row * task.rest + i], size = std::fabs(spike);
      const int32_t fires = size > 0.0f ? 1 : 0;
      const int32_t limits = (spike >= highest ? 1 : 0) | (spike <= lowest ? 1 : 0);
      sizes += size;
      fire += fires;
      at_limit += limits;
      if (kByRow) {
        fired_here[row] += fires;
        limited_here[row] += limits;
      }
    }
    count[i] += sizes;
    firing[i] += static_cast<float>(fire);
    if (!kByRow) limit[i] += static_cast<float>(at_limit);
  }
  for (size_t row = 0; row < kRows; ++row) {
    fired[row] += fired_here[row];
    limited[row] += limited_here[row];
  }
}

template <bool kByRow>
PMSM_INLINE void WorkOnPart(Task& task, size_t part) {
  const size_t tiles = task.Tiles(), all = task.images * tiles;
  const size_t begin = all * part / task.parts, end = all * (part + 1) / task.parts;
  int32_t* fired = task.of_rows.data() + part * 2 * task.Lines();
  int32_t* limited = fired + task.Lines();
  for (size_t unit = begin; unit < end; ++unit) {
    const size_t image = unit / tiles, at = unit % tiles * kTile, length = std::min(kTile, task.rest - at);
    const size_t place = image * task.rest + at;
    float *count = task.count + place, *firing = task.firing + place;
    float* limit = kByRow ? nullptr : task.at_limit.data() + place;
    std::fill_n(count, length, 0.0f);
    std::fill_n(firing, length, 0.0f);
    size_t line = image * task.first;
    const size_t behind = line + task.first;
    for (; line + 4 <= behind; line += 4) {
      AddRows<4, kByRow>(task, task.spikes + line * task.rest + at, length, count, firing, limit, fired + line,
                         limited + line);
    }
    for (; line < behind; ++line) {
      AddRows<1, kByRow>(task, task.spikes + line * task.rest + at, length, count, firing, limit, fired + line,
                         limited + line);
    }
  }
}

PMSM_WIDER_VECTORS void Work(Task& task, size_t part) {
  if (task.by_row) {
    WorkOnPart<true>(task, part);
  } else {
    WorkOnPart<false>(task, part);
  }
}

// Sums of [images, outer, channels, inner] over all but images and channels.
void AddUp(const float* sums, size_t images, size_t outer, size_t channels, size_t inner, float* result) {
  std::fill_n(result, images * channels, 0.0f);
  for (size_t line = 0; line < images * outer * channels; ++line) {
    const size_t image = line / (outer * channels), channel = line % channels;
    for (size_t i = 0; i < inner; ++i) result[image * channels + channel] += sums[line * inner + i];
  }
}

void Compute(const Ort& ort, const Attributes& attributes, OrtKernelContext* context) {
  const Input<float> spikes = InputAt(ort, context, 0);
  const size_t rank = spikes.shape.size(), axis = attributes.axis;
  if (rank == 0 || axis >= std::max<size_t>(rank, 1)) throw Failure("spikes of shape " + Text(spikes.shape));
  const size_t summed = rank > 1 ? 1 : 0;
  Shape left = spikes.shape;
  left.erase(left.begin() + static_cast<std::ptrdiff_t>(summed));
  Task task{};
  task.spikes = spikes.data;
  task.images = rank > 1 ? static_cast<size_t>(spikes.shape[0]) : 1;
  task.first = static_cast<size_t>(spikes.shape[summed]);
  task.rest = Product(spikes.shape, summed + 1, rank);
  task.lowest = attributes.lowest;
  task.highest = attributes.highest;
  task.by_row = axis <= 1;
  task.count = OutputAt(ort, context, 0, left);
  task.firing = OutputAt(ort, context, 1, left);
  const size_t channels = axis == 0 ? 1 : static_cast<size_t>(spikes.shape[axis]);
  const Shape by_channel{static_cast<int64_t>(task.images), static_cast<int64_t>(channels)};
  float* fired = OutputAt(ort, context, 2, by_channel);
  float* limited = OutputAt(ort, context, 3, by_channel);
  if (!task.by_row) task.at_limit.resize(task.images * task.rest);
  const size_t units = std::max<size_t>(1, task.images * task.Tiles());
  task.parts = std::min({units, kMostParts, std::max<size_t>(1, spikes.Count() / kElementsPerThread)});
  task.of_rows.resize(task.parts * 2 * task.Lines());
  const auto part = [](void* task_pointer, size_t index) { Work(*static_cast<Task*>(task_pointer), index); };
  if (task.parts == 1) {
    part(&task, 0);
  } else {
    Check(ort.KernelContext_ParallelFor(context, part, task.parts, 0, &task));
  }
  if (!task.by_row) {
    const size_t outer = Product(spikes.shape, 2, axis), inner = Product(spikes.shape, axis + 1, rank);
    AddUp(task.firing, task.images, outer, channels, inner, fired);
    AddUp(task.at_limit.data(), task.images, outer, channels, inner, limited);
    return;
  }
  std::fill_n(fired, task.images * channels, 0.0f);
  std::fill_n(limited, task.images * channels, 0.0f);
  for (size_t index = 0; index < task.parts; ++index) {
    const int32_t* of_rows = task.of_rows.data() + index * 2 * task.Lines();
    for (size_t line = 0; line < task.Lines(); ++line) {
      const size_t to = axis == 0 ? line / task.first : line;
      fired[to] += static_cast<float>(of_rows[line]);
      limited[to] += static_cast<float>(of_rows[task.Lines() + line]);
    }
  }
}

}  // namespace

void AddSpikeCounts(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator op = [api] {
    Operator made = MakeOperator<Attributes, &Compute>(api, "SpikeCounts", {kFloat}, {kFloat, kFloat, kFloat, kFloat});
    made.InferOutputShapeFn = nullptr;  // none of the outputs has the spikes' shape
    return made;
  }();
  Check(ort.CustomOpDomain_Add(domain, &op));
}

}  // namespace pmsm

// Counting spikes in one pass over them, or as they are emitted.
//
//   SpikeCounts(spikes) -> counts
//   CountedNeuron(value, threshold, rest) -> (spikes, counts)          spikes as PolarityNeuron's of what is above rest
//
// Spikes have the shape [images, first, rest ...]; with a single axis, each image has one neuron. `counts` [images, ...] is,
// one after the other:
//
//   how large spikes are, whichever their sign, and how many neurons emit any: at each position [rest], summed over the
//   first axis; or, where the attribute `positions` is 0, over all, each as two numbers, of 2^20 and of what is left. They
//   are exact as long as a position's own sum is below 2^24
//   how many neurons of each channel fire [C], and how many emit as much as they can [C]: at least `positive_levels`, or,
//   where `negative_levels` is above 0, at most -`negative_levels`
//
// Channels are on the axis `axis`, counted from the left; 0: there are none, and the last two are of all neurons together.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "counted_codes.h"
#include "emission.h"
#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

// Neighbouring positions that are summed up together: what they are summed up in stays in the nearest cache.
constexpr size_t kTile = 1024, kShortestTile = 96;
// Below this many elements waking another thread costs more than it saves.
constexpr size_t kElementsPerThread = 16384;
constexpr size_t kMostParts = 8;
constexpr int32_t kLimit = 1 << 16;
constexpr size_t kRowsAtOnce = 4, kMostRows = kLimit / 2 - kRowsAtOnce;  // kMostRows: whose sums fit one number

struct Attributes : Levels {
  size_t axis;
  bool positions;

  Attributes(const Ort& ort, const OrtKernelInfo* info)
      : Levels(ort, info),
        axis(static_cast<size_t>(IntegerAttribute(ort, info, "axis"))),
        positions(IntegerAttribute(ort, info, "positions") != 0) {}
};

// How thresholds and rests lie along the rows of a tile.
enum class Lying {
  kNone,      // the spikes are there already
  kByRow,     // one for each row
  kByColumn,  // the same in every row
  kAnyhow,
};

struct Task {
  const float* value;  // null: the spikes are there already
  Lying lying;
  float* spikes;
  Neurons neurons;  // their levels are what limits spikes
  size_t images, first, rest, axis, channels;
  bool positions;
  float* counts;
  std::unique_ptr<float[]> at_place;  // [images, 2, rest], where channels are not rows: that fire, at their limit
  size_t tiles, parts;
  std::vector<int32_t> of_rows;  // neurons that fire and neurons at their limit: [parts, 2, images x first]
  std::vector<int64_t> sizes;    // of spikes: [parts, images]

  bool ByRow() const { return axis <= 1; }  // each row of the first axis is a channel, or part of the only one
  // Where a tile begins: all are about as long, and whole vectors but for the last one.
  size_t TileAt(size_t index) const { return index == tiles ? rest : rest * index / tiles / 16 * 16; }
  size_t Lines() const { return images * first; }
  size_t BeforeChannels() const { return positions ? 2 * rest : 4; }
  size_t Width() const { return BeforeChannels() + 2 * channels; }
};

Lying LyingOf(const Task& task) {
  if (!task.value || task.rest == 0) return Lying::kNone;
  if (std::max(task.neurons.highest, -task.neurons.lowest) > kFew) return Lying::kAnyhow;
  const auto alike_in_rows = [&](const Along& of) { return of.channels == 1 || of.inner % task.rest == 0; };
  const auto alike_in_columns = [&](const Along& of) {
    return of.channels == 1 || task.rest % (of.channels * of.inner) == 0;
  };
  const Along &threshold = task.neurons.threshold, &rest = task.neurons.rest;
  if (alike_in_rows(threshold) && alike_in_rows(rest)) return Lying::kByRow;
  return alike_in_columns(threshold) && alike_in_columns(rest) ? Lying::kByColumn : Lying::kAnyhow;
}

// The numbers of some columns of every row: in place where they lie so, else in the tile.
const float* OfColumns(const Along& along, size_t at, size_t length, float* tile) {
  const size_t first = at % along.channels;
  if (along.inner == 1 && first + length <= along.channels) return along.data + first;
  if (along.channels == 1) {
    std::fill_n(tile, length, *along.data);
  } else {
    for (size_t i = 0; i < length; ++i) tile[i] = along.At(at + i);
  }
  return tile;
}

// Where the rows of a tile are summed up, and the thresholds and rests of its columns.
struct Sums {
  float* sizes;
  int32_t* both;  // neurons that fire, and kLimit x neurons at their limit
  const float *thresholds, *rests;
};

// What some rows of a tile add to the sums of its positions, and how many of their neurons fire and are at the limit.
// Several rows at once: the sums are then read and written once for all of them. `kAlike`: as much of either sign is the
// limit. Spikes are emitted on the way, unless they are there.
template <size_t kRows, bool kByRow, bool kAlike, bool kFiring, Lying kLying>
PMSM_INLINE void AddRows(const Task& task, size_t line, size_t at, size_t length, const Sums sums, int32_t* fired,
                         int32_t* limited) {
  const size_t start = line * task.rest + at, step = task.rest;
  const float* value = task.value + (task.value ? start : 0);
  float* spikes = task.spikes + start;
  const float most = task.neurons.highest, least = task.neurons.lowest, lowest = least < 0 ? least : -INFINITY;
  float threshold[kRows] = {}, rest[kRows] = {};
  for (size_t row = 0; kLying == Lying::kByRow && row < kRows; ++row) {
    threshold[row] = task.neurons.threshold.At(start + row * step);
    rest[row] = task.neurons.rest.At(start + row * step);
  }
  int32_t of_rows[kRows] = {};
  PMSM_INDEPENDENT
  for (size_t i = 0; i < length; ++i) {
    float sizes = 0.0f;
    int32_t both = 0;
    for (size_t row = 0; row < kRows; ++row) {
      if (kLying == Lying::kByRow) {
        spikes[row * step + i] = EmitFew((value[row * step + i] - rest[row]) / threshold[row], least, most);
      } else if (kLying == Lying::kByColumn) {
        spikes[row * step + i] = EmitFew((value[row * step + i] - sums.rests[i]) / sums.thresholds[i], least, most);
      }
      const float spike = spikes[row * step + i], size = std::fabs(spike);
      const bool limits = kAlike ? size >= most : (spike >= most) | (spike <= lowest);
      const int32_t one = (size > 0.0f ? 1 : 0) + (limits ? kLimit : 0);
      sizes += size;
      both += one;
      if (kByRow) of_rows[row] += one;
    }
    sums.sizes[i] += sizes;
    if (kFiring) sums.both[i] += both;
  }
  for (size_t row = 0; row < kRows; ++row) {
    fired[row] += of_rows[row] & (kLimit - 1);
    limited[row] += of_rows[row] / kLimit;
  }
}

template <size_t kRows, bool kByRow, bool kFiring, Lying kLying>
PMSM_INLINE void AddRows(Task& task, size_t part, size_t line, size_t at, size_t length, const Sums sums) {
  int32_t* fired = task.of_rows.data() + part * 2 * task.Lines() + line;
  if (task.neurons.lowest == 0.0f || task.neurons.lowest == -task.neurons.highest) {
    AddRows<kRows, kByRow, true, kFiring, kLying>(task, line, at, length, sums, fired, fired + task.Lines());
  } else {
    AddRows<kRows, kByRow, false, kFiring, kLying>(task, line, at, length, sums, fired, fired + task.Lines());
  }
}

template <size_t kRows, bool kByRow, bool kFiring>
PMSM_INLINE void WorkOnRows(Task& task, size_t part, size_t line, size_t at, size_t length, const Sums sums) {
  switch (task.lying) {
    case Lying::kByRow: return AddRows<kRows, kByRow, kFiring, Lying::kByRow>(task, part, line, at, length, sums);
    case Lying::kByColumn: return AddRows<kRows, kByRow, kFiring, Lying::kByColumn>(task, part, line, at, length, sums);
    case Lying::kAnyhow:
      for (size_t row = line; row < line + kRows; ++row) {
        const size_t begin = row * task.rest + at;
        EmitOnce<false>(task.neurons, task.value, task.spikes, begin, begin + length);
      }
      [[fallthrough]];
    case Lying::kNone: return AddRows<kRows, kByRow, kFiring, Lying::kNone>(task, part, line, at, length, sums);
  }
}

template <bool kByRow, bool kPositions>
PMSM_INLINE void WorkOnPart(Task& task, size_t part) {
  constexpr bool kFiring = kPositions || !kByRow;
  float tile[kTile + 16], numbers[2][kTile + 16];
  int32_t both[kTile + 16];
  const size_t tiles = task.tiles, all = task.images * tiles;
  const size_t begin = all * part / task.parts, end = all * (part + 1) / task.parts;
  const bool by_column = task.lying == Lying::kByColumn;
  for (size_t unit = begin; unit < end; ++unit) {
    const size_t image = unit / tiles, at = task.TileAt(unit % tiles), length = task.TileAt(unit % tiles + 1) - at;
    float* outside = task.counts + image * task.Width() + at;
    float* places = kByRow ? outside : task.at_place.get() + 2 * image * task.rest + at;
    const Sums sums = {kPositions ? outside : tile, both,
                       by_column ? OfColumns(task.neurons.threshold, at, length, numbers[0]) : nullptr,
                       by_column ? OfColumns(task.neurons.rest, at, length, numbers[1]) : nullptr};
    std::fill_n(sums.sizes, length, 0.0f);
    if (kFiring) std::fill_n(places + (kByRow ? task.rest : 0), length, 0.0f);
    if (!kByRow) std::fill_n(places + task.rest, length, 0.0f);
    for (size_t line = image * task.first, behind = line + task.first; line < behind;) {
      const size_t until = std::min(behind, line + kMostRows);
      if (kFiring) std::fill_n(both, length, 0);
      for (; line + kRowsAtOnce <= until; line += kRowsAtOnce) {
        WorkOnRows<kRowsAtOnce, kByRow, kFiring>(task, part, line, at, length, sums);
      }
      for (; line < until; ++line) WorkOnRows<1, kByRow, kFiring>(task, part, line, at, length, sums);
      for (size_t i = 0; kFiring && i < length; ++i) {
        places[i + (kByRow ? task.rest : 0)] += static_cast<float>(both[i] % kLimit);
        if (!kByRow) places[i + task.rest] += static_cast<float>(both[i] / kLimit);
      }
    }
    if (kPositions && !kByRow) std::copy_n(places, length, outside + task.rest);
    if (!kPositions) {
      int64_t total = 0;
      for (size_t i = 0; i < length; ++i) total += static_cast<int32_t>(tile[i]);
      task.sizes[part * task.images + image] += total;
    }
  }
}

PMSM_WIDER_VECTORS void Work(Task& task, size_t part) {
  if (task.ByRow()) {
    task.positions ? WorkOnPart<true, true>(task, part) : WorkOnPart<true, false>(task, part);
  } else {
    task.positions ? WorkOnPart<false, true>(task, part) : WorkOnPart<false, false>(task, part);
  }
}

// Sums of [outer, channels, inner] over all but channels.
void AddUp(const float* sums, size_t outer, size_t channels, size_t inner, float* result) {
  std::fill_n(result, channels, 0.0f);
  for (size_t line = 0; line < outer; ++line, sums += channels * inner) {
    for (size_t channel = 0; channel < channels; ++channel) {
      for (size_t i = 0; i < inner; ++i) result[channel] += sums[channel * inner + i];
    }
  }
}

// What was summed up by position, or by row, as sums by channel.
void AddUpChannels(const Task& task, const Shape& shape, size_t image) {
  float* fired = task.counts + image * task.Width() + task.BeforeChannels();
  float* limited = fired + task.channels;
  if (!task.ByRow()) {
    const size_t outer = Product(shape, 2, task.axis), inner = Product(shape, task.axis + 1, shape.size());
    const float* places = task.at_place.get() + 2 * image * task.rest;
    AddUp(places, outer, task.channels, inner, fired);
    AddUp(places + task.rest, outer, task.channels, inner, limited);
    return;
  }
  std::fill_n(fired, 2 * task.channels, 0.0f);
  for (size_t part = 0; part < task.parts; ++part) {
    const int32_t* of_rows = task.of_rows.data() + part * 2 * task.Lines() + image * task.first;
    for (size_t row = 0; row < task.first; ++row) {
      fired[task.axis == 0 ? 0 : row] += static_cast<float>(of_rows[row]);
      limited[task.axis == 0 ? 0 : row] += static_cast<float>(of_rows[task.Lines() + row]);
    }
  }
}

void AddUpAll(const Task& task, size_t image) {
  int64_t sizes = 0, firing = 0;
  for (size_t part = 0; part < task.parts; ++part) sizes += task.sizes[part * task.images + image];
  float* counts = task.counts + image * task.Width();
  for (size_t channel = 0; channel < task.channels; ++channel) {
    firing += static_cast<int64_t>(counts[task.BeforeChannels() + channel]);
  }
  PutInTwo(firing, PutInTwo(sizes, counts));
}

void Count(const Ort& ort, OrtKernelContext* context, Task& task, const Shape& shape, const Attributes& attributes,
           size_t output) {
  const size_t rank = shape.size(), axis = attributes.axis;
  if (rank == 0 || axis >= rank) throw Failure("spikes of shape " + Text(shape));
  task.images = static_cast<size_t>(shape[0]);
  task.first = rank > 1 ? static_cast<size_t>(shape[1]) : 1;
  task.rest = rank > 1 ? Product(shape, 2, rank) : 1;
  const bool in_all = axis == 0 && !attributes.positions && (!task.value || task.neurons.OneForAll());
  if (const size_t neurons = task.first * task.rest; in_all && neurons % kRowsAtOnce == 0) {
    task.first = kRowsAtOnce;  // where a neuron is does not matter: as rows are added up fastest
    task.rest = neurons / kRowsAtOnce;
  }
  task.axis = axis;
  task.channels = axis == 0 ? 1 : static_cast<size_t>(shape[axis]);
  task.positions = attributes.positions;
  task.lying = LyingOf(task);
  task.counts = OutputAt(ort, context, output,
                         {static_cast<int64_t>(task.images), static_cast<int64_t>(task.Width())});
  if (!task.ByRow()) task.at_place.reset(new float[2 * task.images * task.rest]);
  const size_t wanted = std::min(kMostParts, Product(shape, 0, rank) / kElementsPerThread);
  task.tiles = std::max({std::min(wanted, task.rest / kShortestTile), (task.rest + kTile - 1) / kTile, size_t{1}});
  task.parts = std::max<size_t>(1, std::min(wanted, task.images * task.tiles));
  task.of_rows.resize(task.parts * 2 * task.Lines());
  task.sizes.resize(task.parts * task.images);
  if (task.parts == 1) {
    Work(task, 0);
  } else {
    OnThreads(ort, context, task.parts, [&](size_t index) { Work(task, index); });
  }
  for (size_t image = 0; image < task.images; ++image) {
    AddUpChannels(task, shape, image);
    if (!task.positions) AddUpAll(task, image);
  }
}

void CountThem(const Ort& ort, const Attributes& attributes, OrtKernelContext* context) {
  const Input<float> spikes = InputAt(ort, context, 0);
  Task task{};
  task.spikes = const_cast<float*>(spikes.data);  // only read: there is no value
  task.neurons.lowest = attributes.lowest;
  task.neurons.highest = attributes.highest;
  Count(ort, context, task, spikes.shape, attributes, 0);
}

void EmitAndCount(const Ort& ort, const Attributes& attributes, OrtKernelContext* context) {
  const auto value = InputAt(ort, context, 0), threshold = InputAt(ort, context, 1), rest = InputAt(ort, context, 2);
  Task task{};
  task.value = value.data;
  task.neurons = {LayOut(threshold, value.shape, "threshold"), LayOut(rest, value.shape, "rest"), attributes.lowest,
                  attributes.highest};
  task.spikes = OutputAt(ort, context, 0, value.shape);
  Count(ort, context, task, value.shape, attributes, 1);
}

}  // namespace

void AddSpikeCounts(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator counts = [api] {
    Operator made = MakeOperator<Attributes, &CountThem>(api, "SpikeCounts", {kFloat}, {kFloat});
    made.InferOutputShapeFn = nullptr;  // counts do not have the spikes' shape
    return made;
  }();
  static const Operator neurons = [api] {
    Operator made = MakeOperator<Attributes, &EmitAndCount>(api, "CountedNeuron", std::vector<ElementType>(3, kFloat),
                                                            {kFloat, kFloat});
    made.InferOutputShapeFn = nullptr;
    MayTakeMemory(made);
    return made;
  }();
  Check(ort.CustomOpDomain_Add(domain, &counts));
  Check(ort.CustomOpDomain_Add(domain, &neurons));
}

}  // namespace pmsm

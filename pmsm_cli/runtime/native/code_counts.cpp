// Counting what neurons have emitted from their codes, a byte to each neuron: all sites of a network at once, since there is
// little to do for each of them.
//
//   CodeCounts(sites, codes, codes ...) -> (counts, counts ...)
//
// The constant `sites` [sites, 5] has five numbers for each `codes` [images, ...]: the axis of the channels; whether positions
// matter, which are then all places before the channels, on the last axis; N; P; and the code of no spike. Each code above or below
// that is a spike more of either sign. `counts` is what SpikeCounts makes of such spikes (spike_counts.cpp).

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "counted_codes.h"
#include "operators.h"
#include "tensors.h"

namespace pmsm {
namespace {

// Below this many codes waking another thread costs more than it saves.
constexpr size_t kCodesPerThread = 262144;
constexpr size_t kCodesOfUnit = 131072;  // what a thread takes on at a time, at most twice as many
constexpr size_t kMostParts = 8;

// What is known of a site beforehand.
struct Settings {
  int32_t axis, positions, negative, positive, zero;
};

struct Sites {
  std::vector<Settings> all;

  Sites(const Ort& ort, const OrtKernelInfo* info) {
    const std::vector<int32_t> numbers = ConstantAt<int32_t>(ort, info, 0);
    constexpr size_t kNumbers = sizeof(Settings) / sizeof(int32_t);
    if (numbers.size() % kNumbers != 0) throw Failure("sites have " + std::to_string(numbers.size()) + " numbers");
    all.resize(numbers.size() / kNumbers);
    std::copy(numbers.begin(), numbers.end(), reinterpret_cast<int32_t*>(all.data()));
  }
};

// Codes [images, rows, channels, run] of a site. Where the run is one code, rows are counted, and shared out to the parts;
// else runs. What parts count lies in memory of all sites: a size for each, and of its channels who fires and who is at the limit.
struct Site {
  const uint8_t* codes;
  Limits limits;
  size_t images, rows, channels, run;
  bool positions;
  float* counts;
  size_t parts, first_size, first_channel;

  size_t OfImage() const { return rows * channels * run; }
  size_t BeforeChannels() const { return positions ? 2 * rows : 4; }
  size_t Width() const { return BeforeChannels() + 2 * channels; }
};

struct Unit {
  size_t site, image, part;
};

struct Task {
  std::vector<Site> sites;
  std::vector<Unit> units;
  std::vector<int64_t> sizes;
  std::vector<uint32_t> of_channels;
  std::atomic<bool> failed{false};

  uint32_t* OfChannels(const Site& site, size_t image, size_t part) {
    return of_channels.data() + site.first_channel + (image * site.parts + part) * 2 * site.channels;
  }
  int64_t& Size(const Site& site, size_t image, size_t part) { return sizes[site.first_size + image * site.parts + part]; }
};

void CountUnit(Task& task, const Unit& unit) {
  const Site& site = task.sites[unit.site];
  const size_t all = site.run == 1 ? site.rows : site.rows * site.channels;
  const size_t begin = all * unit.part / site.parts, end = all * (unit.part + 1) / site.parts;
  uint32_t* of_channels = task.OfChannels(site, unit.image, unit.part);
  int64_t& size = task.Size(site, unit.image, unit.part);
  const uint8_t* codes = site.codes + unit.image * site.OfImage();
  if (site.run == 1) {
    float* places = site.positions ? site.counts + unit.image * site.Width() + begin : nullptr;
    const CodeSums sums = {places, places + (site.positions ? site.rows : 0), of_channels, of_channels + site.channels};
    size = CountRows(codes + begin * site.channels, end - begin, site.channels, site.channels, site.limits, sums);
    return;
  }
  for (size_t index = begin; index < end; ++index) {
    const Counted counted = CountRun(codes + index * site.run, site.run, site.limits);
    size += counted.sizes;
    of_channels[index % site.channels] += static_cast<uint32_t>(counted.firing);
    of_channels[site.channels + index % site.channels] += static_cast<uint32_t>(counted.limited);
  }
}

// What the parts have counted, put together.
void AddUp(Task& task, const Site& site, size_t image) {
  float* counts = site.counts + image * site.Width();
  int64_t sizes = 0, firing = 0;
  for (size_t part = 0; part < site.parts; ++part) sizes += task.Size(site, image, part);
  for (size_t i = 0; i < 2 * site.channels; ++i) {
    int64_t total = 0;
    for (size_t part = 0; part < site.parts; ++part) total += task.OfChannels(site, image, part)[i];
    counts[site.BeforeChannels() + i] = static_cast<float>(total);
    if (i < site.channels) firing += total;
  }
  if (!site.positions) PutInTwo(firing, PutInTwo(sizes, counts));
}

Site SiteOf(const Input<uint8_t>& codes, const Settings& settings) {
  const size_t rank = codes.shape.size(), axis = static_cast<size_t>(settings.axis);
  if (settings.axis < 0 || axis >= rank) throw Failure("codes of shape " + Text(codes.shape));
  if (settings.positions && (axis == 0 || axis + 1 != rank)) {
    throw Failure("positions are before channels, which are on axis " + std::to_string(axis) + " of " + Text(codes.shape));
  }
  const Limits limits(static_cast<uint8_t>(settings.zero), -static_cast<float>(settings.negative),
                      static_cast<float>(settings.positive));
  Site site{codes.data, limits, static_cast<size_t>(codes.shape[0]),
            axis == 0 ? 1 : Product(codes.shape, 1, axis), axis == 0 ? 1 : static_cast<size_t>(codes.shape[axis]),
            Product(codes.shape, axis + 1, rank), settings.positions != 0, nullptr, 1, 0, 0};
  const size_t most = site.run == 1 ? site.rows : site.rows * site.channels;
  site.parts = std::max<size_t>(1, std::min({kMostParts, site.OfImage() / kCodesOfUnit, most}));
  return site;
}

void Compute(const Ort& ort, const Sites& sites, OrtKernelContext* context) {
  size_t inputs = 0, codes = 0, channels = 0;
  Check(ort.KernelContext_GetInputCount(context, &inputs));
  if (inputs != sites.all.size() + 1) {
    throw Failure(std::to_string(sites.all.size()) + " sites, and codes of " + std::to_string(inputs - 1));
  }
  Task task;
  for (size_t index = 0; index < sites.all.size(); ++index) {
    Site site = SiteOf(InputAt<uint8_t>(ort, context, index + 1), sites.all[index]);
    site.counts = OutputAt(ort, context, index, {static_cast<int64_t>(site.images), static_cast<int64_t>(site.Width())});
    site.first_size = task.units.size();
    site.first_channel = channels;
    for (size_t image = 0; image < site.images; ++image) {
      for (size_t part = 0; part < site.parts; ++part) task.units.push_back({index, image, part});
    }
    codes += site.images * site.OfImage();
    channels += site.images * site.parts * 2 * site.channels;
    task.sites.push_back(site);
  }
  task.sizes.resize(task.units.size());
  task.of_channels.resize(channels);
  const auto unit = [](void* pointer, size_t index) {
    Task& all = *static_cast<Task*>(pointer);
    try {  // nothing may leave through onnxruntime's threads
      CountUnit(all, all.units[index]);
    } catch (...) {
      all.failed = true;
    }
  };
  if (codes < 2 * kCodesPerThread) {
    for (size_t index = 0; index < task.units.size(); ++index) unit(&task, index);
  } else {
    Check(ort.KernelContext_ParallelFor(context, unit, task.units.size(), 0, &task));
  }
  if (task.failed) throw Failure("there is not enough memory");
  for (const Site& site : task.sites) {
    for (size_t image = 0; image < site.images; ++image) AddUp(task, site, image);
  }
}

Operator MakeCounts(const OrtApi* api) {
  Operator counts = MakeOperator<Sites, &Compute>(api, "CodeCounts", {kInt32, kUint8}, {kFloat});
  counts.variadic = true;
  return counts;
}

}  // namespace

void AddCodeCounts(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator counts = MakeCounts(api);
  Check(ort.CustomOpDomain_Add(domain, &counts));
}

}  // namespace pmsm

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
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "counted_codes.h"
#include "emitted_counts.h"
#include "operators.h"
#include "tensors.h"

namespace pmsm {
namespace {

// Below this many codes waking another thread costs more than it saves.
constexpr size_t kCodesPerThread = 262144;
constexpr size_t kCodesOfUnit = 131072;  // what a thread takes on at a time, at most twice as many

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

// Codes [images, rows, channels, run] of a site. Where the run is one code, rows are counted, else runs.
struct Site {
  const uint8_t* codes;
  size_t images, rows, channels, run;
  std::unique_ptr<EmittedCounts> counts;

  size_t Lines() const { return images * rows * (run == 1 ? 1 : channels); }
  size_t Codes() const { return images * rows * channels * run; }
};

// Some lines of a site.
struct Unit {
  size_t site, begin, end;
};

struct Task {
  std::vector<Site> sites;
  std::vector<Unit> units;
  std::atomic<bool> failed{false};
};

void CountUnit(const Site& site, const Unit& unit) {
  if (site.run == 1) return site.counts->Add(site.codes, unit.begin, unit.end, 0, site.channels);
  for (size_t line = unit.begin; line < unit.end; ++line) {
    site.counts->AddRun(site.codes + line * site.run, site.run, line / (site.rows * site.channels), line % site.channels);
  }
}

Site SiteOf(const Input<uint8_t>& codes, const Settings& settings) {
  const size_t rank = codes.shape.size(), axis = static_cast<size_t>(settings.axis);
  if (settings.axis < 0 || axis >= rank) throw Failure("codes of shape " + Text(codes.shape));
  if (settings.positions && (axis == 0 || axis + 1 != rank)) {
    throw Failure("positions are before channels, which are on axis " + std::to_string(axis) + " of " + Text(codes.shape));
  }
  const Limits limits(static_cast<uint8_t>(settings.zero), -static_cast<float>(settings.negative),
                      static_cast<float>(settings.positive));
  Site site{codes.data, static_cast<size_t>(codes.shape[0]), axis == 0 ? 1 : Product(codes.shape, 1, axis),
            axis == 0 ? 1 : static_cast<size_t>(codes.shape[axis]), Product(codes.shape, axis + 1, rank), nullptr};
  site.counts.reset(new EmittedCounts(site.images, site.rows, site.channels, settings.positions != 0, limits));
  return site;
}

void Compute(const Ort& ort, const Sites& sites, OrtKernelContext* context) {
  size_t inputs = 0, codes = 0;
  Check(ort.KernelContext_GetInputCount(context, &inputs));
  if (inputs != sites.all.size() + 1) {
    throw Failure(std::to_string(sites.all.size()) + " sites, and codes of " + std::to_string(inputs - 1));
  }
  Task task;
  for (size_t index = 0; index < sites.all.size(); ++index) {
    Site site = SiteOf(InputAt<uint8_t>(ort, context, index + 1), sites.all[index]);
    const Shape shape = {static_cast<int64_t>(site.images), static_cast<int64_t>(site.counts->Width())};
    site.counts->WriteTo(OutputAt(ort, context, index, shape));
    const size_t lines = site.Lines(), parts = std::max<size_t>(1, std::min(lines, site.Codes() / kCodesOfUnit));
    for (size_t part = 0; part < parts; ++part) {
      task.units.push_back({index, lines * part / parts, lines * (part + 1) / parts});
    }
    codes += site.Codes();
    task.sites.push_back(std::move(site));
  }
  const auto unit = [](void* pointer, size_t index) {
    Task& all = *static_cast<Task*>(pointer);
    try {  // nothing may leave through onnxruntime's threads
      CountUnit(all.sites[all.units[index].site], all.units[index]);
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
  for (const Site& site : task.sites) site.counts->Finish();
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

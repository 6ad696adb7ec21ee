// What all sites of a network have emitted, in one tensor: tensors that leave onnxruntime one by one take longer than to count.
//
//   SiteCounts(sites, maps, tensor, tensor ...) -> counts
//
// Each tensor is one site's: codes, a byte to each neuron, or counts of SpikeCounts (spike_counts.cpp) or of who emitted the codes
// (emitted_counts.h). `sites` [sites, 6] has six numbers for each: how many rows of the tensor, along its first axis, are one
// image's; how many positions differ in how many synapses a neuron reaches: 0, all are alike, or -1, that is counted already; and
// of codes the axis of the channels, 0 where there are none, N, P, and the code of no spike. Each code above or below that is a
// spike more of either sign. Where positions differ, `maps` has the synapses of each, site by site, and counts are by position,
// which are in codes all places before the channels, on the last axis.
//
// `counts` [images, ...] is, site by site and row by row, what laid_out_codes.h says of them.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "counted_codes.h"
#include "laid_out_codes.h"
#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

// Codes of a part: fewer take less time than waking another thread; and for each channel, than adding up its counts.
constexpr size_t kCodesOfPart = 65536, kCodesOfChannel = 8;
constexpr size_t kMostParts = 16;  // each has counts of its own for every channel, which are added up afterwards
constexpr size_t kLanes = 8;

// What is known of a site beforehand.
struct Settings {
  int32_t rows, positions, axis, negative, positive, zero;
};

// A site has codes, or counts [lines, ...]: by position where there is a map.
struct Site {
  size_t lines = 0, rows = 1, width = 0;  // of its counts here
  std::optional<LaidOutCodes> codes;
  const float* counts = nullptr;
  const int32_t* map = nullptr;
  size_t positions = 0;  // of the map
};

Site SiteOfCodes(const Input<uint8_t>& codes, const Settings& settings, const int32_t* map) {
  const Limits limits(static_cast<uint8_t>(settings.zero), -static_cast<float>(settings.negative),
                      static_cast<float>(settings.positive));
  Site site;
  site.codes.emplace(codes.data, codes.shape, settings.axis, map, limits);
  if (map && site.codes->Places() != static_cast<size_t>(settings.positions)) {
    throw Failure("a map of " + std::to_string(settings.positions) + " positions does not fit codes of shape " + Text(codes.shape));
  }
  site.lines = site.codes->Images();
  site.width = site.codes->Width();
  return site;
}

Site SiteOfCounts(const Input<float>& counts, const Settings& settings, const int32_t* map) {
  Site site;
  site.counts = counts.data;
  site.map = map;
  site.positions = map ? static_cast<size_t>(settings.positions) : 0;
  const size_t before = map ? 2 * site.positions : settings.positions ? 8 : 4;
  const size_t width = counts.shape.size() == 2 ? static_cast<size_t>(counts.shape[1]) : 0;
  if (width < before || (width - before) % 2) throw Failure("counts of shape " + Text(counts.shape) + " do not fit their site");
  site.lines = static_cast<size_t>(counts.shape[0]);
  site.width = map ? width - before + 8 : width;
  return site;
}

// A tensor whose elements may be of any type, as one of these.
template <typename Element>
Input<Element> As(Input<void> tensor) {
  return {static_cast<const Element*>(tensor.data), std::move(tensor.shape), true};
}

Site SiteAt(const Ort& ort, OrtKernelContext* context, size_t index, const Settings& settings, const int32_t* map) {
  ElementType type = kAny;
  Input<void> tensor = InputAt<void>(ort, context, index, &type);
  if (type == kUint8) return SiteOfCodes(As<uint8_t>(std::move(tensor)), settings, map);
  if (type == kFloat) return SiteOfCounts(As<float>(std::move(tensor)), settings, map);
  throw Failure("input " + std::to_string(index) + " has neither codes nor counts");
}

std::vector<Site> SitesOf(const Ort& ort, OrtKernelContext* context, const Input<int32_t>& maps) {
  constexpr size_t kNumbers = sizeof(Settings) / sizeof(int32_t), kFirst = 2;
  const auto numbers = InputAt<int32_t>(ort, context, 0);
  if (numbers.Count() % kNumbers) throw Failure("sites have " + std::to_string(numbers.Count()) + " numbers");
  const Settings* all = reinterpret_cast<const Settings*>(numbers.data);
  const size_t count = numbers.Count() / kNumbers;
  size_t inputs = 0, positions = 0;
  Check(ort.KernelContext_GetInputCount(context, &inputs));
  for (size_t index = 0; index < count; ++index) positions += static_cast<size_t>(std::max(all[index].positions, 0));
  if (count + kFirst != inputs) throw Failure(std::to_string(count) + " sites, and " + std::to_string(inputs - kFirst) + " tensors");
  if (positions != maps.Count()) {
    throw Failure("sites have " + std::to_string(positions) + " positions, and maps " + std::to_string(maps.Count()));
  }
  std::vector<Site> sites;
  sites.reserve(count);
  const int32_t* map = maps.data;
  for (size_t index = 0; index < count; ++index) {
    const Settings& settings = all[index];
    sites.push_back(SiteAt(ort, context, kFirst + index, settings, settings.positions > 0 ? map : nullptr));
    map += std::max(settings.positions, 0);
    sites.back().rows = static_cast<size_t>(std::max(settings.rows, 1));
    if (sites.back().lines % sites.back().rows) throw Failure("there are not as many rows to each image");
  }
  return sites;
}

// What is counted of all sites' codes, image by image; where these are few, of pieces of them. A thread takes the same share of
// every site, which is much of what it has computed, and has in its cache.
class Tallies {
 public:
  Tallies(const std::vector<Site>& sites, size_t images) : sites_(sites) {
    size_t codes = 0;
    for (const Site& site : sites) {
      if (!site.codes) continue;
      images_ = images;
      codes += site.codes->Count();
      of_image_.sums += site.rows;
      of_image_.channels += site.rows * 2 * site.codes->Channels();
    }
    const size_t wanted = std::min(kMostParts, codes / (kCodesOfPart + kCodesOfChannel * of_image_.channels));
    while (2 * parts_ <= wanted) parts_ *= 2;  // many numbers of threads share these alike
    pieces_ = std::max<size_t>(1, parts_ / std::max<size_t>(1, images));
    sums_.resize(images_ * pieces_ * of_image_.sums);
    of_channels_.resize(images_ * pieces_ * of_image_.channels);
  }

  void Count(const Ort& ort, OrtKernelContext* context) {
    const auto count = [&](size_t unit) { CountUnit(unit); };
    if (parts_ > 1) return OnThreads(ort, context, images_ * pieces_, count);
    for (size_t unit = 0; unit < images_ * pieces_; ++unit) count(unit);
  }

  // Site by site, when all is counted.
  class OfImage {
   public:
    OfImage(Tallies& all, size_t image) : all_(all), at_(all.At(image * all.pieces_)) {}

    float* PutNext(const Site& site, float* to) {
      const size_t channels = site.codes->Channels();
      for (size_t piece = 1; piece < all_.pieces_; ++piece) {
        *at_.sums += at_.sums[piece * all_.of_image_.sums];
        AddChannels(at_.of_channels + piece * all_.of_image_.channels, 2 * channels, at_.of_channels);
      }
      to = site.codes->Put(at_, to);
      at_ = at_.Behind(1, channels);
      return to;
    }

   private:
    const Tallies& all_;
    Tally at_;
  };

 private:
  Tally At(size_t unit) { return {sums_.data() + unit * of_image_.sums, of_channels_.data() + unit * of_image_.channels}; }

  void CountUnit(size_t unit) {
    const size_t image = unit / pieces_, piece = unit % pieces_;
    Tally at = At(unit);
    for (const Site& site : sites_) {
      if (!site.codes) continue;
      const size_t step = site.codes->Step(), steps = site.codes->Steps() / images_, before = image * steps;
      const size_t begin = before + steps * piece / pieces_, end = before + steps * (piece + 1) / pieces_;
      site.codes->AddTo(at, image * site.rows, begin * step, end * step);
      at = at.Behind(site.rows, site.codes->Channels());
    }
  }

  struct Sizes {
    size_t sums = 0, channels = 0;
  };

  const std::vector<Site>& sites_;
  Sizes of_image_;
  size_t images_ = 0, parts_ = 1, pieces_ = 1;  // no images where no site has codes
  std::vector<RowSums> sums_;
  std::vector<uint32_t> of_channels_;
};

struct Reached {
  double all, synapses;
};

// Whole numbers, which stay whole.
PMSM_WIDER_VECTORS Reached SumUp(const float* counts, const int32_t* map, size_t places) {
  double all[kLanes] = {}, synapses[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= places; i += kLanes) {
    PMSM_INDEPENDENT
    for (size_t lane = 0; lane < kLanes; ++lane) {
      all[lane] += counts[i + lane];
      synapses[lane] += static_cast<double>(counts[i + lane]) * map[i + lane];
    }
  }
  Reached sum{};
  for (; i < places; ++i) {
    sum.all += counts[i];
    sum.synapses += static_cast<double>(counts[i]) * map[i];
  }
  for (size_t lane = 0; lane < kLanes; ++lane) {
    sum.all += all[lane];
    sum.synapses += synapses[lane];
  }
  return sum;
}

float* PutLine(const Site& site, size_t line, float* to) {
  if (!site.map) return std::copy_n(site.counts + line * site.width, site.width, to);
  const size_t places = site.positions, channels = site.width - 8;
  const float* from = site.counts + line * (2 * places + channels);
  const Reached sizes = SumUp(from, site.map, places), firing = SumUp(from + places, site.map, places);
  for (const double sum : {sizes.all, firing.all, sizes.synapses, firing.synapses}) {
    to = PutInTwo(static_cast<int64_t>(sum), to);
  }
  return std::copy_n(from + 2 * places, channels, to);
}

void Compute(const Ort& ort, const Nothing&, OrtKernelContext* context) {
  const std::vector<Site> sites = SitesOf(ort, context, InputAt<int32_t>(ort, context, 1));
  const size_t images = sites.empty() ? 0 : sites[0].lines / sites[0].rows;
  size_t width = 0;
  for (const Site& site : sites) {
    if (site.lines != images * site.rows) throw Failure("sites do not have as many images");
    width += site.rows * site.width;
  }
  Tallies tallies(sites, images);
  tallies.Count(ort, context);
  float* counts = OutputAt(ort, context, 0, {static_cast<int64_t>(images), static_cast<int64_t>(width)});
  for (size_t image = 0; image < images; ++image) {
    Tallies::OfImage counted(tallies, image);
    for (const Site& site : sites) {
      for (size_t row = 0; row < site.rows; ++row) {
        counts = site.codes ? counted.PutNext(site, counts) : PutLine(site, image * site.rows + row, counts);
      }
    }
  }
}

Operator MakeCounts(const OrtApi* api) {
  Operator counts = MakeOperator<Nothing, &Compute>(api, "SiteCounts", {kInt32, kInt32, kAny}, {kFloat});
  counts.variadic = true;
  return counts;
}

}  // namespace

void AddSiteCounts(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator counts = MakeCounts(api);
  Check(ort.CustomOpDomain_Add(domain, &counts));
}

}  // namespace pmsm

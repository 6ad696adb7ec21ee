// Histograms of activations for calibration: no operator, but called from Python (pmsm_cli/runtime/value_counts.py).

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ort_abi.h"
#include "vectors.h"

namespace pmsm {
namespace {

constexpr size_t kAtOnce = 512;  // values whose bins are found before any is counted

// Equal bins from `lowest` on, so many to a unit.
PMSM_WIDER_VECTORS void FindBins(const float* values, size_t count, float lowest, float bins_per_unit, float last, int32_t* found) {
  PMSM_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    const float above = (values[i] - lowest) * bins_per_unit;
    const float inside = above > 0.0f ? above : 0.0f;  // also what is not a number
    found[i] = static_cast<int32_t>(inside < last ? inside : last);
  }
}

}  // namespace
}  // namespace pmsm

// Adds values [channels, images, an_image] to `counts` [channels, bins], and those of the images first, first + 2 ... also to
// `even_counts` [channels, bins / merge], unless that is null. `lowest` and `bins_per_unit` are [channels].
PMSM_EXPORT void pmsm_count_values(const float* values, size_t channels, size_t images, size_t an_image, const float* lowest,
                                   const float* bins_per_unit, size_t bins, int64_t* counts, int64_t* even_counts, size_t merge,
                                   size_t first) {
  using pmsm::kAtOnce;
  int32_t found[kAtOnce];
  for (size_t channel = 0; channel < channels; ++channel) {
    int64_t* of_channel = counts + channel * bins;
    int64_t* even_of_channel = even_counts ? even_counts + channel * (bins / merge) : nullptr;
    for (size_t image = 0; image < images; ++image, values += an_image) {
      const bool even = even_of_channel && image >= first && (image - first) % 2 == 0;
      for (size_t at = 0; at < an_image; at += kAtOnce) {
        const size_t here = std::min(kAtOnce, an_image - at);
        pmsm::FindBins(values + at, here, lowest[channel], bins_per_unit[channel], static_cast<float>(bins - 1), found);
        for (size_t i = 0; i < here; ++i) ++of_channel[found[i]];
        for (size_t i = 0; even && i < here; ++i) ++even_of_channel[static_cast<size_t>(found[i]) / merge];
      }
    }
  }
}

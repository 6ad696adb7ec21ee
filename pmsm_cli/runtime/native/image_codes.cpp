// The first layer: a convolution of the image, in floats, that leaves codes channels last.
//
//   ImageCodes(image, weights, bias, low, high, rest, threshold, zero, lowest, highest) -> codes
//
// `image` is [images, channels, height, width], `weights` [outputs, channels, height, width]. Codes, [images, height, width,
// outputs], are what SpikeCodesLast makes of the sums with their bias, clipped to low and high: round((sum - rest) /
// threshold) + zero within lowest and highest. Everything but the image is constant; low and high are one number, the others
// one for all outputs or one for each. Attributes are those of ConvolutionCodes, of one group.
//
// onnxruntime computes such a layer with channels in blocks, then turns them back for our neurons. With few taps and few
// outputs that takes longer than the sums do.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "codes.h"
#include "convolution.h"
#include "convolution_layer.h"
#include "convolution_rows.h"
#include "lanes_avx2.h"
#include "operators.h"
#include "processor.h"
#include "targets.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

constexpr size_t kPlacesPerThread = 512;
constexpr size_t kMostValues = 1024;  // of a window

struct ImageLayer {
  Window window;
  size_t outputs, channels, lanes;  // lanes: outputs up to whole vectors
  float low, high;
  Aligned<float> weights;  // [channels x taps, lanes]
  Aligned<float> bias, rest, threshold, lowest, highest;  // [lanes]; bounds above zero
  Aligned<uint8_t> zero;

  ImageLayer(const Ort& ort, const OrtKernelInfo* info) {
    const auto given = WeightsAt<float>(ort, info);
    outputs = static_cast<size_t>(given.shape[0]);
    channels = static_cast<size_t>(given.shape[1]);
    lanes = UpTo(kLanes, outputs);
    window = WindowOf(ort, info, static_cast<size_t>(given.shape[2]), static_cast<size_t>(given.shape[3]));
    const size_t values = channels * window.height * window.width;
    if (values > kMostValues) throw Failure("weights of shape " + Text(given.shape) + " are more than a first layer's");
    weights.resize(values * lanes);
    for (size_t output = 0; output < outputs; ++output) {
      for (size_t i = 0; i < values; ++i) weights[i * lanes + output] = given.data[output * values + i];
    }
    low = ConstantAt<float>(ort, info, 3).at(0);
    high = ConstantAt<float>(ort, info, 4).at(0);
    std::vector<size_t> slots(lanes, kNone);
    for (size_t i = 0; i < outputs; ++i) slots[i] = i;
    const auto floats = [&](size_t index, float beyond) {
      return Spread<float, float>(ort, info, index, outputs, slots, beyond);
    };
    bias = floats(2, 0.0f);
    rest = floats(5, 0.0f);
    threshold = floats(6, 1.0f);
    zero = Spread<uint8_t, uint8_t>(ort, info, 7, outputs, slots);
    lowest = Spread<float, uint8_t>(ort, info, 8, outputs, slots);
    highest = Spread<float, uint8_t>(ort, info, 9, outputs, slots);
    for (size_t i = 0; i < lanes; ++i) lowest[i] -= zero[i], highest[i] -= zero[i];
  }
};

struct ImageTask {
  const ImageLayer& layer;
  const Windows& windows;
  const float* image;
  size_t height, width;
  uint8_t* codes;
  std::vector<size_t> inside, in_turn;  // distances between a window's values, in the image and in a copy

  ImageTask(const ImageLayer& of, const Windows& all, const Input<float>& given, uint8_t* into)
      : layer(of), windows(all), image(given.data), height(static_cast<size_t>(given.shape[2])),
        width(static_cast<size_t>(given.shape[3])), codes(into) {
    const Window& window = layer.window;
    const size_t taps = window.height * window.width;
    for (size_t i = 0; i < Values(); ++i) {
      const size_t y = i % taps / window.width * window.step_y, x = i % window.width * window.step_x;
      inside.push_back((i / taps * height + y) * width + x);
      in_turn.push_back(i);
    }
  }

  size_t Values() const { return layer.channels * layer.window.height * layer.window.width; }
};

// The values of a window, [channels, taps]: each lies at a distance from the first one, at the same for all places inside.
// At an edge they are copied, with zeros for the padding.
struct Values {
  const float* first;
  const size_t* distances;
  size_t step;  // from one place to the next
};

void PlaceAnywhere(const ImageTask& task, const Values& values, uint8_t* codes) {
  const ImageLayer& layer = task.layer;
  for (size_t output = 0; output < layer.outputs; ++output) {
    float sum = layer.bias[output];
    for (size_t i = 0; i < task.Values(); ++i) {
      sum = std::fma(values.first[values.distances[i]], layer.weights[i * layer.lanes + output], sum);
    }
    const float clipped = std::min(std::max(sum, layer.low), layer.high);
    const float ratio = (clipped - layer.rest[output]) / layer.threshold[output];
    const float number = ratio == ratio ? ratio : 0.0f;
    codes[output] = CodeOf(number, layer.lowest[output], layer.highest[output], layer.zero[output]);
  }
}

#ifdef PMSM_AVX2

template <size_t kPlaces>
PMSM_AVX2 void AllSumsAvx2(const ImageTask& task, const Values& values, uint8_t* codes) {
  using namespace avx2;
  const Lanes<true> lanes(kLanes);
  const ImageLayer& layer = task.layer;
  const size_t next = layer.lanes, outputs = layer.outputs, step = values.step, all = task.Values();
  const Floats low = Spread(layer.low), high = Spread(layer.high);
  for (size_t lane = 0; lane < next; lane += kLanes) {
    const float* weights = layer.weights.data() + lane;
    Floats sums[kPlaces];
    for (size_t m = 0; m < kPlaces; ++m) sums[m] = lanes.Load(layer.bias.data() + lane);
    for (size_t i = 0; i < all; ++i, weights += next) {
      const float* value = values.first + values.distances[i];
      const Floats weight = lanes.Load(weights);
      for (size_t m = 0; m < kPlaces; ++m) sums[m] = MultiplyAdd(Spread(value[m * step]), weight, sums[m]);
    }
    const Floats rest = lanes.Load(layer.rest.data() + lane), threshold = lanes.Load(layer.threshold.data() + lane);
    const Floats lowest = lanes.Load(layer.lowest.data() + lane), highest = lanes.Load(layer.highest.data() + lane);
    const Floats zero = lanes.LoadCodes(layer.zero.data() + lane);
    const Lanes<false> last(outputs - lane);
    for (size_t m = 0; m < kPlaces; ++m) {
      const Floats ratio = Divide(Subtract(Least(high, Most(low, sums[m])), rest), threshold);
      const Floats counts = Least(Most(RoundWhereNumbers(ratio, ratio), lowest), highest);
      uint8_t* to = codes + m * outputs + lane;
      if (outputs - lane >= kLanes) lanes.StoreCodes(to, Add(counts, zero), 0);
      else last.StoreCodes(to, Add(counts, zero), 0);
    }
  }
}

#endif

#ifdef PMSM_VNNI

template <size_t kPlaces, size_t kVectorsAtOnce>
PMSM_VNNI PMSM_INLINE void Sums(const ImageTask& task, const Values& values, size_t lane, uint8_t* codes) {
  const ImageLayer& layer = task.layer;
  const size_t lanes = layer.lanes, outputs = layer.outputs, step = values.step, all = task.Values();
  const float* weights = layer.weights.data() + lane;
  __m512 sums[kPlaces][kVectorsAtOnce];
  for (size_t m = 0; m < kPlaces; ++m) {
    for (size_t n = 0; n < kVectorsAtOnce; ++n) sums[m][n] = _mm512_loadu_ps(layer.bias.data() + lane + n * kLanes);
  }
  for (size_t i = 0; i < all; ++i, weights += lanes) {
    const float* value = values.first + values.distances[i];
    __m512 weight[kVectorsAtOnce];
    for (size_t n = 0; n < kVectorsAtOnce; ++n) weight[n] = _mm512_loadu_ps(weights + n * kLanes);
    for (size_t m = 0; m < kPlaces; ++m) {
      const __m512 one = _mm512_set1_ps(value[m * step]);
      for (size_t n = 0; n < kVectorsAtOnce; ++n) sums[m][n] = _mm512_fmadd_ps(one, weight[n], sums[m][n]);
    }
  }
  const __m512 low = _mm512_set1_ps(layer.low), high = _mm512_set1_ps(layer.high);
  for (size_t n = 0; n < kVectorsAtOnce; ++n) {
    const size_t at = lane + n * kLanes;
    const __m512 rest = _mm512_loadu_ps(layer.rest.data() + at), threshold = _mm512_loadu_ps(layer.threshold.data() + at);
    const __m512 lowest = _mm512_loadu_ps(layer.lowest.data() + at), highest = _mm512_loadu_ps(layer.highest.data() + at);
    const __m512i zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(layer.zero.data() + at)));
    const __mmask16 there = static_cast<__mmask16>(outputs - at >= kLanes ? 0xffff : (1u << (outputs - at)) - 1);
    for (size_t m = 0; m < kPlaces; ++m) {
      // Of a maximum with what is no number the second operand is left, and so of a minimum.
      const __m512 clipped = _mm512_min_ps(high, _mm512_max_ps(low, sums[m][n]));
      const __m512 ratio = _mm512_div_ps(_mm512_sub_ps(clipped, rest), threshold);
      const __m512 number = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(ratio, ratio, _CMP_ORD_Q), ratio);
      const __m512 bounded = _mm512_min_ps(_mm512_max_ps(number, lowest), highest);
      const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(bounded), zero));
      if (there == 0xffff) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + m * outputs + at), bytes);
      } else {
        _mm_mask_storeu_epi8(codes + m * outputs + at, there, bytes);
      }
    }
  }
}

template <size_t kPlaces>
PMSM_VNNI void AllSums(const ImageTask& task, const Values& values, uint8_t* codes) {
  size_t lane = 0;
  for (; lane + 2 * kLanes <= task.layer.lanes; lane += 2 * kLanes) Sums<kPlaces, 2>(task, values, lane, codes);
  if (lane < task.layer.lanes) Sums<kPlaces, 1>(task, values, lane, codes);
}

#endif

// So many places at a time, then one by one.
template <size_t kAtOnce, typename Sums>
void InTurn(const ImageTask& task, Values values, size_t count, uint8_t* codes, Sums several, Sums one) {
  for (; count >= kAtOnce; count -= kAtOnce, values.first += kAtOnce * values.step) {
    several(task, values, codes);
    codes += kAtOnce * task.layer.outputs;
  }
  for (; count; --count, values.first += values.step, codes += task.layer.outputs) one(task, values, codes);
}

// Neighbouring places, whose values lie a step apart.
void Places(const ImageTask& task, const Values& values, size_t count, uint8_t* codes) {
#ifdef PMSM_VNNI
  if (HasVnni()) return InTurn<8>(task, values, count, codes, &AllSums<8>, &AllSums<1>);
#endif
#ifdef PMSM_AVX2
  if (MultipliesFast()) return InTurn<6>(task, values, count, codes, &AllSumsAvx2<6>, &AllSumsAvx2<1>);
#endif
  InTurn<1>(task, values, count, codes, &PlaceAnywhere, &PlaceAnywhere);
}

void Work(const ImageTask& task, size_t begin, size_t end) {
  const ImageLayer& layer = task.layer;
  const Window& window = layer.window;
  const size_t plane = task.height * task.width;
  float copy[kMostValues];
  task.windows.InStretches(begin, end, [&](const Stretch& stretch) {
    const float* image = task.image + stretch.image * layer.channels * plane;
    uint8_t* codes = task.codes + stretch.place * layer.outputs;
    if (stretch.inside) {
      const float* first = image + (stretch.top - window.top) * task.width + stretch.left - window.left;
      Places(task, {first, task.inside.data(), window.stride_x}, stretch.count, codes);
      return;
    }
    float* next = copy;
    for (size_t row = 0; row < layer.channels * window.height; ++row) {  // places before the image wrap around
      const size_t y = stretch.top + row % window.height * window.step_y - window.top;
      const float* values = y < task.height ? image + row / window.height * plane + y * task.width : nullptr;
      size_t x = stretch.left - window.left;
      for (size_t tap = 0; tap < window.width; ++tap, x += window.step_x) {
        *next++ = values && x < task.width ? values[x] : 0.0f;
      }
    }
    Places(task, {copy, task.in_turn.data(), 0}, 1, codes);
  });
}

void Compute(const Ort& ort, const ImageLayer& layer, OrtKernelContext* context) {
  const auto image = InputAt(ort, context, 0);
  if (image.shape.size() != 4 || static_cast<size_t>(image.shape[1]) != layer.channels) {
    throw Failure("an image of shape " + Text(image.shape) + " does not have " + std::to_string(layer.channels) + " channels");
  }
  const auto size = [&](size_t axis) { return static_cast<size_t>(image.shape[axis]); };
  const Shape shape = layer.window.OutputShape(size(0), size(2), size(3), layer.outputs);
  uint8_t* codes = OutputAt<uint8_t>(ort, context, 0, shape);
  // Only where windows lie is asked of these; whole words are read of nothing.
  const Map map{nullptr, size(0), size(2), size(3), kWord, 0};
  const Runs runs(layer.window, kWord, false);
  const Windows windows(map, layer.window, runs);
  const ImageTask task(layer, windows, image, codes);
  InParallel<ImageTask, &Work>(ort, context, task, Product(shape, 0, 3), kPlacesPerThread);
}

}  // namespace

void AddImageCodes(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator codes = MakeOperator<ImageLayer, &Compute>(
      api, "ImageCodes", {kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kUint8, kUint8, kUint8}, {kUint8});
  Check(ort.CustomOpDomain_Add(domain, &codes));
}

}  // namespace pmsm

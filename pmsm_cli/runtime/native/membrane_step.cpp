// A synapse's membrane and the neuron behind it, at a later timestep, in one pass.
//
//   MembraneStep(arriving, before, drive, carried, rest, threshold, emitted, horizon, quantum)
//       -> (membrane, spikes, emitted_now, value)
//
// membrane = before + arriving x quantum
// value    = relu(membrane + drive + carried), the relu where the attribute `relu` is 1; handed out where it is asked for
// spikes, emitted_now = PolarityNeuronStep(value - rest, threshold, emitted, horizon, quantum)
//
// `arriving`, `before` and `emitted` have the shape of the value; `carried` has too, or one element. `drive`, `rest` and
// `threshold` broadcast against it along neighbouring whole axes. The same operations in the same order as the operators
// that it stands for, each rounded once: the numbers are the same bit for bit.

#include <algorithm>
#include <string>
#include <vector>

#include "operators.h"
#include "tensors.h"
#include "vectors.h"

namespace pmsm {
namespace {

constexpr size_t kElementsPerThread = 16384;
constexpr size_t kTile = 512, kWorthwhile = 16;

struct Attributes : Levels {
  bool relu;

  Attributes(const Ort& ort, const OrtKernelInfo* info)
      : Levels(ort, info), relu(IntegerAttribute(ort, info, "relu") != 0) {}
};

// Numbers along the value: element i has data[(i / inner) % channels].
struct Along {
  const float* data;
  size_t channels, inner;

  bool Alike() const { return channels == 1 || inner >= kWorthwhile; }
  // How many elements from `at` on may share a run.
  size_t Longest(size_t at) const {
    if (channels == 1) return kTile;
    return inner >= kWorthwhile ? inner - at % inner : kTile;
  }
  float At(size_t at) const { return data[at / inner % channels]; }
  // The numbers of a run, in place where they lie as the run does, else in the tile.
  const float* Run(size_t at, size_t count, float* tile) const {
    const size_t first = at / inner % channels;
    if (inner == 1 && first + count <= channels) return data + first;
    if (Alike()) {
      std::fill_n(tile, count, data[first]);
    } else {
      for (size_t i = 0; i < count; ++i) tile[i] = At(at + i);
    }
    return tile;
  }
};

struct Task {
  const float *arriving, *before, *emitted;
  Along drive, carried, rest, threshold;
  float horizon, quantum, lowest, highest;
  bool relu;
  float *membrane, *spikes, *emitted_now;
  float* value;  // null: not asked for
  size_t count;
};

template <bool kRelu, bool kAlike, bool kValue>
PMSM_INLINE void StepRun(const Task& task, size_t at, size_t count) {
  float tiles[4][kTile];
  const float* drives = kAlike ? tiles[0] : task.drive.Run(at, count, tiles[0]);
  const float* carried = task.carried.channels == 1 ? tiles[1] : task.carried.data + at;
  if (task.carried.channels == 1) std::fill_n(tiles[1], count, *task.carried.data);
  const float* rests = kAlike ? tiles[2] : task.rest.Run(at, count, tiles[2]);
  const float* thresholds = kAlike ? tiles[3] : task.threshold.Run(at, count, tiles[3]);
  const float drive = task.drive.At(at), rest = task.rest.At(at), threshold = task.threshold.At(at);
  const float horizon = task.horizon, quantum = task.quantum, lowest = task.lowest, highest = task.highest;
  const float *arriving = task.arriving + at, *before = task.before + at, *emitted = task.emitted + at;
  float *membrane = task.membrane + at, *spikes = task.spikes + at, *emitted_now = task.emitted_now + at;
  float* value = kValue ? task.value + at : nullptr;
  PMSM_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    const float sum = before[i] + arriving[i] * quantum;
    float here = (sum + (kAlike ? drive : drives[i])) + carried[i];
    if (kRelu) here = here > 0.0f ? here : (here == here ? 0.0f : here);
    const float ratio = (here - (kAlike ? rest : rests[i])) / (kAlike ? threshold : thresholds[i]);
    const float already = emitted[i];
    const float emit = Emit((ratio * horizon - already) / quantum, lowest, highest);
    membrane[i] = sum;
    if (kValue) value[i] = here;
    spikes[i] = emit;
    emitted_now[i] = already + quantum * emit;
  }
}

template <bool kRelu, bool kValue>
PMSM_INLINE void StepRange(const Task& task, size_t begin, size_t end) {
  const bool alike = task.drive.Alike() && task.rest.Alike() && task.threshold.Alike();
  for (size_t at = begin, count = 0; at < end; at += count) {
    count = std::min({end - at, kTile, task.drive.Longest(at), task.rest.Longest(at), task.threshold.Longest(at)});
    if (alike) {
      StepRun<kRelu, true, kValue>(task, at, count);
    } else {
      StepRun<kRelu, false, kValue>(task, at, count);
    }
  }
}

PMSM_WIDER_VECTORS void Work(const Task& task, size_t begin, size_t end) {
  if (task.relu) {
    task.value ? StepRange<true, true>(task, begin, end) : StepRange<true, false>(task, begin, end);
  } else {
    task.value ? StepRange<false, true>(task, begin, end) : StepRange<false, false>(task, begin, end);
  }
}

Along LayOut(const Input<float>& numbers, const Shape& value, const char* name) {
  Lie lie{};
  if (!LayAlong(value, numbers.shape, lie)) {
    throw Failure(std::string(name) + " of shape " + Text(numbers.shape) + " does not fit a value of shape " +
                  Text(value));
  }
  return {numbers.data, lie.channels, lie.inner};
}

void Compute(const Ort& ort, const Attributes& attributes, OrtKernelContext* context) {
  const auto arriving = InputAt(ort, context, 0), before = InputAt(ort, context, 1), carried = InputAt(ort, context, 3);
  const auto emitted = InputAt(ort, context, 6);
  const Shape& shape = arriving.shape;
  for (const auto* each : {&before, &emitted, &carried}) {
    if (each->shape != shape && (each != &carried || each->Count() != 1)) {
      throw Failure("a state of shape " + Text(each->shape) + " does not fit a value of shape " + Text(shape));
    }
  }
  Task task{};
  task.arriving = arriving.data;
  task.before = before.data;
  task.emitted = emitted.data;
  task.count = arriving.Count();
  task.drive = LayOut(InputAt(ort, context, 2), shape, "drive");
  task.carried = {carried.data, carried.shape == shape && task.count != 1 ? task.count : 1, 1};
  task.rest = LayOut(InputAt(ort, context, 4), shape, "rest");
  task.threshold = LayOut(InputAt(ort, context, 5), shape, "threshold");
  task.horizon = ScalarAt(ort, context, 7, "horizon");
  task.quantum = ScalarAt(ort, context, 8, "quantum");
  task.lowest = attributes.lowest;
  task.highest = attributes.highest;
  task.relu = attributes.relu;
  task.membrane = OutputAt(ort, context, 0, shape);
  task.spikes = OutputAt(ort, context, 1, shape);
  task.emitted_now = OutputAt(ort, context, 2, shape);
  task.value = OptionalOutputAt(ort, context, 3, shape);
  InParallel<Task, &Work>(ort, context, task, task.count, kElementsPerThread);
}

}  // namespace

void AddMembraneStep(const Ort& ort, const OrtApi* api, OrtCustomOpDomain* domain) {
  static const Operator op = [api] {
    Operator made = MakeOperator<Attributes, &Compute>(api, "MembraneStep", std::vector<ElementType>(9, kFloat),
                                                       std::vector<ElementType>(4, kFloat));
    // The membrane may take the memory of the one before, the spikes that of what arrives, the counts likewise.
    made.GetMayInplace = [](int** from, int** to) -> size_t {
      static int given[] = {1, 0, 6}, taken[] = {0, 1, 2};
      *from = given;
      *to = taken;
      return 3;
    };
    made.GetOutputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return index == 3 ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
    };
    made.ReleaseMayInplace = [](int*, int*) {};
    return made;
  }();
  Check(ort.CustomOpDomain_Add(domain, &op));
}

}  // namespace pmsm

"""Networks of the baselines' neurons against a plain simulation of their own: loops in numpy, no ONNX, no averages.

Weights, currents and thresholds are multiples of powers of two, so that float32 is exact and every spike must be the
same, ties included.
"""

import functools

import numpy as np
import onnx
import pytest
import tiny
from spiking import read

from pmsm_cli.baselines.counting import COUNT_PREFIX, arriving_name, emitted_name, operations_name
from pmsm_cli.baselines.neuron import BaselineNeurons
from pmsm_cli.baselines.plan import plan_neurons
from pmsm_cli.baselines.spiking import spiking_model
from pmsm_cli.graph.scan import PER_STEP
from pmsm_cli.runtime.counted import Counted
from pmsm_cli.runtime.session import open_session

Floats = np.ndarray
TIMESTEPS = 7


def dyadic(*shape: int, seed: int = 0, unit: float = 0.25, most: int = 4) -> Floats:
    return (np.random.default_rng((seed, *shape)).integers(-most, most + 1, shape) * unit).astype(np.float32)


WEIGHTS = {
    "w1": dyadic(4, 3, 3, 3),
    "b1": dyadic(4, unit=0.125),
    "w2": dyadic(4, 4, 3, 3, unit=0.125),
    "b2": dyadic(4, unit=0.125, seed=1),
    "w3": dyadic(6, 4, 3, 3, unit=0.125),
    "b3": dyadic(6, unit=0.125),
    "w4": dyadic(5, 6 * 4),
    "b4": dyadic(5, unit=0.125),
}


def network(batch: int | str = "N") -> onnx.ModelProto:
    """A shortcut, a maximum, an average and a softmax between and behind three activations."""
    return tiny.model(
        f"""
        g (float[{batch}, 3, 7, 6] image) => (float[{batch}, 5] scores, float[{batch}, 5] shares) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2, b2)
            d = Add (c, b)
            e = Relu (d)
            f = MaxPool <kernel_shape = [2, 2], strides = [1, 2]> (e)
            h = Conv <pads = [1, 0, 1, 0], strides = [2, 1]> (f, w3, b3)
            i = Clip (h, zero, six)
            j = AveragePool <kernel_shape = [2, 1], pads = [1, 0, 0, 0], strides = [1, 1]> (i)
            k = AveragePool <kernel_shape = [2, 1], strides = [2, 1], pads = [0, 0, 1, 0]> (j)
            l = Flatten (k)
            scores = Gemm <transB = 1> (l, w4, b4)
            shares = Softmax (scores)
        }}""",
        zero=np.float32(0),
        six=np.float32(6),
        **{name: value for name, value in WEIGHTS.items() if name != "w4"},
        w4=WEIGHTS["w4"][:, : 6 * 2],
    )


def windows(data: Floats, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int]):
    """Each output position with the slices of the padded data [channels, h, w] that it sees; pads as in ONNX."""
    padded = np.pad(data, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=np.nan)
    for y in range((padded.shape[1] - kernel[0]) // strides[0] + 1):
        for x in range((padded.shape[2] - kernel[1]) // strides[1] + 1):
            rows, columns = y * strides[0], x * strides[1]
            yield (y, x), padded[:, rows : rows + kernel[0], columns : columns + kernel[1]]


def pool(data: Floats, reduce, kernel, strides, pads) -> Floats:
    found = {place: reduce(seen, axis=(1, 2)) for place, seen in windows(data, kernel, strides, pads)}
    height, width = (max(place[axis] for place in found) + 1 for axis in (0, 1))
    return np.array([[found[y, x] for x in range(width)] for y in range(height)]).transpose(2, 0, 1)


def convolve(data: Floats, weights: Floats, bias: Floats, strides, pads) -> Floats:
    def one(seen: Floats, axis) -> Floats:
        return np.einsum("chw,ochw->o", np.nan_to_num(seen), weights) + bias

    return pool(data, one, weights.shape[2:], strides, pads)


@functools.cache
def reached(shape, kernel, strides, pads, outputs: int) -> Floats:
    """How many outputs see each position, counted one position at a time."""
    counts = np.zeros(shape)
    for place in np.ndindex(*shape[1:]):
        alone = np.zeros(shape)
        alone[(slice(None), *place)] = 1
        for _, seen in windows(alone, kernel, strides, pads):
            counts[(slice(None), *place)] += outputs * (np.nan_to_num(seen)[0] > 0).sum()
    return counts


class Simulation:
    """One image, step by step."""

    def __init__(self, image: Floats, neurons: dict[str, BaselineNeurons]) -> None:
        self.image, self.neurons = image.astype(np.float64), neurons
        self.membranes = {name: each.initial_membrane.astype(np.float64) for name, each in neurons.items()}
        self.emitted = {name: np.zeros(()) for name in neurons}
        self.under_maximum, self.maximum, self.total = np.zeros(()), np.zeros(()), np.zeros(5)
        self.counts: dict[str, float] = {}

    def fire(self, name: str, current: Floats) -> tuple[Floats, Floats]:
        neurons = self.neurons[name]
        theta = neurons.threshold.astype(np.float64)
        membrane = self.membranes[name] + current
        spikes = np.where(membrane >= theta, 1.0, 0.0)
        if neurons.signed:
            spikes = np.where((membrane <= -theta) & (self.emitted[name] > 0), -1.0, spikes)
        self.membranes[name] = membrane - theta * spikes
        self.emitted[name] = self.emitted[name] + spikes
        self.counts[emitted_name(name)] = np.abs(spikes).sum()
        return np.abs(spikes), theta * spikes

    def step(self, number: int) -> Floats:
        """The scores, averaged over the steps so far."""
        w = WEIGHTS
        spikes_b, b = self.fire("b", convolve(self.image, w["w1"], w["b1"], (1, 1), (1, 1, 1, 1)))
        _, e = self.fire("e", convolve(b, w["w2"], w["b2"], (1, 1), (1, 1, 1, 1)) + b)
        self.under_maximum = self.under_maximum + e
        before, self.maximum = self.maximum, pool(self.under_maximum, np.max, (2, 2), (1, 2), (0, 0, 0, 0))
        f = self.maximum - before
        spikes_i, i = self.fire("i", convolve(f, w["w3"], w["b3"], (2, 1), (1, 0, 1, 0)))
        averaged = pool(pool(i, np.nanmean, (2, 1), (1, 1), (1, 0, 0, 0)), np.nanmean, (2, 1), (2, 1), (0, 0, 1, 0))
        arriving = pool(
            pool(spikes_i, np.nansum, (2, 1), (1, 1), (1, 0, 0, 0)), np.nansum, (2, 1), (2, 1), (0, 0, 1, 0)
        )
        self.total = self.total + w["w4"][:, :12] @ averaged.ravel() + w["b4"]
        for site, spikes, synapses in (
            ("b", spikes_b, reached(spikes_b.shape, (3, 3), (1, 1), (1, 1, 1, 1), 4)),
            ("f", np.abs(f) > 0, reached(f.shape, (3, 3), (2, 1), (1, 0, 1, 0), 6)),
            ("l", arriving, np.full(arriving.shape, 5)),
        ):
            self.counts[arriving_name(site)] = spikes.sum()
            self.counts[operations_name(site)] = (spikes * synapses).sum()
        return self.total / number


def some_neurons(kind: str) -> dict[str, BaselineNeurons]:
    random = np.random.default_rng(5)
    shapes = {
        "layer": {"b": (), "e": (), "i": ()},
        "channel": {"b": (4, 1, 1), "e": (4, 1, 1), "i": (6, 1, 1)},
        "neuron": {"b": (4, 7, 6), "e": (4, 7, 6), "i": (6, 3, 1)},
    }[kind]
    start, signed = {"layer": (0.5, False), "channel": (0.0, False), "neuron": (0.5, True)}[kind]
    return {
        name: BaselineNeurons(
            threshold=np.asarray(2.0 ** random.integers(-1, 2, shape), np.float32), start=start, signed=signed
        )
        for name, shape in shapes.items()
    }


def counted(batch: int | str, neurons: dict[str, BaselineNeurons], timesteps: int) -> Counted:
    source, plan, shapes = read(network(batch), (3, 7, 6))
    neuron_plan = plan_neurons(source, plan, shapes)
    assert (neuron_plan.uncovered, neuron_plan.obstacles) == ((), ())
    model = spiking_model(source, plan, neuron_plan, neurons, shapes, timesteps=timesteps)
    return Counted(open_session(model, subject="net.onnx", threads=1), prefix=COUNT_PREFIX, timesteps=timesteps)


IMAGES = dyadic(3, 3, 7, 6, unit=0.25)


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize("kind", ["layer", "channel", "neuron"])
@pytest.mark.parametrize("timesteps", [1, TIMESTEPS])
def test_a_network_gives_the_outputs_and_counts_of_a_plain_simulation(kind: str, batch: int | str, timesteps: int):
    neurons = some_neurons(kind)
    spiking = counted(batch, neurons, timesteps)
    results = dict(zip(spiking.output_names, spiking.run(IMAGES), strict=True))
    means, counts = np.zeros((timesteps, len(IMAGES), 5)), {}
    for index, image in enumerate(IMAGES):
        simulation = Simulation(image, neurons)
        for step in range(timesteps):
            means[step, index] = simulation.step(step + 1)
            for name, value in simulation.counts.items():
                counts.setdefault(name, np.zeros(timesteps))[step] += value
    scores = results[f"scores{PER_STEP}"] if timesteps > 1 else results["scores"][None]
    np.testing.assert_allclose(scores, means, rtol=1e-6, atol=1e-6)  # the division by t rounds
    shares = results[f"shares{PER_STEP}"] if timesteps > 1 else results["shares"][None]
    np.testing.assert_allclose(shares, softmax(means), rtol=1e-4, atol=1e-5)
    for name, value in counts.items():
        np.testing.assert_array_equal(spiking.mean(name), value / len(IMAGES), err_msg=name)
    assert min(value.sum() for value in counts.values()) > 0


def softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_counts_do_not_depend_on_the_batch():
    neurons = some_neurons("neuron")
    whole, parts = counted("N", neurons, 3), counted("N", neurons, 3)
    whole.run(IMAGES)
    for image in IMAGES:
        parts.run(image[None])
    assert whole.images == parts.images == len(IMAGES)
    for name in (emitted_name("b"), operations_name("f"), arriving_name("l")):
        np.testing.assert_array_equal(whole.mean(name), parts.mean(name))


@pytest.mark.parametrize("signed", [False, True])
def test_outputs_tend_to_the_source_s_where_thresholds_reach_as_far_as_activations(signed: bool):
    widths = {"b": 16, "e": 64, "i": 6}
    neurons = {
        name: BaselineNeurons(threshold=np.asarray(width, np.float32), start=0.5, signed=signed)
        for name, width in widths.items()
    }
    spiking = counted("N", neurons, 512)
    source, _, _ = read(network(), (3, 7, 6))
    wanted = open_session(source.model, subject="net.onnx").run(IMAGES)[0]
    results = dict(zip(spiking.output_names, spiking.run(IMAGES), strict=True))[f"scores{PER_STEP}"]
    errors = np.abs(results - wanted).mean(axis=(1, 2)) / np.abs(wanted).mean()
    assert errors[-1] < 0.03
    assert errors[-1] < errors[63] < errors[7]

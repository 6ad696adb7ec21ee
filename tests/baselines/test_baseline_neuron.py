"""The baselines' neurons: examples worked out from the papers' equations, and the ONNX functions against numpy."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from pmsm_cli.baselines.neuron import BaselineNeurons, initial_state, step
from pmsm_cli.baselines.onnx_function import (
    DOMAIN,
    DOMAIN_VERSION,
    INTEGRATE_AND_FIRE,
    SIGNED_WITH_MEMORY,
    baseline_functions,
)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def train(neurons: BaselineNeurons, currents: list[float]) -> list[int]:
    """The spikes of one neuron for these currents."""
    state, spikes = initial_state((1,), neurons), []
    for current in currents:
        emitted, state = step(floats(current), state, neurons)
        spikes.append(int(emitted[0]))
    return spikes


def test_integrate_and_fire_emits_one_spike_whenever_the_membrane_reaches_the_threshold():
    neurons = BaselineNeurons(threshold=floats(2.0))
    assert train(neurons, [0.5] * 9) == [0, 0, 0, 1, 0, 0, 0, 1, 0]  # 0.5 1 1.5 2|0 ...
    assert train(neurons, [2.0, 5.0, 0.0, 0.0]) == [1, 1, 1, 0]  # reset by subtraction: 0, 3, 1, 1
    assert train(neurons, [-3.0, 4.0, 1.0]) == [0, 0, 1]  # -3, 1, 2: no spike for what is negative, and none lost


@pytest.mark.parametrize("timesteps", [1, 2, 3, 5, 8, 32])
def test_a_constant_current_gives_the_rate_of_clip_floor_shift(timesteps: int):
    """Bu et al.: the average is theta / T clip(floor((z T + v0) / theta), 0, T), a shift of 1/2 where v0 is theta / 2."""
    theta = 0.75
    z = np.linspace(-1, 2, 97).astype(np.float32) + np.float32(1e-3)  # near no tie
    for start in (0.0, 0.5):
        neurons = BaselineNeurons(threshold=floats(theta), start=start)
        state, emitted = initial_state(z.shape, neurons), np.zeros(z.shape)
        for _ in range(timesteps):
            spikes, state = step(z, state, neurons)
            emitted += spikes
        expected = np.clip(np.floor((z.astype(np.float64) * timesteps + start * theta) / theta), 0, timesteps)
        np.testing.assert_array_equal(emitted, expected)


def test_a_signed_neuron_takes_back_a_spike_that_was_one_too_many():
    """Wang et al.'s case: currents of 1, 1, -1.2, -1.2 sum to less than nothing, so that both spikes were wrong."""
    signed, unsigned = (BaselineNeurons(threshold=floats(1.0), signed=each) for each in (True, False))
    currents = [1.0, 1.0, -1.2, -1.2, 0.0]
    assert train(unsigned, currents) == [1, 1, 0, 0, 0]
    assert train(signed, currents) == [1, 1, -1, -1, 0]  # membrane 0, 0, -1.2|-0.2, -1.4|-0.4, -0.4


def test_a_signed_neuron_never_takes_back_more_than_it_emitted():
    neurons = BaselineNeurons(threshold=floats(1.0), signed=True)
    assert train(neurons, [-5.0, 1.0, -2.0]) == [0, 0, 0]
    assert train(neurons, [1.0, -9.0, -9.0, 0.0]) == [1, -1, 0, 0]
    random = np.random.default_rng(0).normal(0, 1, 400)
    assert min(np.cumsum(train(neurons, list(random)))) == 0


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("start", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(), (4, 1, 1), (4, 3, 3)])
def test_the_onnx_function_gives_the_specification_s_spikes(signed: bool, start: float, shape: tuple[int, ...]):
    random = np.random.default_rng((signed, len(shape)))
    neurons = BaselineNeurons(
        threshold=np.asarray(random.uniform(0.4, 1.5, shape), np.float32), start=start, signed=signed
    )
    session = function_session(signed)
    state = initial_state((2, 4, 3, 3), neurons)
    before = neurons.initial_membrane  # broadcasts at the first step, as in the graphs
    emitted = np.zeros((), np.float32)
    total = np.zeros((2, 4, 3, 3))
    for _ in range(12):
        current = random.normal(0.3, 1, (2, 4, 3, 3)).astype(np.float32)
        spikes, state = step(current, state, neurons)
        feeds = {"current": current, "threshold": neurons.threshold, "before": before}
        results = session.run(None, {**feeds, "emitted": emitted} if signed else feeds)
        np.testing.assert_array_equal(results[0], spikes)
        np.testing.assert_array_equal(results[1], neurons.threshold * spikes)
        np.testing.assert_array_equal(results[2], state.membrane)
        before, total = results[2], total + spikes
        if signed:
            emitted = results[3]
            np.testing.assert_array_equal(emitted, total)
    assert len(np.unique(total)) > 3


def function_session(signed: bool) -> ort.InferenceSession:
    inputs = [ir.val(name, ir.DataType.FLOAT) for name in ("current", "threshold", "before", "emitted")[: 3 + signed]]
    outputs = [ir.val(name, ir.DataType.FLOAT) for name in ("spikes", "carried", "after", "emitted_now")[: 3 + signed]]
    node = ir.Node(DOMAIN, SIGNED_WITH_MEMORY if signed else INTEGRATE_AND_FIRE, inputs, outputs=outputs)
    graph = ir.Graph(inputs, outputs, nodes=[node], opset_imports={"": 17, DOMAIN: DOMAIN_VERSION}, name="one")
    model = ir.Model(graph, ir_version=10, functions=baseline_functions(17))
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("threshold", [0.0, -1.0, np.nan, np.inf])
def test_a_threshold_that_no_neuron_can_have_is_refused(threshold: float):
    with pytest.raises(ValueError, match="finite and positive"):
        BaselineNeurons(threshold=floats(1.0, threshold))


@pytest.mark.parametrize("start", [1.0, -0.5])
def test_a_membrane_that_starts_beyond_its_threshold_is_refused(start: float):
    with pytest.raises(ValueError, match="starts from below"):
        BaselineNeurons(threshold=floats(1.0), start=start)

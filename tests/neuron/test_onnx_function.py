"""The ONNX functions, in stock onnxruntime, against the numpy specification: bit for bit."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from pmsm_cli.neuron.coding import Coding, later_negative_levels
from pmsm_cli.neuron.onnx_function import NEURON, NEURON_STEP, neuron_function, neuron_step_function
from pmsm_cli.neuron.reference import initial_state, step

_TEXT = """
<ir_version: 10, opset_import: ["" : {opset}, "ai.pmsm" : 1]>
one (float[{shape}] value, float[{threshold}] threshold) => (float[{shape}] spikes)
{{ spikes = ai.pmsm.PolarityNeuron <negative_levels = {n}, positive_levels = {p}> (value, threshold) }}
"""
_STEP_TEXT = """
<ir_version: 10, opset_import: ["" : {opset}, "ai.pmsm" : 1]>
one (float[{shape}] value, float[{threshold}] threshold, float[{shape}] emitted, float horizon, float quantum)
  => (float[{shape}] spikes, float[{shape}] emitted_now)
{{ spikes, emitted_now = ai.pmsm.PolarityNeuronStep <negative_levels = {n}, positive_levels = {p}>
     (value, threshold, emitted, horizon, quantum) }}
"""
SHAPE = (2, 3, 4, 5)


def session(op_type: str, *, n: int, p: int, threshold: np.ndarray, opset: int = 17) -> ort.InferenceSession:
    text = (_TEXT if op_type == NEURON else _STEP_TEXT).format(
        opset=opset, n=n, p=p, shape=",".join(map(str, SHAPE)), threshold=",".join(map(str, threshold.shape))
    )
    model = ir.from_onnx_text(text)
    function = (neuron_function if op_type == NEURON else neuron_step_function)(opset)
    model.functions[function.identifier()] = function
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


def awkward_values(seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 4, SHAPE).astype(np.float32)
    flat = values.reshape(-1)
    flat[:10] = [np.nan, np.inf, -np.inf, 0.5, 1.5, -0.5, -2.5, 0.0, 1e-40, 3e38]
    return values


def threshold_on(axis: int | None) -> np.ndarray:
    if axis is None:
        return np.array([0.75], np.float32)
    theta = np.random.default_rng(7).uniform(0.2, 2, SHAPE[axis]).astype(np.float32)
    return theta.reshape([-1 if k == axis else 1 for k in range(len(SHAPE))][axis:])


@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3])
@pytest.mark.parametrize(("n", "p"), [(0, 1), (0, 15), (3, 15), (255, 255), (7, 1)])
def test_the_first_step_equals_the_specification(axis: int | None, n: int, p: int):
    values, threshold = awkward_values(), threshold_on(axis)
    expected, _ = step(values, initial_state(values), threshold, negative_levels=n, positive_levels=p)
    (spikes,) = session(NEURON, n=n, p=p, threshold=threshold).run(None, {"value": values, "threshold": threshold})
    assert np.array_equal(spikes, expected)


@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3])
@pytest.mark.parametrize(("n", "p"), [(0, 1), (0, 15), (3, 15), (15, 3)])
@pytest.mark.parametrize("coding", Coding)
def test_eight_steps_equal_the_specification(axis: int | None, n: int, p: int, coding: Coding):
    threshold = threshold_on(axis)
    state = initial_state(awkward_values())
    first = session(NEURON, n=n, p=p, threshold=threshold)
    later = session(NEURON_STEP, n=later_negative_levels(n, p), p=p, threshold=threshold)
    for timestep in range(1, 9):
        values = awkward_values(seed=timestep)
        emitted = state.emitted
        expected, state = step(values, state, threshold, negative_levels=n, positive_levels=p, coding=coding)
        feeds = {"value": values, "threshold": threshold}
        if timestep == 1:
            (spikes,) = first.run(None, feeds)
            now = spikes
        else:
            numbers = coding.at(timestep)
            feeds |= {
                "emitted": emitted,
                "horizon": np.array(numbers.horizon, np.float32),
                "quantum": np.array(numbers.quantum, np.float32),
            }
            spikes, now = later.run(None, feeds)
        assert np.array_equal(spikes, expected), timestep
        assert np.array_equal(now, state.emitted), timestep


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_the_bodies_are_valid_in_every_opset_that_networks_keep(opset: int):
    threshold = threshold_on(None)
    values = awkward_values()
    (spikes,) = session(NEURON, n=1, p=3, threshold=threshold, opset=opset).run(
        None, {"value": values, "threshold": threshold}
    )
    expected, _ = step(values, initial_state(values), threshold, negative_levels=1, positive_levels=3)
    assert np.array_equal(spikes, expected)

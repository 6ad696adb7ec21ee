"""Products of two spiking tensors (attention), against the equations of the running values worked out in numpy."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import tiny

from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.shapes import infer_shapes
from pmsm_cli.graph.sites import find_sites
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.neuron.reference import initial_state, running_value, step

IMAGES = tiny.images(3)
THETA = {"left": np.float32(0.3), "right": np.float32(0.2)}
LEVELS = {"negative_levels": 3, "positive_levels": 5}


def product_network():
    """Two maps of the image and their product: both operands come straight from analog layers."""
    return tiny.model(
        """
        attention (float[N, 3, 8, 8] image) => (float[N, 2, 8, 8] scores) {
            left = Conv <pads = [1, 1, 1, 1]> (image, w1)
            right = Conv <pads = [1, 1, 1, 1]> (image, w2)
            scores = MatMul (left, right)
        }""",
        w1=tiny.weights(2, 3, 3, 3),
        w2=tiny.weights(2, 3, 3, 3, seed=1),
    )


def spiking(timesteps: int, coding: Coding) -> ir.Model:
    network = ingest(product_network(), subject="attention")
    shapes = infer_shapes(network.model, (1, 3, 8, 8))
    plan = find_sites(network, shapes)
    neurons = {name: NeuronParameters(threshold=np.array(theta), **LEVELS) for name, theta in THETA.items()}
    model = insert_neurons(network, plan, neurons, shapes)
    return model if timesteps == 1 else unroll_timesteps(model, plan, timesteps=timesteps, coding=coding)


def run(model: ir.Model) -> list[np.ndarray]:
    return ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"image": IMAGES})


def operands() -> tuple[np.ndarray, np.ndarray]:
    proto = product_network()
    del proto.graph.output[:]
    proto.graph.output.extend(tiny.onnx.helper.make_empty_tensor_value_info(name) for name in ("left", "right"))
    left, right = ort.InferenceSession(proto.SerializeToString()).run(None, {"image": IMAGES})
    return left, right


def test_both_operands_become_sites_with_a_threshold_a_head_and_the_work_is_counted_once():
    network = ingest(product_network(), subject="attention")
    plan = find_sites(network, infer_shapes(network.model, (1, 3, 8, 8)))
    assert [(site.name, site.channel_axis, site.macs) for site in plan.sites] == [
        ("left", -3, 2 * 8 * 8 * 8),
        ("right", -3, 0),
    ]


def test_the_first_step_multiplies_counts():
    left, right = operands()
    counts = [np.clip(np.round(value / THETA[name]), -3, 5) for name, value in (("left", left), ("right", right))]
    expected = np.matmul(*counts) * THETA["left"] * THETA["right"]
    np.testing.assert_allclose(run(spiking(1, Coding.REFINE))[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("timesteps", [2, 3, 8])
def test_every_step_is_the_product_of_the_running_values(coding: Coding, timesteps: int):
    values = dict(zip(THETA, operands(), strict=True))
    states = {name: initial_state(value) for name, value in values.items()}
    expected = []
    for _ in range(timesteps):
        for name, value in values.items():
            _, states[name] = step(value, states[name], THETA[name], coding=coding, **LEVELS)
        expected.append(np.matmul(*(running_value(states[name], THETA[name], coding) for name in THETA)))
    last, per_step = run(spiking(timesteps, coding))
    np.testing.assert_allclose(per_step, np.stack(expected), rtol=1e-4, atol=1e-4)
    assert np.array_equal(last, per_step[-1])


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("timesteps", [1, 2, 3])
def test_each_head_has_thresholds_of_its_own(coding: Coding, timesteps: int):
    network = ingest(product_network(), subject="attention")
    shapes = infer_shapes(network.model, (1, 3, 8, 8))
    plan = find_sites(network, shapes)
    assert {(site.channel_axis, site.channels) for site in plan.sites} == {(-3, 2)}
    thetas = {"left": np.array([0.3, 0.5], np.float32), "right": np.array([0.2, 0.1], np.float32)}
    neurons = {name: NeuronParameters(threshold=theta, **LEVELS) for name, theta in thetas.items()}
    model = insert_neurons(network, plan, neurons, shapes)
    along = {name: theta.reshape(2, 1, 1) for name, theta in thetas.items()}
    values = dict(zip(thetas, operands(), strict=True))
    states = {name: initial_state(value) for name, value in values.items()}
    for _ in range(timesteps):
        for name, value in values.items():
            _, states[name] = step(value, states[name], along[name], coding=coding, **LEVELS)
    expected = np.matmul(*(running_value(states[name], along[name], coding) for name in thetas))
    if timesteps > 1:
        model = unroll_timesteps(model, plan, timesteps=timesteps, coding=coding)
    np.testing.assert_allclose(run(model)[0], expected, rtol=1e-4, atol=1e-4)


def test_operands_without_an_axis_of_heads_get_one_threshold_each():
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 4, 4] scores) {
            a = Conv <strides = [2, 2]> (image, w)
            b = Reshape (a, s)
            t = Transpose <perm = [0, 2, 1]> (b)
            scores = MatMul (b, t)
        }""",
        w=tiny.weights(4, 3, 2, 2),
        s=np.array([0, 4, -1], np.int64),
    )
    network = ingest(proto, subject="g")
    plan = find_sites(network, infer_shapes(network.model, (1, 3, 8, 8)))
    assert [(site.channel_axis, site.channels) for site in plan.sites] == [(None, 1), (None, 1)]


def test_a_product_with_an_operand_from_the_image_alone_is_reported_as_analog():
    proto = tiny.model(
        """
        gram (float[N, 3, 8, 8] image) => (float[N, 2, 8, 8] scores) {
            gram = MatMul (image, image)
            scores = Conv (gram, w1)
        }""",
        w1=tiny.weights(2, 3, 1, 1),
    )
    network = ingest(proto, subject="gram")
    plan = find_sites(network, infer_shapes(network.model, (1, 3, 8, 8)))
    assert [(layer.op_type, layer.macs) for layer in plan.analog_layers] == [("MatMul", 3 * 8 * 8 * 8)]
    assert [site.name for site in plan.sites] == ["gram"]

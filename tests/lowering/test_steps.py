"""Several timesteps on the native library: fewer operators, the very same spikes."""

import integers
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import spiking
import tiny
from trainable import attention

from pmsm_cli.lowering.lower import Use, tidy_steps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")


def network(body: str, **weights: np.ndarray) -> onnx.ModelProto:
    """An analog layer j, then the body from j to d, then a layer of spikes."""
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 5, 8, 8] scores) {{
            i = Conv <pads = [1, 1, 1, 1]> (image, w0)
            j = Relu (i)
            {body}
            scores = Conv (d, w3)
        }}""",
        w0=tiny.weights(4, 3, 3, 3),
        w1=tiny.weights(4, 4, 3, 3, seed=1),
        w2=tiny.weights(4, 4, 3, 3, seed=2),
        w3=tiny.weights(5, 4, 1, 1, seed=3),
        b1=tiny.weights(4, seed=4) + 1,
        **weights,
    )


BODIES = {
    "relu": "a = Conv <pads = [1, 1, 1, 1]> (j, w1, b1) d = Relu (a)",
    "no relu": "d = Conv <pads = [1, 1, 1, 1]> (j, w1, b1)",
    "residual": """
        a = Conv <pads = [1, 1, 1, 1]> (j, w1) b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, w2) s = Add (c, j) d = Relu (s)""",
    "residual, turned": """
        a = Conv <pads = [1, 1, 1, 1]> (j, w1) b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, w2) s = Add (b, c) d = Relu (s)""",
    "two branches": """
        a = Conv <pads = [1, 1, 1, 1]> (j, w1) c = Conv <pads = [1, 1, 1, 1]> (j, w2) s = Add (a, c) d = Relu (s)""",
    "twice itself": "a = Conv <pads = [1, 1, 1, 1]> (j, w1) s = Add (a, a) d = Relu (s)",
    "another activation": "a = Conv <pads = [1, 1, 1, 1]> (j, w1) d = Sigmoid (a)",
}


def body_of(model: ir.Model) -> dict[str, int]:
    """How often each operator occurs in the steps."""
    ops = integers.ops(model)
    for node in model.graph:
        if node.op_type == "Scan":
            for inner in node.attributes["body"].as_graph():
                ops[inner.op_type] = ops.get(inner.op_type, 0) + 1
    return ops


@pytest.mark.parametrize("coding", [Coding.REFINE, Coding.RATE])
@pytest.mark.parametrize("body", BODIES)
def test_every_step_gives_the_outputs_of_the_file(body, coding):
    checkpoint = spiking.checkpoint_of(network(BODIES[body]), tiny.images(8), timesteps=3, coding=coding)
    after, changed = tidy_steps(checkpoint.model, Use())
    assert changed
    images = tiny.images(4, seed=1)
    results = (integers.outputs(model, images, library=LIBRARY) for model in (after, checkpoint.model))
    for got, expected in zip(*results, strict=True):
        assert np.mean(np.abs(got - expected) > 1e-5) < 0.01  # ties: convolutions sum up in another order


@pytest.mark.parametrize(
    ("body", "fused"), [("relu", 1), ("no relu", 1), ("residual", 2), ("residual, turned", 2), ("two branches", 1)]
)
def test_membranes_and_the_neurons_behind_them_are_one_operator(body, fused):
    checkpoint = spiking.checkpoint_of(network(BODIES[body]), tiny.images(8), timesteps=2)
    after, _ = tidy_steps(checkpoint.model, Use())
    ops = body_of(after)
    assert ops["MembraneStep"] == fused
    assert ops["PolarityNeuronStep"] == 1  # of what the first layer makes of the image


def test_steps_of_convolutions_follow_one_another_and_share_their_weights():
    checkpoint = spiking.checkpoint_of(network(BODIES["relu"]), tiny.images(8), timesteps=4)
    after, _ = tidy_steps(checkpoint.model, Use())
    assert "Scan" not in integers.ops(after)
    weights = [node.inputs[1].name for node in after.graph if node.op_type == "Conv"]
    assert len(weights) == 1 + 4 * 2
    assert len(set(weights)) == 3


@pytest.mark.parametrize("timesteps", [3, 12])
def test_steps_of_matrix_products_and_many_steps_stay_a_scan(timesteps):
    proto = attention() if timesteps == 3 else network(BODIES["relu"])
    checkpoint = spiking.checkpoint_of(proto, tiny.images(8), timesteps=timesteps)
    after, _ = tidy_steps(checkpoint.model, Use())
    assert integers.ops(after)["Scan"] == 1
    results = (integers.outputs(model, tiny.images(4), library=LIBRARY) for model in (after, checkpoint.model))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_the_file_s_graph_stays_as_it_was():
    checkpoint = spiking.checkpoint_of(network(BODIES["residual"]), tiny.images(8), timesteps=3)
    before = spiking.serialised(checkpoint.model)
    tidy_steps(checkpoint.model, Use())
    assert spiking.serialised(checkpoint.model) == before

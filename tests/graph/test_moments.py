"""What ingest keeps of batch norm: each channel's mean and deviation, by the name of the tensor."""

import numpy as np
import pytest
import tiny
from ingesting import BN, floats

from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.network import Network

EPSILON = 0.01
MEAN, DEVIATION = BN["b"], np.abs(BN["g"]) * np.sqrt(BN["v"] / (BN["v"] + EPSILON))
NORM = f"n = BatchNormalization <epsilon = {EPSILON}> (a, g, b, m, v)"


def network_of(body: str, *, output: str = "float[N, 3, h, w] y", opset: int = 20, **weights: np.ndarray) -> Network:
    proto = tiny.model(f"g (float[N, 3, 8, 8] x) => ({output}) {{ {body} }}", opset=opset, **(BN | weights))
    return ingest(proto, subject="net.onnx")


@pytest.mark.parametrize(
    ("layer", "weights", "output"),
    [
        ("Conv <pads = [1, 1, 1, 1]> (x, w, c)", {"w": (3, 3, 3, 3), "c": (3,)}, "float[N, 3, h, w] y"),
        ("ConvTranspose <strides = [2, 2]> (x, w)", {"w": (3, 3, 2, 2)}, "float[N, 3, h, w] y"),
        ("Gemm <transB = 1> (f, w, c)", {"w": (3, 192), "c": (3,)}, "float[N, 3] y"),
        ("MaxPool <kernel_shape = [2, 2]> (x)", {}, "float[N, 3, h, w] y"),
    ],
)
@pytest.mark.parametrize("opset", [9, 20])
def test_the_moments_are_those_of_the_batch_norm_folded_or_not(layer: str, weights: dict, output: str, opset: int):
    flat = "f = Flatten (x)" if "Gemm" in layer else ""
    values = {name: tiny.weights(*shape) for name, shape in weights.items()}
    network = network_of(f"{flat} a = {layer} {NORM} y = Relu (n)", output=output, opset=opset, **values)
    assert list(network.moments) == ["n"]
    np.testing.assert_allclose(network.moments["n"].mean, MEAN, rtol=1e-6)
    np.testing.assert_allclose(network.moments["n"].deviation, DEVIATION, rtol=1e-6)
    assert "n" in {output.name for node in network.model.graph for output in node.outputs}


def test_layers_that_share_weights_keep_moments_of_their_own():
    body = f"""
        a = Conv (x, w) {NORM} r = Relu (n)
        k = Conv (r, w) y = BatchNormalization <epsilon = {EPSILON}> (k, g, m, b, v)
    """
    moments = network_of(body, w=tiny.weights(3, 3, 1, 1)).moments
    np.testing.assert_allclose(moments["n"].mean, BN["b"])
    np.testing.assert_allclose(moments["y"].mean, BN["m"])


def test_a_folded_layer_really_has_these_moments_on_data_with_the_statistics_of_the_batch_norm():
    images = tiny.images(64)
    body = "a = Conv (x, w) n = BatchNormalization <epsilon = 0.01> (a, g, b, mean, variance) y = Relu (n)"
    w = tiny.weights(3, 3, 1, 1)
    raw = np.einsum("oc,nchw->nohw", w[:, :, 0, 0], images)
    statistics = {"mean": raw.mean((0, 2, 3)), "variance": raw.var((0, 2, 3))}
    network = network_of(body, w=w, **statistics)
    (folded,) = [node for node in network.model.graph if node.op_type == "Conv"]
    weights, bias = (value.const_value.numpy() for value in folded.inputs[1:])
    values = np.einsum("oc,nchw->nohw", weights[:, :, 0, 0], images) + bias[:, None, None]
    np.testing.assert_allclose(values.mean((0, 2, 3)), network.moments["n"].mean, atol=1e-4)
    np.testing.assert_allclose(values.std((0, 2, 3)), network.moments["n"].deviation, rtol=1e-4)


def test_parameters_that_are_computed_or_senseless_are_left_out():
    computed = "p = ReduceMean <keepdims = 0> (x, axes) a = MaxPool <kernel_shape = [2, 2]> (x)"
    body = f"{computed} y = BatchNormalization (a, p, b, m, v)"
    assert not network_of(body, axes=np.array([0, 2, 3])).moments
    body = "a = Relu (x) y = BatchNormalization (a, g, b, m, v)"
    assert not network_of(body, v=floats(1, -1, 1)).moments


def test_a_network_without_batch_norm_has_no_moments():
    assert not ingest(tiny.convolutional(), subject="net.onnx").moments


def test_moments_cannot_be_changed():
    moments = network_of(f"a = Conv (x, w) {NORM} y = Relu (n)", w=tiny.weights(3, 3, 1, 1)).moments
    with pytest.raises(ValueError, match="read-only"):
        moments["n"].mean[0] = 1
    with pytest.raises(TypeError):
        moments["n"] = moments["n"]  # type: ignore[index]

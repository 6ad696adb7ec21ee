"""Normalising a source: on any images, its channels have the moments that its batch norms state."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import spiking
import tiny

from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.runtime.normalise import normalise_source
from pmsm_cli.runtime.observe import observe
from pmsm_cli.runtime.session import open_session

IMAGES = tiny.images(48)


def network_of(*, gamma: float = 1, batch: int | str = "N", opset: int = 20, last: str = "") -> onnx.ModelProto:
    """Two batch norms, the second on a residual sum's branch; running statistics far from what images here give."""
    return tiny.model(
        f"""
        g (float[{batch}, 3, 8, 8] image) => (float[{batch}, 4, 8, 8] y) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w1) b = BatchNormalization (a, g1, b1, m1, v1) c = Relu (b)
            d = Conv (c, w2) e = BatchNormalization (d, g2, b2, m2, v2)
            s = Add (c, e) {last or "y = Conv (s, w3)"}
        }}""",
        opset=opset,
        w1=tiny.weights(4, 3, 3, 3),
        g1=np.float32(gamma) * np.array([1, 0.5, -2, 3], np.float32),
        b1=np.array([0.5, -0.5, 1, 0], np.float32),
        m1=np.full(4, 3, np.float32),
        v1=np.full(4, 25, np.float32),
        w2=tiny.weights(4, 4, 1, 1),
        g2=np.array([1, 2, 0.1, 0], np.float32),
        b2=np.array([0, 1, -1, 2], np.float32),
        m2=np.full(4, -2, np.float32),
        v2=np.full(4, 0.01, np.float32),
        w3=tiny.weights(4, 4, 1, 1),
    )


def normalised(
    proto: onnx.ModelProto, *, size: int = 48, images: np.ndarray = IMAGES
) -> tuple[Network, Network, dict[str, Shape]]:
    network, _, shapes = spiking.read(proto, (3, 8, 8))
    return network, *normalise_source(network, shapes, spiking.batches_of(images, size))


def values_of(model: ir.Model, name: str, images: np.ndarray = IMAGES) -> np.ndarray:
    (values,) = open_session(with_outputs(model, [name]), subject="net.onnx").run(images)
    return values


def check_moments(copy: Network, *, tolerance: float = 1e-3) -> None:
    for name, moments in copy.moments.items():
        values = values_of(copy.model, name)
        np.testing.assert_allclose(values.mean((0, 2, 3)), moments.mean, atol=tolerance)
        np.testing.assert_allclose(values.std((0, 2, 3)), moments.deviation, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("opset", [13, 20])
def test_every_channel_has_the_moments_of_its_batch_norm(opset: int):
    network, copy, _ = normalised(network_of(opset=opset))
    assert list(copy.moments) == ["b", "e"]
    check_moments(copy)
    with pytest.raises(AssertionError):  # the source itself is far from them
        check_moments(network, tolerance=0.1)


@pytest.mark.parametrize(("batch", "size"), [("N", 1), ("N", 7), (1, 1), (5, 5)])
def test_small_batches_and_fixed_ones_come_to_about_the_same(batch: int | str, size: int):
    _, copy, _ = normalised(network_of(batch=batch), size=size)
    check_moments(copy, tolerance=0.1)


def test_the_source_itself_stays_as_it_was():
    network, copy, _ = normalised(network_of())
    fresh, _, _ = spiking.read(network_of(), (3, 8, 8))
    np.testing.assert_array_equal(values_of(network.model, "y"), values_of(fresh.model, "y"))
    assert copy.model is not network.model


def test_a_tensor_that_leaves_the_network_keeps_its_name():
    _, copy, _ = normalised(network_of(last="y = BatchNormalization (s, g1, b1, m1, v1)"))
    assert [output.name for output in copy.model.graph.outputs] == ["y"]
    check_moments(copy)


def test_shapes_tell_of_what_the_layers_themselves_put_out():
    _, _, shapes = normalised(network_of())
    assert shapes["b/raw"] == shapes["b"] == (1, 4, 8, 8)


def test_a_channel_that_hardly_moves_is_not_blown_up():
    images = np.zeros_like(IMAGES)
    images[:, 0, 0, 0] = 1e-6 * np.arange(48)
    _, copy, _ = normalised(network_of(), images=images)
    values = values_of(copy.model, "b", images)
    assert np.isfinite(values).all()
    assert np.abs(values - copy.moments["b"].mean.reshape(4, 1, 1)).max() < 0.01


def test_a_network_without_batch_norm_comes_back_as_it_is():
    network, copy, shapes = normalised(tiny.convolutional())
    assert copy is network
    assert shapes == spiking.read(tiny.convolutional(), (3, 8, 8))[2]


def test_what_the_sites_carry_follows_the_batch_norm_and_not_the_images():
    found = {}
    for gamma in (1, 4):
        network, plan, shapes = spiking.read(network_of(gamma=gamma), (3, 8, 8))
        copy, _ = normalise_source(network, shapes, spiking.batches_of(IMAGES, 48))
        for contrast in (0.5, 1):
            again, _ = normalise_source(network, shapes, spiking.batches_of(contrast * IMAGES, 48))
            seen = observe(again, plan, lambda c=contrast: spiking.batches_of(c * IMAGES, 48))
            found[gamma, contrast] = seen.statistics["c"].highest - network.moments["b"].mean
        assert copy.moments == network.moments
    np.testing.assert_allclose(found[1, 0.5], found[1, 1], rtol=1e-3)  # smaller images change nothing
    np.testing.assert_allclose(found[4, 1], 4 * found[1, 1], rtol=1e-3)  # a larger gamma does

"""Convolutions of one weight a channel: scales, which need no spikes."""

import pytest
import spiking
import tiny
from ingesting import BN, ingested, op_types, refusal

MAP = "float[N, 3, 8, 8]"


@pytest.mark.parametrize(
    ("layer", "others", "expected"),
    [
        ("Conv <group = 3> (x, w)", {}, ["Mul"]),
        ("Conv <group = 3, kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1]> (x, w)", {}, ["Mul"]),
        ("Conv <group = 3> (x, w, c)", {"c": tiny.weights(3)}, ["Mul", "Add"]),
        ("Conv <group = 3> (x, w, c)", {"c": tiny.weights(3) * 0}, ["Mul"]),
    ],
)
def test_a_convolution_of_one_weight_a_channel_becomes_a_product(layer: str, others: dict, expected: list[str]):
    proto = tiny.model(f"g ({MAP} x) => ({MAP} y) {{ [scale] y = {layer} }}", w=tiny.weights(3, 1, 1, 1), **others)
    network = ingested(proto)
    assert op_types(network) == expected
    assert network.model.graph[0].name == "scale"


def test_the_batch_norm_behind_it_goes_into_the_scale():
    body = "a = Conv <group = 3> (x, w)  y = BatchNormalization (a, g, b, m, v)"
    assert op_types(
        ingested(tiny.model(f"g ({MAP} x) => ({MAP} y) {{ {body} }}", w=tiny.weights(3, 1, 1, 1), **BN))
    ) == ["Mul", "Add"]


def test_an_image_of_open_size_that_is_scaled_first_is_still_one_of_colours():
    # A mean and a deviation baked into the network.
    proto = tiny.model(
        "g (float[N, C, H, W] x) => (float[N, D, H, W] y) { a = Conv <group = 3> (x, w, c)  y = Conv (a, v) }",
        w=tiny.weights(3, 1, 1, 1),
        c=tiny.weights(3),
        v=tiny.weights(4, 3, 1, 1),
    )
    assert ingested(proto).image.channels == 3


def test_one_factor_for_all_channels_does_not_tell_how_many_there_are():
    proto = tiny.model(
        "g (float[N, C, H, W] x) => (float[N, D, H, W] y) { a = Mul (x, k)  y = Conv (a, v) }",
        k=tiny.weights(1, 1, 1),
        v=tiny.weights(4, 3, 1, 1),
    )
    assert "is not a batch of grey or colour images" in refusal(proto)


@pytest.mark.parametrize(
    ("attributes", "shape", "channels"),
    [
        ("group = 3, strides = [2, 2]", (3, 1, 1, 1), 3),
        ("group = 3, pads = [1, 1, 1, 1]", (3, 1, 1, 1), 3),
        ("group = 3, pads = [1, 1, 1, 1]", (3, 1, 3, 3), 3),
        ("group = 3", (6, 1, 1, 1), 3),
        ("group = 1", (3, 3, 1, 1), 3),
        ("group = 1", (1, 3, 1, 1), 3),
        ("group = 1", (1, 1, 1, 1), 1),
    ],
)
def test_one_that_moves_or_sums_up_stays_a_convolution(attributes: str, shape: tuple[int, ...], channels: int):
    text = f"g (float[N, {channels}, 8, 8] x) => (float[N, C, H, W] y) {{ y = Conv <{attributes}> (x, w) }}"
    assert op_types(ingested(tiny.model(text, w=tiny.weights(*shape)), tiny.images(3, channels, 8, 8))) == ["Conv"]


def test_beside_a_larger_kernel_only_that_one_reads_spikes():
    # As RepViT and MobileOne have it before they are re-parameterised.
    body = """
        a = Conv (x, v)
        b = Relu (a)
        p = Conv <group = 3, pads = [1, 1, 1, 1]> (b, k)
        q = Conv <group = 3> (b, w)
        s = Add (p, q)
        y = Add (s, b)
    """
    weights = {"v": tiny.weights(3, 3, 1, 1), "k": tiny.weights(3, 1, 3, 3), "w": tiny.weights(3, 1, 1, 1)}
    _, plan, _ = spiking.read(tiny.model(f"g ({MAP} x) => ({MAP} y) {{ {body} }}", **weights), (3, 8, 8))
    assert [reader.node for site in plan.sites for reader in site.readers] == ["p"]

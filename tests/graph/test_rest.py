"""Neurons that rest at another value than 0: the graph equals the formula, whatever reads them, at every timestep."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import spiking
import tiny

from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.matching import apply_corrections
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.rest import resting_sites
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.parameters import Correction, NeuronParameters
from pmsm_cli.runtime.match import match_moments
from pmsm_cli.runtime.session import open_session
from pmsm_cli.sources.images import Batch

IMAGES = tiny.images(6)
FIRST = "a = Conv <pads = [1, 1, 1, 1]> (image, w)  b = Relu (a)"
FLAT = f"{FIRST}  p = GlobalAveragePool (b)  f = Flatten (p)"
LAST = f"{FIRST}  t = Transpose <perm = [0, 2, 3, 1]> (b)"
MAP, VECTOR, NHWC = "float[N, C, H, W]", "float[N, C]", "float[N, H, W, C]"
PADDED = "pads = [1, 1, 1, 1]"
# the site, its type, how it comes about; what reads it, and the shapes of the weights
CASES = {
    "conv": ("b", MAP, FIRST, "y = Conv (b, v, c)", {"v": (6, 4, 1, 1), "c": (6,)}),
    "conv without padding and bias": ("b", MAP, FIRST, "y = Conv (b, v)", {"v": (6, 4, 3, 3)}),
    "conv with padding": ("b", MAP, FIRST, f"y = Conv <{PADDED}> (b, v, c)", {"v": (6, 4, 3, 3), "c": (6,)}),
    "conv with padding, without bias": ("b", MAP, FIRST, f"y = Conv <{PADDED}> (b, v)", {"v": (6, 4, 3, 3)}),
    "strides, dilations and uneven padding": (
        "b", MAP, FIRST,
        "y = Conv <strides = [2, 1], dilations = [2, 3], pads = [2, 1, 0, 3]> (b, v, c)",
        {"v": (6, 4, 3, 2), "c": (6,)},
    ),
    "groups": ("b", MAP, FIRST, f"y = Conv <group = 2, {PADDED}> (b, v, c)", {"v": (6, 2, 3, 3), "c": (6,)}),
    "depthwise": ("b", MAP, FIRST, f"y = Conv <group = 4, {PADDED}> (b, v)", {"v": (8, 1, 3, 3)}),
    "same upper": (
        "b", MAP, FIRST, 'y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (b, v, c)', {"v": (6, 4, 3, 3), "c": (6,)}
    ),
    "same lower": ("b", MAP, FIRST, 'y = Conv <auto_pad = "SAME_LOWER"> (b, v)', {"v": (6, 4, 2, 4)}),
    "valid": ("b", MAP, FIRST, 'y = Conv <auto_pad = "VALID"> (b, v)', {"v": (6, 4, 2, 4)}),
    "two readers of different padding": (
        "b", MAP, FIRST, f"p = Conv <{PADDED}> (b, v, c)  q = Conv (b, u)  y = Add (p, q)",
        {"v": (6, 4, 3, 3), "u": (6, 4, 1, 1), "c": (6,)},
    ),
    "gemm": ("f", VECTOR, FLAT, "y = Gemm (f, v, c)", {"v": (4, 5), "c": (5,)}),
    "gemm, transposed, with factors": (
        "f", VECTOR, FLAT, "y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, v, c)", {"v": (5, 4), "c": (5,)}
    ),
    "gemm without C": ("f", VECTOR, FLAT, "y = Gemm <transB = 1, alpha = 3.0> (f, v)", {"v": (5, 4)}),
    "matmul": ("f", VECTOR, FLAT, "y = MatMul (f, v)", {"v": (4, 5)}),
    "matmul, weights on the left": ("b", MAP, FIRST, "y = MatMul (v, b)", {"v": (6, 8)}),
    "matmul, channels last": ("t", NHWC, LAST, "y = MatMul (t, v)", {"v": (4, 5)}),
}  # fmt: skip
LEVELS = {"negative_levels": 3, "positive_levels": 5}


def values_of(case: str) -> dict[str, np.ndarray]:
    shapes = CASES[case][4]
    return {name: tiny.weights(*shape, seed=index, scale=0.5) for index, (name, shape) in enumerate(shapes.items())}


def build(case: str) -> tuple[Network, SitePlan, dict[str, tuple[int, ...]]]:
    _, kind, before, reading, _ = CASES[case]
    text = f"g (float[N, 3, 8, 8] image) => ({kind} y) {{ {before}  {reading} }}"
    return spiking.read(tiny.model(text, w=tiny.weights(4, 3, 3, 3), **values_of(case)), (3, 8, 8))


def resting(channels: int, **levels: int) -> NeuronParameters:
    """Thresholds and resting counts that differ between channels; some rest below 0, some at it."""
    theta = np.linspace(0.1, 0.4, channels).astype(np.float32)
    rest = np.resize(np.array([3, 0, -2, 1, 4], np.float32), channels)
    return NeuronParameters(threshold=theta, rest=rest, **(levels or LEVELS))


def run(model: ir.Model, images: np.ndarray = IMAGES) -> list[np.ndarray]:
    return ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"image": images})


def spiking_graph(case: str) -> tuple[Network, SitePlan, dict[str, tuple[int, ...]], ir.Model]:
    network, plan, shapes = build(case)
    (site,) = plan.sites
    return network, plan, shapes, insert_neurons(network, plan, {site.name: resting(site.channels)}, shapes)


def by_formula(case: str) -> np.ndarray:
    """What the reader itself makes of the values that resting neurons carry."""
    name, kind, before, reading, _ = CASES[case]
    first = tiny.model(f"g (float[N, 3, 8, 8] image) => ({kind} {name}) {{ {before} }}", w=tiny.weights(4, 3, 3, 3))
    (value,) = ort.InferenceSession(first.SerializeToString()).run(None, {"image": IMAGES})
    (site,) = build(case)[1].sites
    neuron = resting(site.channels)
    along = (-1,) + (1,) * (-site.channel_axis - 1)
    theta, rest = neuron.threshold.reshape(along), neuron.rest.reshape(along)
    carried = theta * (np.clip(np.round((value - theta * rest) / theta), -3, 5) + rest)
    second = tiny.model(f"g ({kind} {name}) => ({kind} y) {{ {reading} }}", **values_of(case))
    return ort.InferenceSession(second.SerializeToString()).run(None, {name: carried})[0]


@pytest.mark.parametrize("case", CASES)
def test_every_operator_reads_what_resting_neurons_carry(case: str):
    network, plan, shapes, model = spiking_graph(case)
    assert resting_sites(network, plan, shapes) == {plan.sites[0].name}
    np.testing.assert_allclose(run(model)[0], by_formula(case), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_corrections_scale_what_rests_too_folded_or_not(case: str):
    _, plan, _, model = spiking_graph(case)
    if len(plan.sites[0].readers) > 1:
        pytest.skip("what two readers add up is no single correction")
    plain = run(model)[0]
    axis = {"matmul, weights on the left": 2, "matmul, channels last": 3}.get(case, 1)
    count = plain.shape[axis]
    scale, shift = np.linspace(0.6, 1.5, count, dtype=np.float32), np.linspace(-1, 1, count, dtype=np.float32)
    along = (-1,) + (1,) * (plain.ndim - 1 - axis)
    wanted = plain * scale.reshape(along) + shift.reshape(along)
    corrections = (Correction(node=plan.sites[0].readers[0].node, scale=scale, shift=shift),)
    for fold in (True, False):
        got = run(apply_corrections(model, corrections, fold=fold))[0]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "case", ["conv", "conv with padding", "depthwise", "two readers of different padding", "matmul"]
)
def test_matched_channels_have_the_mean_of_the_source(case: str):
    network, plan, shapes, model = spiking_graph(case)
    batch = Batch(inputs=IMAGES, labels=None, names=("",) * len(IMAGES))
    corrections = match_moments(network, plan, model, shapes, [batch])
    source = run(network.model)[0]
    axes = tuple(axis for axis in range(source.ndim) if axis != 1)
    assert np.abs(run(model)[0].mean(axes) - source.mean(axes)).max() > 1e-3
    for fold in (True, False):
        matched = run(apply_corrections(model, corrections, fold=fold))[0]
        np.testing.assert_allclose(matched.mean(axes), source.mean(axes), atol=1e-4)


def signed_chain():
    """Padded convolutions in a row: a site that is itself what a padded convolution of resting neurons puts out."""
    return tiny.model(
        """
        chain (float[N, 3, 8, 8] image) => (float[N, 5, 8, 8] scores) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Conv <pads = [1, 1, 1, 1], group = 4> (a, w2)
            c = Conv <pads = [1, 1, 1, 1]> (b, w3)
            d = Add (b, c)
            scores = Conv <pads = [1, 1, 1, 1]> (d, w4)
        }""",
        w1=tiny.weights(4, 3, 3, 3),
        w2=tiny.weights(4, 1, 3, 3),
        w3=tiny.weights(4, 4, 3, 3),
        w4=tiny.weights(5, 4, 3, 3),
    )


def fine(proto, shape=(3, 8, 8), levels: int = 500):
    """A network whose neurons rest here and there and clip nothing, with its source's outputs."""
    network, plan, shapes = spiking.read(proto, shape)
    may_rest = resting_sites(network, plan, shapes)
    neurons = {}
    for site in plan.sites:
        theta = np.linspace(0.5, 1, site.channels).astype(np.float32) * (100 / levels)
        rest = np.resize(np.array([2, -1, 0, 3], np.float32), site.channels) * (site.name in may_rest)
        neurons[site.name] = NeuronParameters(
            threshold=theta, rest=rest, negative_levels=levels, positive_levels=levels
        )
    assert any(not neuron.rests_at_zero for neuron in neurons.values())
    return network, plan, insert_neurons(network, plan, neurons, shapes)


@pytest.mark.parametrize("make", [signed_chain, tiny.residual, tiny.convolutional, tiny.channels_last])
def test_with_ample_levels_a_network_of_resting_neurons_is_its_source(make):
    """A site must read a convolution's output together with what rests, whatever lies between."""
    network, _, model = fine(make(), (8, 8, 3) if make is tiny.channels_last else (3, 8, 8), levels=50_000)
    images = IMAGES.transpose(0, 2, 3, 1).copy() if make is tiny.channels_last else IMAGES
    source = run(network.model, images)[0]
    np.testing.assert_allclose(run(model, images)[0], source, atol=0.02 * np.abs(source).max())


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("make", [signed_chain, tiny.residual, tiny.convolutional])
def test_the_output_tends_to_the_source_s_over_timesteps(make, coding: Coding):
    network, plan, model = fine(make())
    source = run(network.model)[0]
    steps = run(unroll_timesteps(model, plan, timesteps=4, coding=coding))[1]
    first = run(model)[0]
    np.testing.assert_allclose(steps[0], first, rtol=1e-4, atol=1e-5)
    errors = [float(np.sqrt(np.mean((step - source) ** 2))) for step in steps]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < {Coding.REFINE: 0.25, Coding.RATE: 0.6}[coding] * errors[0]


@pytest.mark.parametrize("timesteps", [1, 3])
def test_the_native_library_and_the_function_bodies_agree(timesteps: int):
    _, plan, model = fine(signed_chain())
    if timesteps > 1:
        model = unroll_timesteps(model, plan, timesteps=timesteps, coding=Coding.REFINE)
    for ours, stock in zip(open_session(model, subject="net", threads=1).run(IMAGES), run(model), strict=True):
        np.testing.assert_allclose(ours, stock, rtol=1e-5, atol=1e-5)


def reading(text: str, size: str = "S", **values: np.ndarray) -> frozenset[str]:
    graph = f"g (float[N, 3, {size}, {size}] image) => (float[N, C, H, W] y) {{ {FIRST}  {text} }}"
    network, plan, shapes = spiking.read(tiny.model(graph, w=tiny.weights(4, 3, 3, 3), **values), (3, 8, 8))
    return resting_sites(network, plan, shapes)


@pytest.mark.parametrize(
    ("attributes", "shape", "rests"),
    [
        ("", (6, 4, 3, 3), True),
        ('<auto_pad = "VALID">', (6, 4, 3, 3), True),
        ("<pads = [1, 1, 1, 1]>", (6, 4, 3, 3), False),
        ('<auto_pad = "SAME_UPPER", strides = [2, 2]>', (6, 4, 2, 2), False),  # pads nothing here, at odd sizes it does
        ("<strides = [3, 3], pads = [0, 0, 1, 1]>", (6, 4, 2, 2), False),
    ],
)
def test_of_an_open_image_size_only_what_never_pads_may_rest(attributes: str, shape: tuple[int, ...], rests: bool):
    assert reading(f"y = Conv {attributes} (b, v)", v=tiny.weights(*shape)) == ({"b"} if rests else set())
    assert reading(f"y = Conv {attributes} (b, v)", "8", v=tiny.weights(*shape)) == {"b"}


def test_what_a_product_or_a_transposed_convolution_reads_may_not_rest():
    assert reading("y = MatMul (b, b)", "8") == set()
    assert reading("y = ConvTranspose (b, v)", "8", v=tiny.weights(4, 2, 2, 2)) == set()
    both = "p = MatMul (b, b)  q = Conv (b, v)  y = Add (p, q)"
    assert reading(both, "8", v=tiny.weights(4, 4, 1, 1)) == set()

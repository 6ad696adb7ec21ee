"""Weights refitted layer by layer: less is missing after it, in every layout, and what cannot be refitted is matched."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import spiking
import tiny

from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.thresholds import choose_parameters
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.matching import apply_corrections
from pmsm_cli.graph.rest import resting_sites
from pmsm_cli.runtime.match import match_moments
from pmsm_cli.runtime.refit import Refitted, can_refit, refit
from pmsm_cli.runtime.staged import StagedRun

# Of a few patterns each, as pictures are: what one channel's spikes lose, those of the others tell.
IMAGES, OTHERS = (
    np.tensordot(tiny.images(count, 6, seed=count), tiny.images(6, 3, 8, 8, seed=1), 1) / 2 for count in (512, 64)
)
FIRST = "a = Conv <pads = [1, 1, 1, 1]> (image, w)  b = Relu (a)"
FLAT = f"{FIRST}  p = MaxPool <kernel_shape = [8, 8]> (b)  f = Flatten (p)"
MAP, VECTOR = "float[N, C, H, W]", "float[N, C]"
# what reads the spikes -> the type of its output, its graph and the shapes of its weights
REFITTED = {
    "conv": (MAP, f"{FIRST}  y = Conv (b, v, c)", {"v": (6, 4, 1, 1), "c": (6,)}),
    "strided, dilated, padded on one side": (
        MAP,
        f"{FIRST}  y = Conv <strides = [2, 1], dilations = [1, 2], pads = [0, 1, 2, 0]> (b, v)",
        {"v": (6, 4, 3, 2)},
    ),
    "padded automatically": (
        MAP,
        f'{FIRST}  y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (b, v)',
        {"v": (6, 4, 3, 3)},
    ),
    "depthwise conv": (MAP, f"{FIRST}  y = Conv <group = 4> (b, v, c)", {"v": (8, 1, 3, 3), "c": (8,)}),
    "gemm": (VECTOR, f"{FLAT}  y = Gemm (f, v, c)", {"v": (4, 5), "c": (5,)}),
    "gemm with what is the usual": (
        VECTOR,
        f"{FLAT}  y = Gemm <alpha = 1.0, beta = 1.0, transB = 1> (f, v, c)",
        {"v": (5, 4), "c": (5,)},
    ),
    "matmul": (VECTOR, f"{FLAT}  y = MatMul (f, v)", {"v": (4, 5)}),
    "matmul, weights on the left": (MAP, f"{FIRST}  y = MatMul (v, b)", {"v": (6, 8)}),
}
MATCHED = {
    "transposed conv": (MAP, f"{FIRST}  y = ConvTranspose <group = 2> (b, v, c)", {"v": (4, 3, 2, 2), "c": (6,)}),
    "gemm with alpha": (VECTOR, f"{FLAT}  y = Gemm <alpha = 0.5> (f, v, c)", {"v": (4, 5), "c": (5,)}),
}


def source(name: str) -> onnx.ModelProto:
    output, body, shapes = (REFITTED | MATCHED)[name]
    values = {key: tiny.weights(*shape, seed=index, scale=0.5) for index, (key, shape) in enumerate(shapes.items())}
    text = f"g (float[N, 3, 8, 8] image) => ({output} y) {{ {body} }}"
    return tiny.model(text, w=tiny.weights(4, 3, 3, 3), **values)


class Case:
    """A source with neurons of few levels, and its conversions with and without refitted weights."""

    def __init__(self, proto: onnx.ModelProto, *, levels: int = 2, rest: bool = True) -> None:
        self.network, self.plan, self.shapes = spiking.read(proto, (3, 8, 8))
        resting = resting_sites(self.network, self.plan, self.shapes) if rest else ()
        neurons = {
            name: choose_parameters(statistics, Method.ENTROPY, levels, may_rest=name in resting)
            for name, statistics in spiking.seen(self.network, self.plan, IMAGES).statistics.items()
        }
        self.flat = insert_neurons(self.network, self.plan, neurons, self.shapes)

    def refitted(self, images: np.ndarray = IMAGES) -> Refitted:
        batches = np.split(images, 16) if len(images) else []
        return refit(self.network, self.plan, self.flat, self.shapes, batches, seed=0, threads=1)

    def matched(self) -> ir.Model:
        batches = spiking.batches_of(IMAGES, len(IMAGES))
        corrections = match_moments(self.network, self.plan, self.flat, self.shapes, batches, threads=1)
        return apply_corrections(self.flat, corrections, fold=True)

    def missing(self, model: ir.Model) -> float:
        """The power of what is missing to the source's output on images that nobody saw."""
        return float(np.square(run(model) - run(self.network.model)).mean())


def run(model: ir.Model, images: np.ndarray = OTHERS) -> np.ndarray:
    return ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"image": images})[0]


@pytest.mark.parametrize("rest", [True, False])
@pytest.mark.parametrize("name", REFITTED)
def test_less_is_missing_on_new_images_than_with_matched_moments_alone(name: str, rest: bool):
    case = Case(source(name), rest=rest)
    refitted = case.refitted()
    assert refitted.synapses == 1
    assert case.missing(refitted.model) < case.missing(case.matched())


@pytest.mark.parametrize("name", MATCHED)
def test_other_synapses_have_their_moments_matched_and_nothing_else(name: str):
    case = Case(source(name))
    refitted = case.refitted()
    assert refitted.synapses == 0
    np.testing.assert_allclose(run(refitted.model), run(case.matched()), atol=1e-4)


@pytest.mark.parametrize("proto", [tiny.convolutional(), tiny.residual()])
def test_every_layer_is_refitted_behind_refitted_ones(proto: onnx.ModelProto):
    case = Case(proto, levels=1)
    refitted = case.refitted()
    assert refitted.synapses == sum(len(site.readers) for site in case.plan.sites)
    assert case.missing(refitted.model) < case.missing(case.matched())


def test_what_is_missing_in_a_sum_the_branch_that_is_settled_last_makes_good_for(monkeypatch: pytest.MonkeyPatch):
    # A transposed convolution is only matched; the convolution reads the same spikes and knows what that one misses.
    body = f"{FIRST}  p = ConvTranspose (b, u)  q = Conv (b, v)  y = Add (p, q)"
    weights = {"u": tiny.weights(4, 6, 1, 1, seed=1), "v": tiny.weights(6, 4, 1, 1, seed=2)}
    proto = tiny.model(f"g (float[N, 3, 8, 8] image) => ({MAP} y) {{ {body} }}", w=tiny.weights(4, 3, 3, 3), **weights)
    case = Case(proto)
    together = case.missing(case.refitted().model)
    monkeypatch.setattr(
        "pmsm_cli.runtime.refit.settled_addends", lambda _graph, readers, _shapes: dict.fromkeys(readers, ())
    )
    assert together < case.missing(case.refitted().model)


def test_an_addend_that_is_infinite_somewhere_is_left_out():
    # Silence has no logarithm.
    body = f"{FIRST}  p = Conv (b, u)  r = Relu (p)  l = Log (r)  q = Conv (b, v)  s = Add (l, q)  y = Relu (s)"
    weights = {"u": tiny.weights(6, 4, 1, 1, seed=1), "v": tiny.weights(6, 4, 1, 1, seed=2)}
    proto = tiny.model(f"g (float[N, 3, 8, 8] image) => ({MAP} y) {{ {body} }}", w=tiny.weights(4, 3, 3, 3), **weights)
    assert Case(proto).refitted().synapses == 2


def test_the_same_images_give_the_same_weights_and_the_graph_handed_in_stays_as_it_is():
    case = Case(tiny.convolutional())
    before = ir.to_proto(case.flat).SerializeToString()
    first, second = (ir.to_proto(case.refitted().model).SerializeToString() for _ in range(2))
    assert first == second
    assert ir.to_proto(case.flat).SerializeToString() == before


def test_without_images_nothing_changes():
    case = Case(tiny.convolutional())
    refitted = case.refitted(IMAGES[:0])
    assert refitted.synapses == 0
    assert refitted.model is case.flat


def test_networks_with_control_flow_are_not_run_layer_by_layer():
    text = """g (float[N, 2] image, bool early) => (float[N, 2] y) {
        y = If (early) <then_branch = a () => (float[N, 2] p) { p = Relu (image) },
                        else_branch = b () => (float[N, 2] q) { q = Neg (image) }>
    }"""
    assert not can_refit(ir.from_proto(tiny.model(text)))
    assert can_refit(ir.from_proto(tiny.convolutional()))


def test_a_staged_run_gives_what_the_whole_graph_gives_and_sees_constants_replaced_meanwhile():
    model = ir.from_proto(tiny.convolutional())
    staged = StagedRun(model, np.split(OTHERS, 4), subject="x", threads=1)
    assert [part.shape for part in staged.advance("b")] == [(16, 4, 8, 8)] * 4
    bias = model.graph.initializers["b3"]
    bias.const_value = ir.tensor(bias.const_value.numpy() + 1, name="b3")
    got = np.concatenate(list(staged.advance("scores")))
    np.testing.assert_allclose(got, run(ir.from_proto(tiny.convolutional())) + 1, atol=1e-5)


def test_a_staged_run_goes_on_from_what_was_put_in_place_of_a_tensor():
    staged = StagedRun(ir.from_proto(tiny.residual()), [OTHERS], subject="x", threads=1)
    first = ir.from_proto(tiny.residual()).graph[0].outputs[0].name
    (there,) = staged.advance(first)
    staged.replace(first, np.zeros_like)
    (silent,) = staged.advance("scores")
    assert there.any()
    assert np.ptp(silent, axis=0).max() < 1e-5  # no image is left in it

"""Convolutions of codes on the library against their definition, on every kind of shape, with and without what follows."""

import numpy as np
import onnxruntime
import pytest
from layers import DENSE, LAYERS, Layer, sums
from native import run_operator
from onnx import TensorProto, helper, numpy_helper

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")


def rounded(numbers: np.ndarray, zero: np.ndarray, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    return np.clip(np.round(numbers) + zero, lowest, highest)


class Made:
    """A layer's constants: numbers that float32 holds exactly, so that there is one right answer."""

    def __init__(self, layer: Layer, *, images: int = 2, padding: int = 0, wild: bool = False) -> None:
        random = np.random.default_rng((layer.channels, layer.outputs, padding))
        outputs, inputs = layer.outputs, 1 if layer.depthwise else layer.channels
        self.layer, self.padding = layer, padding
        self.codes = random.integers(0, 256, (images, *layer.image, layer.channels)).astype(np.uint8)
        self.weights = random.integers(-127, 128, (outputs, inputs, *layer.kernel)).astype(np.int8)
        self.bias = random.integers(-999, 999, outputs).astype(np.int32)
        self.factor = 2.0 ** -random.integers(8, 11, outputs).astype(np.float32)
        if wild:  # a channel that hardly needs anything to spike as much as it can
            self.factor[-1] = 2.0**40
        self.rounding = [self._bounds(random) for _ in range(3)]
        one = np.ones(outputs, np.float32)
        self.own, self.other, self.term = one / 4, one / 2, random.integers(-40, 40, outputs).astype(np.float32) / 4
        self.firing = random.choice([-0.5, 0.125, 2.0], outputs).astype(np.float32)
        self.resting = random.integers(-40, 40, outputs).astype(np.float32) / 8

    def _bounds(self, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        ranges = ((0, 99), (0, 60), (60, 256))
        return tuple(random.integers(*each, self.layer.outputs).astype(np.uint8) for each in ranges)

    def inputs(self) -> dict[str, np.ndarray]:
        named = dict(zip(("zero", "lowest", "highest"), self.rounding[0], strict=True))
        padding = np.array([self.padding], np.uint8)
        layer = {"weights": self.weights, "padding": padding, "bias": self.bias, "factor": self.factor}
        return {"codes": self.codes, **layer, **named}

    def expected(self) -> np.ndarray:
        total = sums(self.layer, self.codes, self.weights, self.padding) + self.bias
        return rounded(total * self.factor.astype(np.float64), *self.rounding[0])


def run(made: Made, inputs: dict[str, np.ndarray], *, outputs: int = 1, threads: int = 2, **attributes: int):
    fed = ("codes", "others")
    constant = [name for name in inputs if name not in fed]
    results = dict([("y", "uint8"), ("neurons", "uint8")][:outputs])
    return run_operator(
        "ConvolutionCodes",
        inputs,
        results,
        constant=constant,
        threads=threads,
        **(made.layer.attributes | {"adds": 0, "fires": 0} | attributes),
    )


@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("padding", [0, 77])
@pytest.mark.parametrize("name", LAYERS)
def test_codes_are_those_of_the_definition(name, padding, wild):
    made = Made(LAYERS[name], padding=padding, wild=wild)
    (got,) = run(made, made.inputs())
    np.testing.assert_array_equal(got, made.expected())


def with_sum(made: Made, inputs: dict[str, np.ndarray], others: np.ndarray) -> dict[str, np.ndarray]:
    named = dict(zip(("sum_zero", "sum_lowest", "sum_highest"), made.rounding[1], strict=True))
    return {**inputs, "others": others, "own": made.own, "other": made.other, "term": made.term, **named}


def with_neurons(made: Made, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    named = dict(zip(("n_zero", "n_lowest", "n_highest"), made.rounding[2], strict=True))
    return {**inputs, "firing": made.firing, "resting": made.resting, **named}


@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("fires", [False, True])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("name", DENSE)
def test_sums_and_neurons_come_of_the_same_pass(name, adds, fires, wild):
    made = Made(DENSE[name], padding=3, wild=wild)
    inputs, expected = made.inputs(), made.expected()
    if adds:
        others = np.random.default_rng(5).integers(0, 256, expected.shape).astype(np.uint8)
        inputs = with_sum(made, inputs, others)
        expected = rounded(expected * made.own + others * made.other + made.term, *made.rounding[1])
    if fires:
        left_out = {} if adds else {f"none{index}": np.empty(0, np.uint8) for index in range(7)}
        inputs = with_neurons(made, {**inputs, **left_out})
    got = run(made, inputs, outputs=1 + fires, adds=int(adds), fires=int(fires))
    np.testing.assert_array_equal(got[0], expected)
    if fires:
        np.testing.assert_array_equal(got[1], rounded(expected * made.firing + made.resting, *made.rounding[2]))


@pytest.mark.parametrize("name", ["many places", "heavy weights", "each of few channels"])
def test_threads_make_no_difference(name):
    made = Made(LAYERS[name], images=5)
    one, three = (run(made, made.inputs(), threads=threads)[0] for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("name", LAYERS)
def test_no_image_gives_no_codes(name):
    made = Made(LAYERS[name], images=0)
    (got,) = run(made, made.inputs())
    assert got.shape == made.expected().shape


def test_an_image_smaller_than_the_kernel_gives_no_codes():
    made = Made(Layer(image=(2, 5), pads=(0, 0, 0, 0)))
    (got,) = run(made, made.inputs())
    assert got.shape == (2, 0, 3, 16)


def test_a_bias_as_large_as_can_be_stays_one():
    made = Made(Layer(kernel=(1, 1), pads=(0, 0, 0, 0)))
    made.bias = np.full(16, 2**30, np.int32)
    made.factor = np.full(16, 2.0**-24, np.float32)
    (got,) = run(made, made.inputs())
    np.testing.assert_array_equal(got, made.expected())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codes": np.zeros((1, 6, 7, 5), np.uint8)}, "do not have 16 channels last"),
        ({"codes": np.zeros((6, 7, 16), np.uint8)}, "do not have 16 channels last"),
        ({"factor": np.zeros(3, np.float32)}, "has 3 elements, where there are 16 output channels"),
        ({"weights": np.zeros((16, 16, 3), np.int8)}, "weights of shape"),
    ],
)
def test_what_does_not_fit_is_said(wrong, message):
    made = Made(Layer())
    with pytest.raises(Exception, match=message):
        run(made, {**made.inputs(), **wrong})


@pytest.mark.parametrize(
    ("attribute", "message"),
    [("group", "groups of more than one"), ("stride_x", "dilation of 0"), ("top", "top is below 0")],
)
def test_windows_that_make_no_sense_are_said(attribute, message):
    made = Made(Layer())
    with pytest.raises(Exception, match=message):
        run(made, made.inputs(), **{attribute: {"group": 4, "top": -1}.get(attribute, 0)})


def test_a_factor_that_is_no_number_leaves_the_other_channels_as_they_are():
    made = Made(Layer())
    expected = made.expected()
    made.factor[3] = np.nan
    (got,) = run(made, made.inputs())
    np.testing.assert_array_equal(np.delete(got, 3, axis=3), np.delete(expected, 3, axis=3))


def test_a_tensor_of_another_shape_is_not_added():
    made = Made(Layer())
    inputs = with_sum(made, made.inputs(), np.zeros((2, 6, 6, 16), np.uint8))
    with pytest.raises(Exception, match="what is added has shape"):
        run(made, inputs, adds=1)


@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("own_first", [True, False])
def test_sums_are_rounded_as_onnxruntime_rounds_them(own_first, wild):
    """All pairs of codes, with steps whose products fall between two codes."""
    one, other = (each.reshape(1, 256, 256, 1).astype(np.uint8) for each in np.mgrid[0:256, 0:256])
    steps, zeros = np.float32([0.0371, 0.0518, 0.0612]), [101, 130, 117]
    operands = [one, other] if own_first else [other, one]
    expected = _sum_of_codes(operands, steps, zeros)
    layer = Layer(image=(256, 256), channels=1, outputs=1, kernel=(1, 1), pads=(0, 0, 0, 0))
    made = Made(layer)
    made.codes, made.weights, made.bias = one, np.full((1, 1, 1, 1), 1, np.int8), np.zeros(1, np.int32)
    made.factor, nothing = np.ones(1, np.float32), np.zeros(1, np.uint8)
    made.rounding = [(nothing, nothing, np.full(1, 255, np.uint8))] * 2
    factors = steps[:2] / steps[2]
    term = np.float32(zeros[2]) - (factors[0] * np.float32(zeros[0]) + factors[1] * np.float32(zeros[1]))
    own, others = (0, 1) if own_first else (1, 0)
    made.own, made.other, made.term = factors[[own]], factors[[others]], term.reshape(1)
    inputs = with_sum(made, made.inputs(), other)
    if wild:  # the kernel for any processor
        inputs["factor"], inputs["weights"] = np.full(1, 2.0**40, np.float32), np.zeros((1, 1, 1, 1), np.int8)
        inputs["codes"] = np.zeros_like(one)
        expected = _sum_of_codes(
            [np.zeros_like(one), other] if own_first else [other, np.zeros_like(one)], steps, zeros
        )
        inputs["bias"] = np.full(1, 0, np.int32)
    (got,) = run(made, inputs, adds=1 if own_first else 2)
    np.testing.assert_array_equal(got, expected)


def _sum_of_codes(operands: list[np.ndarray], steps: np.ndarray, zeros: list[int]) -> np.ndarray:
    """What onnxruntime's QLinearAdd makes of them."""
    names = [(f"{name}_step", f"{name}_zero") for name in "abc"]
    constants = [
        numpy_helper.from_array(np.asarray(value, kind), name)
        for (step, zero), step_value, zero_value in zip(names, steps, zeros, strict=True)
        for name, value, kind in ((step, step_value, np.float32), (zero, zero_value, np.uint8))
    ]
    inputs = ["a", *names[0], "b", *names[1], *names[2]]
    graph = helper.make_graph(
        [helper.make_node("QLinearAdd", inputs, ["y"], domain="com.microsoft")],
        "sum",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in "ab"],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        constants,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip("ab", operands, strict=True)))[0]

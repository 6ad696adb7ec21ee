"""Opsets from 7 to the latest: what changed its form on the way gives the same outputs."""

import numpy as np
import onnx
import pytest
import tiny
from ingesting import BN, floats, ingested, refusal, with_weights_as_inputs

LATEST = onnx.defs.onnx_opset_version()

# Operators whose form or meaning changed on the way from opset 7: (opsets, body, weights)
OLD_FORMS = {
    "BatchNormalization": ((7, 12), "y = BatchNormalization <epsilon = 0.01> (x, g, b, m, v)", BN),
    "Dropout with a ratio": ((7, 11), "y = Dropout <ratio = 0.3> (x)", {}),
    "Dropout": ((12, 12), "y = Dropout (x)", {}),
    "Clip with attributes": ((7, 10), "y = Clip <min = 0.0, max = 0.7> (x)", {}),
    "Clip": ((11, 12), "y = Clip (x, lo, hi)", {"lo": np.float32(-0.1), "hi": np.float32(0.7)}),
    "Pad with attributes": ((7, 10), "y = Pad <pads = [0, 0, 1, 2, 0, 0, 3, 0], value = 0.5> (x)", {}),
    "Pad, reflecting": ((7, 10), 'y = Pad <mode = "reflect", pads = [0, 0, 1, 2, 0, 0, 3, 0]> (x)', {}),
    "Upsample": ((7, 8), 'y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]> (x)', {}),
    "Upsample by fractions": ((7, 8), 'y = Upsample <mode = "nearest", scales = [1.0, 1.0, 1.5, 1.7]> (x)', {}),
    "Upsample, linear": ((7, 8), 'y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 1.5]> (x)', {}),
    "Upsample by an input": ((9, 9), 'y = Upsample <mode = "linear"> (x, s)', {"s": floats(1, 1, 2, 2)}),
    "Resize, nearest": ((10, 10), 'y = Resize <mode = "nearest"> (x, s)', {"s": floats(1, 1, 1.5, 2.5)}),
    "Resize, shrinking": ((10, 10), 'y = Resize <mode = "nearest"> (x, s)', {"s": floats(1, 1, 0.4, 0.3)}),
    "Resize, linear": ((10, 10), 'y = Resize <mode = "linear"> (x, s)', {"s": floats(1, 1, 0.4, 1.5)}),
    "Resize": ((11, 12), 'y = Resize <mode = "nearest"> (x, r, s)', {"r": floats(), "s": floats(1, 1, 1.5, 0.4)}),
    "Resize to a size": (
        (11, 12),
        'y = Resize <mode = "cubic", coordinate_transformation_mode = "align_corners"> (x, r, r, z)',
        {"r": floats(), "z": np.array([3, 3, 5, 6])},
    ),
    "Softmax over the rest": ((7, 12), "y = Softmax (x)", {}),
    "Softmax of the last axis": ((11, 12), "y = Softmax <axis = -1> (x)", {}),
    "LogSoftmax": ((7, 12), "y = LogSoftmax <axis = 2> (x)", {}),
    "Squeeze": ((7, 12), "p = GlobalAveragePool (x) y = Squeeze <axes = [2, 3]> (p)", {}),
    "Unsqueeze": ((7, 12), "f = Flatten (x) y = Unsqueeze <axes = [0, 3]> (f)", {}),
    "Slice with attributes": (
        (7, 9),
        "y = Slice <axes = [1, 2], starts = [0, 1], ends = [2, 9223372036854775807]> (x)",
        {},
    ),
    "Slice": ((10, 12), "y = Slice (x, s, e, a)", {"s": np.array([1]), "e": np.array([-1]), "a": np.array([3])}),
    "Reshape": ((7, 12), "y = Reshape (x, s)", {"s": np.array([0, -1])}),
    "Gemm": (
        (7, 12),
        "f = Flatten (x) y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, w, c)",
        {"w": tiny.weights(5, 192), "c": tiny.weights(1, 5)},
    ),
    "Gemm plus a number": (
        (7, 12),
        "f = Flatten (x) y = Gemm (f, w, c)",
        {"w": tiny.weights(192, 5), "c": floats(0.5)},
    ),
    "AveragePool": (
        (7, 12),
        "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 0, 1], strides = [2, 2], count_include_pad = 1> (x)",
        {},
    ),
    "MaxPool": ((7, 12), 'y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"> (x)', {}),
    "GlobalAveragePool": ((7, 12), "y = GlobalAveragePool (x)", {}),
    "ReduceMean": ((7, 12), "y = ReduceMean <axes = [2, 3], keepdims = 0> (x)", {}),
    "ReduceSum": ((7, 12), "y = ReduceSum <axes = [1]> (x)", {}),
    "ConvTranspose": (
        (7, 12),
        "y = ConvTranspose <strides = [2, 2], pads = [1, 0, 1, 0], output_padding = [1, 0]> (x, w, c)",
        {"w": tiny.weights(3, 4, 3, 3), "c": tiny.weights(4)},
    ),
    "Split": ((7, 12), "p, q = Split <axis = 1, split = [1, 2]> (x) y = Concat <axis = 1> (q, p)", {}),
    "TopK": ((7, 9), "f = Flatten (x) y, i = TopK <k = 3> (f)", {}),
    "Activations": (
        (7, 12),
        "a = LeakyRelu (x) c = HardSigmoid (a) d = Elu (c) h = PRelu (d, p) y = Sum (h, x)",
        {"p": tiny.weights(3, 1, 1)},
    ),
    "Flattening by hand": (
        (7, 12),
        """h = Shape (x) zero = Constant <value = int64 {0}> () n = Gather (h, zero) one = Unsqueeze <axes = [0]> (n)
           rest = Constant <value = int64[1] {-1}> () s = Concat <axis = 0> (one, rest) y = Reshape (x, s)""",
        {},
    ),
}


@pytest.mark.parametrize("form", OLD_FORMS)
def test_old_opsets_give_the_same_outputs(form: str):
    (first, last), body, weights = OLD_FORMS[form]
    for opset in range(first, last + 1):
        text = f"g (float[N, 3, 8, 8] x) => (float y) {{ {body} }}"
        proto = tiny.model(text, opset=opset, ir_version=8, **weights)
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        network = ingested(proto if opset % 2 else with_weights_as_inputs(proto))
        assert network.opset == 17


@pytest.mark.parametrize("opset", range(13, LATEST + 1))
def test_current_opsets_are_kept_as_they_are(opset: int):
    assert ingested(tiny.batch_norm(opset=opset)).opset == opset


@pytest.mark.parametrize(
    ("opset", "body", "weights", "culprit"),
    [
        (
            7,
            "a = Relu (x) y = BatchNormalization <spatial = 0> (a, g, b, m, v)",
            {name: np.ones((3, 8, 8), np.float32) for name in "gbmv"},
            "y: BatchNormalization: Attribute spatial must have value 1",
        ),
        (12, "y = Hardmax (x)", {}, "y: Hardmax"),
    ],
)
def test_an_operator_that_cannot_be_converted_is_named(opset: int, body: str, weights: dict, culprit: str):
    proto = tiny.model(f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {{ {body} }}", opset=opset, **weights)
    assert refusal(proto) == (
        f"net.onnx: cannot be converted from opset {opset}\n  {culprit}\n"
        "hint: export the network again with a current exporter"
    )


def test_a_resize_that_no_later_opset_can_express_is_refused():
    proto = tiny.model(
        'g (float[N, 3, 8, 8] x) => (float[N, 3, h, w] y) { y = Resize <mode = "nearest"> (x, s) }',
        opset=10,
        s=floats(1, 1, 0.4, 1.5),
    )
    assert "one side up and one side down" in refusal(proto)


def test_opset_6_is_refused():
    proto = tiny.model("g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu (x) }", opset=6)
    assert refusal(proto).startswith("net.onnx: is written in opset 6; the oldest that can be converted is 7\n")

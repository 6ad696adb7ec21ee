"""Each operator of the interpreter against onnxruntime, on graphs of one node."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import tiny
import torch

from pmsm_cli.errors import UnsupportedGraphError
from pmsm_cli.finetune.interpreter import TorchGraph
from pmsm_cli.finetune.operators import OPERATORS

MAP = (2, 4, 6, 7)  # images, channels, rows, columns
ROWS = (2, 5, 8)
W = tiny.weights


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


CASES: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    # convolutions and products
    "Conv": ("Conv <pads = [1, 2, 1, 2], strides = [2, 1]> (x, w, b)", {"w": W(3, 4, 3, 3), "b": W(3)}),
    "Conv with uneven padding": ("Conv <pads = [0, 1, 2, 0]> (x, w)", {"w": W(3, 4, 3, 3)}),
    "Conv in groups": ("Conv <group = 2, dilations = [2, 1]> (x, w)", {"w": W(6, 2, 3, 3)}),
    "Conv same upper": ('Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)', {"w": W(3, 4, 3, 3)}),
    "Conv same lower": ('Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, w)', {"w": W(3, 4, 2, 2)}),
    "Conv valid": ('Conv <auto_pad = "VALID"> (x, w)', {"w": W(3, 4, 3, 3)}),
    "Conv of one dimension": ("Conv <pads = [1, 1]> (r, w)", {"w": W(3, 5, 3)}),
    "ConvTranspose": ("ConvTranspose <strides = [2, 2], pads = [1, 0, 0, 1]> (x, w, b)", {"w": W(4, 3, 3, 3), "b": W(3)}),
    "ConvTranspose with output padding": (
        "ConvTranspose <strides = [3, 3], output_padding = [2, 1], group = 2> (x, w)",
        {"w": W(4, 2, 2, 2)},
    ),
    "ConvTranspose of stated shape": (
        "ConvTranspose <strides = [2, 2], output_shape = [12, 14]> (x, w)",
        {"w": W(4, 3, 3, 3)},
    ),
    "Gemm": ("Gemm <transB = 1> (f, w, b)", {"w": W(3, 8), "b": W(3)}),
    "Gemm scaled": ("Gemm <alpha = 0.5, beta = 2.0, transA = 1> (f, w, b)", {"w": W(10, 3), "b": W(8, 3)}),
    "MatMul": ("MatMul (r, w)", {"w": W(8, 3)}),
    "MatMul of activations": ("MatMul (r, t)", {}),
    "Einsum": ('Einsum <equation = "nab, bc -> nac"> (r, w)', {"w": W(8, 3)}),
    # element by element
    **{
        name: (f"{name} (x)", {})
        for name in ["Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Celu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "ThresholdedRelu", "Reciprocal"]
    },
    "Log": ("Log (p)", {}),
    "Sqrt": ("Sqrt (p)", {}),
    "Gelu by tanh": ('Gelu <approximate = "tanh"> (x)', {}),
    "PRelu": ("PRelu (x, s)", {"s": W(4, 1, 1)}),
    **{name: (f"{name} (x, c)", {"c": W(4, 1, 1) + floats(2.0)}) for name in ("Add", "Sub", "Mul", "Div")},
    "Pow": ("Pow (p, c)", {"c": np.float32(1.5)}),
    "Pow by element": ("Pow (p, c)", {"c": np.abs(W(4, 1, 1))}),
    "Max": ("Max (x, c, d)", {"c": W(4, 1, 1), "d": np.float32(0.1)}),
    "Min": ("Min (x, c)", {"c": W(7)}),
    "Sum": ("Sum (x, c, x)", {"c": W(7)}),
    "Clip": ("Clip (x, lo, hi)", {"lo": np.float32(-0.5), "hi": np.float32(0.25)}),
    "Clip below": ("Clip (x, lo)", {"lo": np.float32(-0.5)}),
    "Mod": ("Mod <fmod = 1> (x, c)", {"c": np.float32(0.7)}),
    # normalisation
    "Softmax": ("Softmax <axis = 1> (x)", {}),
    "LogSoftmax": ("LogSoftmax (x)", {}),
    "LayerNormalization": ("LayerNormalization <epsilon = 0.01> (x, s, b)", {"s": W(7), "b": W(7, seed=1)}),
    "LayerNormalization of two axes": ("LayerNormalization <axis = -2> (x, s)", {"s": W(6, 7)}),
    "GroupNormalization": ("GroupNormalization <num_groups = 2> (x, s, b)", {"s": W(4), "b": W(4, seed=1)}),
    "InstanceNormalization": ("InstanceNormalization (x, s, b)", {"s": W(4), "b": W(4, seed=1)}),
    "RMSNormalization": ("RMSNormalization <axis = -1> (x, s)", {"s": W(7)}),
    "BatchNormalization": (
        "BatchNormalization <epsilon = 0.01> (x, s, b, m, v)",
        {"s": W(4), "b": W(4, seed=1), "m": W(4, seed=2), "v": np.abs(W(4, seed=3)) + floats(0.5)},
    ),
    "LpNormalization": ("LpNormalization <axis = 1, p = 2> (x)", {}),
    # pooling
    "GlobalAveragePool": ("GlobalAveragePool (x)", {}),
    "GlobalMaxPool": ("GlobalMaxPool (x)", {}),
    "AveragePool": ("AveragePool <kernel_shape = [2, 3], strides = [2, 1]> (x)", {}),
    "AveragePool padded": ("AveragePool <kernel_shape = [3, 3], pads = [1, 0, 1, 2]> (x)", {}),
    "AveragePool counting": ("AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)", {}),
    "AveragePool ceiling": ("AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)", {}),
    "MaxPool": ("MaxPool <kernel_shape = [3, 3], pads = [1, 1, 0, 1], strides = [2, 2]> (x)", {}),
    "MaxPool ceiling": ("MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)", {}),
    "MaxPool dilated": ("MaxPool <kernel_shape = [2, 2], dilations = [2, 2]> (x)", {}),
    # reductions
    **{
        f"Reduce{kind}": (f"Reduce{kind} <keepdims = {keep}> (p, a)", {"a": ints(1, -1)})
        for kind, keep in (
            ("Mean", 1), ("Sum", 0), ("Max", 1), ("Min", 0), ("L1", 1), ("L2", 1), ("SumSquare", 0), ("LogSumExp", 1), ("Prod", 0),
        )
    },
    "ReduceMean of all": ("ReduceMean (x)", {}),
    "ReduceSum of none": ("ReduceSum <noop_with_empty_axes = 1> (x)", {}),
    "CumSum": ("CumSum <exclusive = 1, reverse = 1> (x, a)", {"a": np.array(2, np.int64)}),
    # moving values about
    "Reshape": ("Reshape (x, s)", {"s": ints(0, -1, 3)}),
    "Flatten": ("Flatten <axis = 2> (x)", {}),
    "Transpose": ("Transpose <perm = [0, 2, 3, 1]> (x)", {}),
    "Transpose reversed": ("Transpose (x)", {}),
    "Concat": ("Concat <axis = -1> (x, x)", {}),
    "Slice": ("Slice (x, s, e, a)", {"s": ints(1, -3), "e": ints(100, -1), "a": ints(2, 3)}),
    "Slice in steps": ("Slice (x, s, e, a, d)", {"s": ints(0), "e": ints(7), "a": ints(3), "d": ints(2)}),
    "Slice backwards": ("Slice (x, s, e, a, d)", {"s": ints(-1), "e": ints(-100), "a": ints(3), "d": ints(-2)}),
    "Slice backwards to the second": ("Slice (x, s, e, a, d)", {"s": ints(5), "e": ints(1), "a": ints(3), "d": ints(-1)}),
    "Pad": ("Pad (x, p0, c)", {"p0": ints(0, 1, 0, 2, 0, 0, 1, -1), "c": np.float32(0.5)}),
    "Pad of some axes": ("Pad (x, p0, , a)", {"p0": ints(1, 2, 0, 1), "a": ints(-1, 1)}),
    "Pad mirrored": ('Pad <mode = "reflect"> (x, p0)', {"p0": ints(0, 0, 2, 1, 0, 0, 1, 3)}),
    "Pad by the edge": ('Pad <mode = "edge"> (x, p0)', {"p0": ints(0, 0, 2, 1, 0, 0, 1, 3)}),
    "Pad wrapped": ('Pad <mode = "wrap"> (x, p0)', {"p0": ints(0, 0, 2, 1, 0, 0, 1, 3)}),
    "Gather": ("Gather <axis = 2> (x, i)", {"i": np.array([[0, -1], [2, 2]], np.int64)}),
    "Gather of one": ("Gather <axis = 1> (x, i)", {"i": np.array(1, np.int64)}),
    "GatherElements": ("GatherElements <axis = 3> (x, i)", {"i": np.random.default_rng(0).integers(-7, 7, MAP)}),
    "Squeeze": ("Squeeze (one, a)", {"a": ints(-1, 1)}),
    "Unsqueeze": ("Unsqueeze (x, a)", {"a": ints(0, -1)}),
    "Expand": ("Expand (one, s)", {"s": ints(3, 1, 4)}),
    "Tile": ("Tile (x, s)", {"s": ints(1, 2, 1, 3)}),
    "Where": ("Where (q, x, c)", {"q": np.array([True, False, True, False]).reshape(4, 1, 1), "c": np.float32(3)}),
    "Resize nearest": ("Resize (x, , k)", {"k": floats(1, 1, 2, 2)}),
    "Resize nearest to a size": (
        'Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , , z)',
        {"z": ints(2, 4, 9, 4)},
    ),
    "Resize smaller": ('Resize <nearest_mode = "round_prefer_ceil"> (x, , k)', {"k": floats(1, 1, 0.5, 0.5)}),
    "Resize linear": ('Resize <mode = "linear"> (x, , k)', {"k": floats(1, 1, 2, 1.5)}),
    "Resize linear by corners": (
        'Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , , z)',
        {"z": ints(2, 4, 11, 5)},
    ),
    "Resize linear as torch does": (
        'Resize <mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"> (x, , , z)',
        {"z": ints(2, 4, 1, 5)},
    ),
    "DepthToSpace": ("DepthToSpace <blocksize = 2> (x)", {}),
    "DepthToSpace by columns": ('DepthToSpace <blocksize = 2, mode = "CRD"> (x)', {}),
    "SpaceToDepth": ("SpaceToDepth <blocksize = 2> (even)", {}),
    "Identity": ("Identity (x)", {}),
    "Dropout": ("Dropout (x)", {}),
}  # fmt: skip
INPUTS = "float[2, 4, 6, 7] x, float[2, 5, 8] r, float[2, 8, 3] t, float[10, 8] f, float[2, 4, 6, 7] p, "
INPUTS += "float[1, 1, 1] one, float[2, 3, 4, 6] even"


def feeds(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {"x": MAP, "r": ROWS, "t": (2, 8, 3), "f": (10, 8), "p": MAP, "one": (1, 1, 1), "even": (2, 3, 4, 6)}
    values = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    return values | {"p": np.abs(values["p"]) + np.float32(0.1)}


def both(body: str, constants: dict[str, np.ndarray], *, outputs: str = "float[] y", opset: int = 23):
    """What onnxruntime gives and what the interpreter gives."""
    name = body.split("(", maxsplit=1)[0]
    used = {key: value for key, value in feeds().items() if f"{key}," in body.replace(")", ",") and name}
    declared = [part for part in INPUTS.split(", float") if part.split()[-1] in used]
    header = ", ".join(part if part.startswith("float") else f"float{part}" for part in declared)
    proto = tiny.model(f"g ({header}) => ({outputs}) {{ {body} }}", opset=opset, ir_version=10, **constants)
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    expected = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, used)
    model = ir.from_proto(proto)
    graph = TorchGraph(model, subject="g.onnx")
    first, *others = [value.name for value in model.graph.inputs]
    given = {key: torch.from_numpy(used[key]) for key in others}
    got = graph(torch.from_numpy(used[first]), given)
    return expected, [got[value.name].numpy() for value in model.graph.outputs]


@pytest.mark.parametrize("case", CASES)
def test_an_operator_gives_what_onnxruntime_gives(case: str):
    call, constants = CASES[case]
    (expected,), (got,) = both(f"y = {call}", constants)
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("body", "constants", "outputs"),
    [
        ("a, y = Split <axis = 3> (x, s)", {"s": ints(3, 4)}, "float[] a, float[] y"),
        ("a, y = Split <axis = 3, num_outputs = 2> (x)", {}, "float[] a, float[] y"),
        ("v, i = TopK <axis = 3> (x, k)", {"k": ints(3)}, "float[] v, int64[] i"),
        ("y = ArgMax <axis = 1, keepdims = 0> (x)", {}, "int64[] y"),
        ("y = ArgMin <axis = 2, select_last_index = 1> (x)", {}, "int64[] y"),
        ("y = Equal (x, x)", {}, "bool[] y"),
        ("c = Cast <to = 7> (x)  z = Mod (c, m)  y = Equal (z, m2)", {"m": ints(2), "m2": ints(1)}, "bool[] y"),
        ("a = Less (x, c)  b = Greater (x, d)  e = And (a, b)  y = Not (e)", {"c": W(7), "d": W(7, seed=2)}, "bool[] y"),
        ("a = LessOrEqual (x, c)  b = GreaterOrEqual (x, c)  y = Or (a, b)", {"c": W(7)}, "bool[] y"),
        ("a = IsNaN (x)  y = Not (a)", {}, "bool[] y"),
        ("s = Shape <start = 1> (x)  y = Div (s, two)", {"two": ints(2)}, "int64[] y"),
        ("s = Size (x)  y = Mul (s, two)", {"two": ints(2)}, "int64[] y"),
        ("s = Shape (x)  y = ConstantOfShape <value = float[1] {2.5}> (s)", {}, "float[] y"),
        ("s = Shape (x)  y = ConstantOfShape (s)", {}, "float[] y"),
        ("c = Constant <value_float = 2.5> ()  y = Mul (x, c)", {}, "float[] y"),
        ("c = Constant <value_ints = [0, -1]> ()  y = Reshape (x, c)", {}, "float[] y"),
        ("s = Size (x)  b = Range (n, s, d)  y = CastLike (b, x)", {"n": np.array(0), "d": np.array(7)}, "float[] y"),
        ("c = Cast <to = 7> (x)  y = Div (c, m)", {"m": ints(-2)}, "int64[] y"),
    ],
)  # fmt: skip
def test_shapes_masks_and_several_outputs_are_those_of_onnxruntime(body, constants, outputs):
    expected, got = both(body, constants, outputs=outputs)
    for want, have in zip(expected, got, strict=True):
        assert (have.shape, have.dtype) == (want.shape, want.dtype)
        np.testing.assert_array_equal(have, want)


def test_group_norm_of_older_opsets_has_a_scale_for_each_group():
    (expected,), (got,) = both(
        "y = GroupNormalization <num_groups = 2> (x, s, b)", {"s": W(2), "b": W(2, seed=1)}, opset=18
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_every_operator_of_the_table_is_tested():
    tested = {call.split("(")[0].split("<")[0].strip() for call, _ in CASES.values()}
    rest = {
        "Split",
        "TopK",
        "ArgMax",
        "ArgMin",
        "Equal",
        "Cast",
        "Mod",
        "Less",
        "Greater",
        "And",
        "Not",
        "LessOrEqual",
        "GreaterOrEqual",
        "Or",
        "IsNaN",
        "Shape",
        "Size",
        "Constant",
        "ConstantOfShape",
        "Range",
        "CastLike",
    }
    assert {name for domain, name in OPERATORS if not domain} <= tested | rest


def test_operators_without_a_torch_form_are_named():
    model = ir.from_proto(tiny.model("g (float[2, 4, 6, 7] x) => (float[2, 4, 6, 7] y) { a = Relu (x) y = Acosh (a) }"))
    model.graph[1].name = "odd/one"
    with pytest.raises(UnsupportedGraphError) as refused:
        TorchGraph(model, subject="g.onnx")
    assert str(refused.value) == (
        "g.onnx: cannot be fine-tuned: 1 nodes have no torch form here\n  odd/one: Acosh\n"
        "hint: use the network as converted, with more --levels or --timesteps"
    )


def test_a_node_that_fails_is_named():
    model = ir.from_proto(tiny.model("g (float[2, 3] x) => (float[2, 3] y) { y = MatMul (x, w) }", w=W(3, 3)))
    model.graph[0].name = "product"
    with pytest.raises(UnsupportedGraphError, match=r"g.onnx: cannot be computed in torch\n  product: MatMul: "):
        TorchGraph(model, subject="g.onnx")(torch.zeros(2, 5))


def test_resizing_by_cubic_curves_is_refused():
    model = ir.from_proto(
        tiny.model('g (float[1, 1, 4, 4] x) => (float[1, 1, 8, 8] y) { y = Resize <mode = "cubic"> (x, , k) }', k=floats(1, 1, 2, 2))
    )  # fmt: skip
    with pytest.raises(UnsupportedGraphError, match="Resize in mode cubic, half_pixel, cannot be trained through yet"):
        TorchGraph(model, subject="g.onnx")(torch.zeros(1, 1, 4, 4))

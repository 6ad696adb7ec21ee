"""Each pattern alone: what it finds, what it makes of it, and that the numbers stay."""

import integers
import numpy as np
import onnx
import pytest
import tiny

IMAGES = integers.images(3)
ALL_BUT = {
    "spikes": ("neurons_to_codes",),
    "layers": ("neurons_to_codes", "convolutions_to_integers"),
}


def conv(middle: str, **more: np.ndarray) -> onnx.ModelProto:
    """Conv, Relu, a convolution of spikes, `middle` from c to e, Conv."""
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 5, h, w] scores) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w0)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w1, b1)
            {middle}
            scores = Conv (e, w2)
        }}""",
        w0=integers.whole(4, 3, 3, 3, most=9),
        w1=integers.whole(4, 4, 3, 3),
        b1=integers.whole(4, most=99),
        w2=integers.whole(5, 4, 1, 1, seed=1),
        **more,
    )


def matrix(middle: str, **more: np.ndarray) -> onnx.ModelProto:
    """A row for each pixel, MatMul, Relu, then `middle` from c to scores."""
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 64, 6] scores) {{
            r = Reshape (image, rows)
            t = Transpose <perm = [0, 2, 1]> (r)
            a = MatMul (t, w0)
            b = Relu (a)
            {middle}
        }}""",
        rows=np.array([0, 3, 64]),
        w0=integers.whole(3, 4, most=9),
        w1=integers.whole(6, 4).T.copy(),
        bias=integers.whole(6, most=99),
        **more,
    )


def same(before, after):
    for got, expected in zip(integers.outputs(after, IMAGES), integers.outputs(before, IMAGES), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rest", [0, 4])
@pytest.mark.parametrize("levels", [(0, 15), (7, 7), (0, 255)])
def test_neurons_become_quantisers(levels, rest):
    made = integers.definition(conv("d = Relu (c)\n e = Identity (d)"), levels=levels, rest=rest)
    after, changed = integers.applied(made, "neurons_to_codes")
    assert changed == ["neurons_to_codes"]
    assert "PolarityNeuron" not in integers.ops(after)
    same(made.model, after)


def test_neurons_of_more_levels_than_a_byte_holds_stay():
    made = integers.definition(conv("e = Relu (c)"), levels=(128, 128))
    after, changed = integers.applied(made, "neurons_to_codes")
    assert not changed
    assert "PolarityNeuron" in integers.ops(after)


def test_what_rests_leaves_neither_a_subtraction_nor_a_map():
    made = integers.definition(conv("e = Relu (c)"), rest=4)
    assert {"Sub", "Add"} <= set(integers.ops(made.model))
    after, _ = integers.applied(made, "neurons_to_codes")
    assert not {"Sub", "Add"} & set(integers.ops(after))
    same(made.model, after)


def test_a_pool_takes_the_largest_code():
    middle = "d = Relu (c)\n e = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (d)"
    made = integers.definition(conv(middle))
    after, changed = integers.applied(made, "neurons_to_codes", "pools_behind_quantisers")
    assert changed[-1] == "pools_behind_quantisers"
    order = [node.op_type for node in after.graph]
    assert order.index("MaxPool") > len(order) - 1 - order[::-1].index("QuantizeLinear")
    same(made.model, after)


def test_a_pool_behind_the_image_stays_in_floats():
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 5, h, w] scores) {
            a = Conv (image, w0)
            b = MaxPool <kernel_shape = [2, 2]> (a)
            scores = Conv (b, w1)
        }""",
        w0=integers.whole(4, 3, 3, 3),
        w1=integers.whole(5, 4, 1, 1),
    )
    made = integers.definition(proto, levels=(7, 7))
    assert integers.applied(made, "neurons_to_codes", "pools_behind_quantisers")[1] == ["neurons_to_codes"]


@pytest.mark.parametrize("rest", [0, 4])
@pytest.mark.parametrize("middle", ["e = Identity (c)", "e = Relu (c)", "e = Clip (c, low, high)"])
def test_a_convolution_and_its_clipping_become_one_integer_kernel(middle, rest):
    made = integers.definition(conv(middle, low=np.float32(-2), high=np.float32(5)), levels=(15, 15), rest=rest)
    after, changed = integers.applied(made, *ALL_BUT["layers"])
    assert changed[-1] == "convolutions_to_integers"
    assert integers.ops(after)["QLinearConv"] == 1
    assert integers.ops(after).get("Relu", 0) == 1  # the image's
    same(made.model, after)


def test_a_convolution_whose_floats_are_wanted_stays():
    made = integers.definition(conv("d = Sigmoid (c)\n e = Mul (c, d)"))
    assert integers.applied(made, *ALL_BUT["layers"])[1] == ["neurons_to_codes"]


def test_a_sum_of_codes_is_an_integer_sum():
    made = integers.definition(conv("d = Add (c, b)\n e = Relu (d)"), ranges=(0.0, 255.0))
    after, changed = integers.applied(made, *ALL_BUT["layers"], "sums_to_integers")
    assert changed[-1] == "sums_to_integers"
    assert integers.ops(after)["QLinearAdd"] == 1
    assert "Add" not in integers.ops(after)
    same(made.model, after)


def test_a_sum_whose_floats_are_wanted_stays():
    made = integers.definition(conv("d = Add (c, b)\n e = Relu (d)"))
    assert "sums_to_integers" not in integers.applied(made, *ALL_BUT["layers"], "sums_to_integers")[1]


@pytest.mark.parametrize("rest", [0, 4])
def test_neurons_behind_carried_values_are_convolutions_by_channel(rest):
    made = integers.definition(conv("d = Add (c, b)\n e = Relu (d)"), ranges=(0.0, 255.0), rest=rest)
    after, changed = integers.applied(made, *ALL_BUT["layers"], "sums_to_integers", "carried_values_to_codes")
    assert changed[-1] == "carried_values_to_codes"
    assert sum(node.attributes.get_int("group", 1) == 4 for node in after.graph if node.op_type == "QLinearConv") == 2
    same(made.model, after)


@pytest.mark.parametrize(
    ("middle", "columns"),
    [
        ("scores = MatMul (b, w1)", 0),
        ("c = MatMul (b, w1)\n scores = Add (c, bias)", 6),
        ("c = MatMul (b, w1)\n scores = Add (bias, c)", 6),
    ],
)
def test_a_product_and_its_bias_become_one_integer_kernel(middle, columns):
    made = integers.definition(matrix(middle))
    after, changed = integers.applied(made, "neurons_to_codes", "products_to_integers")
    assert changed[-1] == "products_to_integers"
    (product,) = [node for node in after.graph if node.op_type == "MatMulIntegerToFloat"]
    assert (product.inputs[6] is not None) == bool(columns)
    assert "Add" not in integers.ops(after)
    same(made.model, after)


@pytest.mark.parametrize("attributes", ["transB = 1", "transB = 0", "transB = 1, alpha = 0.5"])
def test_a_gemm_becomes_a_product_where_it_is_plain(attributes):
    weights = integers.whole(5, 4)
    proto = tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 5] scores) {{
            a = Conv (image, w0)
            b = Relu (a)
            c = GlobalAveragePool (b)
            d = Flatten (c)
            scores = Gemm <{attributes}> (d, w1, b1)
        }}""",
        w0=integers.whole(4, 3, 3, 3),
        w1=weights if "transB = 1" in attributes else weights.T.copy(),
        b1=integers.whole(5, most=99),
    )
    made = integers.definition(proto)
    after, changed = integers.applied(made, "neurons_to_codes", "products_to_integers")
    assert ("products_to_integers" in changed) == ("alpha" not in attributes)
    same(made.model, after)


def test_terms_are_added_once():
    made = integers.definition(
        matrix("c = MatMul (b, w1)\n d = Add (c, bias)\n e = Add (bias, d)\n scores = Add (e, bias)")
    )
    after, changed = integers.applied(made, "terms_together")
    assert changed
    assert integers.ops(after)["Add"] == 1
    same(made.model, after)


def test_a_term_that_gives_the_sum_further_axes_stays():
    made = integers.definition(
        matrix("c = MatMul (b, w1)\n d = Add (c, deep)\n e = Add (d, bias)\n scores = Squeeze (e, first)",
               deep=integers.whole(6, most=9).reshape(1, 1, 1, 6), first=np.array([0]))
    )  # fmt: skip
    after, changed = integers.applied(made, "terms_together")
    assert not changed
    same(made.model, after)


def test_a_term_with_needless_axes_is_added_with_others():
    shift = integers.whole(6, most=9).reshape(1, 1, 6)
    made = integers.definition(matrix("c = MatMul (b, w1)\n d = Add (c, shift)\n scores = Add (d, bias)", shift=shift))
    after, changed = integers.applied(made, "terms_together")
    assert changed
    assert integers.ops(after)["Add"] == 1
    same(made.model, after)


def test_thresholds_behind_a_norm_are_part_of_it():
    middle = "c = LayerNormalization (b, gamma, beta)\n scores = MatMul (c, w1)"
    made = integers.definition(matrix(middle, gamma=integers.whole(4), beta=integers.whole(4, seed=1)), levels=(15, 15))
    after, changed = integers.applied(made, "neurons_to_codes", "steps_into_norms")
    assert changed[-1] == "steps_into_norms"
    assert "Mul" not in integers.ops(after)
    same(made.model, after)


@pytest.mark.parametrize(
    "order", ["e = Mul (c, d)\n scores = Mul (e, half)", "e = Mul (half, d)\n scores = Mul (c, e)"]
)
def test_a_gelu_is_one_operator(order):
    middle = f"c = MatMul (b, w1)\n f = Div (c, root)\n g = Erf (f)\n d = Add (g, one)\n {order}"
    made = integers.definition(matrix(middle, root=np.float32(2**0.5), one=np.float32(1), half=np.float32(0.5)))
    after, changed = integers.applied(made, "gelus_together")
    assert changed
    assert integers.ops(after)["Gelu"] == 1
    assert "Erf" not in integers.ops(after)
    np.testing.assert_allclose(
        integers.outputs(after, IMAGES)[0], integers.outputs(made.model, IMAGES)[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("half", [0.25, 1.0])
def test_what_only_looks_like_a_gelu_stays(half):
    middle = "c = MatMul (b, w1)\n f = Div (c, root)\n g = Erf (f)\n d = Add (g, one)\n e = Mul (c, d)\n scores = Mul (e, half)"
    made = integers.definition(matrix(middle, root=np.float32(2**0.5), one=np.float32(1), half=np.float32(half)))
    assert integers.applied(made, "gelus_together")[1] == []

"""Ingest: whatever form a network comes in, the clean one gives the same outputs, or a message says what is in the way."""

import numpy as np
import onnx
import pytest
import tiny
from ingesting import BN, ingested, op_types, refusal, run
from onnx import helper

from pmsm_cli.graph.ingest import ingest
from pmsm_cli.runtime.session import open_session

LATEST = onnx.defs.onnx_opset_version()


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        ("Conv <pads = [1, 1, 1, 1]> (x, w)", {"w": tiny.weights(3, 3, 3, 3)}),
        ("Conv <group = 3> (x, w, c)", {"w": tiny.weights(3, 1, 3, 3), "c": tiny.weights(3)}),
        ("ConvTranspose <strides = [2, 2]> (x, w, c)", {"w": tiny.weights(3, 3, 2, 2), "c": tiny.weights(3)}),
        ("ConvTranspose <group = 3> (x, w)", {"w": tiny.weights(3, 1, 2, 2)}),
        ("Identity (x)", {}),
        ("Relu (x)", {}),
    ],
)
@pytest.mark.parametrize("opset", [9, 15, LATEST])
def test_batch_norm_is_folded_or_kept_without_a_difference(layer: str, weights: dict, opset: int):
    body = f"a = {layer} n = BatchNormalization <epsilon = 0.01> (a, g, b, m, v) y = Relu (n)"
    proto = tiny.model(f"g (float[N, 3, 8, 8] x) => (float[N, 3, h, w] y) {{ {body} }}", opset=opset, **weights, **BN)
    network = ingested(proto)
    assert ("BatchNormalization" in op_types(network)) == (not weights)


@pytest.mark.parametrize("attributes", ["transB = 1", "transB = 0", "transB = 1, alpha = 0.5, beta = 2.0"])
def test_batch_norm_after_gemm_gives_the_same_outputs(attributes: str):
    w = tiny.weights(3, 192) if "transB = 1" in attributes else tiny.weights(192, 3)
    body = f"f = Flatten (x) a = Gemm <{attributes}> (f, w, c) y = BatchNormalization (a, g, b, m, v)"
    ingested(tiny.model(f"g (float[N, 3, 8, 8] x) => (float[N, 3] y) {{ {body} }}", w=w, c=tiny.weights(3), **BN))


def test_batch_norm_is_not_folded_where_others_read_the_convolution():
    body = "a = Conv (x, w) n = BatchNormalization (a, g, b, m, v) y = Add (a, n)"
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y, float[N, 3, 8, 8] n) {{ {body} }}",
        w=tiny.weights(3, 3, 1, 1),
        **BN,
    )
    assert "BatchNormalization" in op_types(ingested(proto))


def test_a_folded_layer_keeps_its_name_and_shared_weights_stay_apart():
    body = """
        [first] a = Conv (x, w)
        [norm] n = BatchNormalization (a, g, b, m, v)
        [second] y = Conv (n, w)
    """
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {{ {body} }}", w=tiny.weights(3, 3, 1, 1), **BN
    )
    network = ingested(proto)
    assert [node.name for node in network.model.graph] == ["first", "second"]


def test_initialisers_shared_through_identity_become_plain_weights():
    # torch's exporter stores equal initialisers once: gamma and variance of a fresh batch norm are both ones.
    body = """
        variance = Identity (gamma) mean = Identity (beta) w2 = Identity (w)
        a = Conv (x, w) n = BatchNormalization (a, gamma, beta, mean, variance) r = Relu (n) y = Conv (r, w2)
    """
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {{ {body} }}",
        gamma=np.ones(3, np.float32),
        beta=np.zeros(3, np.float32),
        w=tiny.weights(3, 3, 1, 1),
    )
    network = ingested(proto)
    assert op_types(network) == ["Conv", "Relu", "Conv"]
    assert all(node.inputs[1].const_value is not None for node in network.model.graph if node.op_type == "Conv")


def test_constant_nodes_become_weights():
    body = """
        w = Constant <value = float[3, 3, 1, 1] {1, 2, 3, 4, 5, 6, 7, 8, 9}> ()
        half = Constant <value_float = 0.5> () shape = Constant <value_ints = [0, -1]> ()
        a = Conv (x, w) s = Mul (a, half) y = Reshape (s, shape)
    """
    network = ingested(tiny.model(f"g (float[N, 3, 8, 8] x) => (float[N, k] y) {{ {body} }}"))
    assert op_types(network) == ["Conv", "Mul", "Reshape"]


def test_weights_prepared_by_a_chain_of_operators_are_computed_once():
    body = """
        t = Transpose <perm = [1, 0, 2, 3]> (w) k = Mul (t, half) a = Conv (x, k)
        m = Transpose (v) f = Flatten (a) y = MatMul (f, m)
    """
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 5] y) {{ {body} }}",
        w=tiny.weights(3, 4, 1, 1),
        half=np.float32(0.5),
        v=tiny.weights(5, 256),
    )
    assert op_types(ingested(proto)) == ["Conv", "Flatten", "MatMul"]


@pytest.mark.parametrize("opset", [9, 12, 17, 22])
def test_shape_arithmetic_is_folded_with_an_open_batch(opset: int):
    unsqueeze = "u = Unsqueeze <axes = [0]> (n)" if opset < 13 else "u = Unsqueeze (n, axis)"
    body = f"""
        a = Conv <pads = [1, 1, 1, 1]> (x, w) sh = Shape (a) n = Gather (sh, zero) {unsqueeze}
        s = Concat <axis = 0> (u, rest) y = Reshape (a, s)
    """
    initializers = {
        "w": tiny.weights(4, 3, 3, 3),
        "zero": np.array(0),
        "axis": np.array([0]),
        "rest": np.array([-1]),
    }
    proto = tiny.model(f"g (float[N, 3, 8, 8] x) => (float[N, k] y) {{ {body} }}", opset=opset, **initializers)
    network = ingested(proto)
    for batch in (1, 5):
        assert run(network.model, tiny.images(batch))[0].shape == (batch, 256)


def test_padding_computed_as_exporters_do_is_folded_into_the_convolution():
    # What torch leaves of F.pad with constant sizes: ConstantOfShape, Concat, Reshape, Slice, Transpose, Cast.
    body = """
        filler = ConstantOfShape <value = int64[1] {0}> (four) all = Concat <axis = 0> (sizes, filler)
        pairs = Reshape (all, by_two) turned = Slice (pairs, minus_one, far, zero, minus_one)
        columns = Transpose <perm = [1, 0]> (turned) flat = Reshape (columns, minus_one) pads = Cast <to = 7> (flat)
        p = Pad (x, pads) y = Conv (p, w)
    """
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 4, h, k] y) {{ {body} }}",
        four=np.array([4]),
        sizes=np.array([1, 0, 2, 1]),
        by_two=np.array([-1, 2]),
        minus_one=np.array([-1]),
        far=np.array([-(2**63) + 1]),
        zero=np.array([0]),
        w=tiny.weights(4, 3, 3, 3),
    )
    network = ingested(proto)
    assert op_types(network) == ["Conv"]
    assert list(network.model.graph[0].attributes["pads"].as_ints()) == [2, 1, 1, 0]


@pytest.mark.parametrize(
    ("pad", "folded"),
    [
        ("Pad (x, pads)", True),
        ("Pad (x, pads, nothing)", True),
        ("Pad (x, pads, half)", False),
        ('Pad <mode = "reflect"> (x, pads)', False),
        ('Pad <mode = "edge"> (x, pads)', False),
        ("Pad (x, cropping)", False),
        ("Pad (x, channel)", False),
    ],
)
@pytest.mark.parametrize(
    "own", ["pads = [0, 1, 1, 0]", 'auto_pad = "SAME_UPPER", strides = [2, 2]', 'auto_pad = "VALID"']
)
def test_padding_gives_the_same_outputs_folded_or_not(pad: str, folded: bool, own: str):
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 4, h, k] y) {{ p = {pad} y = Conv <{own}> (p, w) }}",
        pads=np.array([0, 0, 1, 0, 0, 0, 2, 3]),
        cropping=np.array([0, 0, -1, 0, 0, 0, 1, -2]),
        channel=np.array([0, 1, 0, 0, 0, 0, 0, 0]),
        nothing=np.float32(0),
        half=np.float32(0.5),
        w=tiny.weights(4, 4 if "channel" in pad else 3, 3, 3),
    )
    network = ingested(proto)
    if not folded:
        assert "Pad" in op_types(network)
    elif "SAME" not in own:
        assert op_types(network) == ["Conv"]


def test_several_outputs_keep_their_names_and_order():
    body = "a = Conv (x, w) mid = Relu (a) c = Conv (mid, w) p = GlobalAveragePool (c) y = Flatten (p) again = Identity (y)"
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 3] y, float[N, 3, 8, 8] mid, float[N, 3] again, float[N, 3, 8, 8] a) {{ {body} }}",
        w=tiny.weights(3, 3, 1, 1),
    )
    assert ingested(proto).outputs == ("y", "mid", "again", "a")


@pytest.mark.parametrize("body", ["y = Conv (x, w) seen = Identity (x)", "y = Conv (x, w) fixed = Identity (w)"])
def test_an_output_may_be_the_input_or_a_weight(body: str):
    other = "seen" if "seen" in body else "fixed"
    shape = "[N, 3, 8, 8]" if other == "seen" else "[3, 3, 1, 1]"
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y, float{shape} {other}) {{ {body} }}",
        w=tiny.weights(3, 3, 1, 1),
    )
    ingested(proto)


def test_the_input_itself_may_leave_as_an_output():
    proto = tiny.model(
        "g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y, float[N, 3, 8, 8] x) { y = Conv (x, w) }",
        w=tiny.weights(3, 3, 1, 1),
    )
    ingested(proto)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_kept(batch: int):
    network = ingested(tiny.convolutional(batch=batch), tiny.images(batch))
    assert network.image.batch == batch


def test_an_open_height_and_width_are_left_open():
    network = ingested(tiny.convolutional(size="S"), tiny.images(2, 3, 8, 8))
    assert (network.image.batch, network.image.height, network.image.width) == (None, None, None)
    assert run(network.model, tiny.images(2, 3, 12, 12))[0].shape == (2, 5)


def test_an_input_with_the_channels_last_is_recognised():
    image = ingested(tiny.channels_last(), tiny.images(2, 8, 8, 3)).image
    assert image.channels_last
    assert (image.height, image.width, image.channels) == (8, 8, 3)
    assert image.shape(height=8, width=8) == (1, 8, 8, 3)


FUNCTIONS = """
<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { a = my.block (x, w) y = my.block (a, w) }
<domain: "my", opset_import: ["" : 17, "my" : 1]>
block (x, w) => (y) { a = my.inner <alpha = 0.1> (x) y = Conv (a, w) }
<domain: "my", opset_import: ["" : 17]>
inner <alpha> (x) => (y) { y = LeakyRelu <alpha : float = @alpha> (x) }
"""


def test_model_local_functions_are_inlined():
    proto = onnx.parser.parse_model(FUNCTIONS)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(tiny.weights(3, 3, 1, 1), "w"))
    network = ingested(proto)
    assert op_types(network) == ["LeakyRelu", "Conv", "LeakyRelu", "Conv"]
    assert len({node.name for node in network.model.graph}) == 4


def test_an_unknown_operator_inside_a_function_is_named():
    proto = onnx.parser.parse_model(FUNCTIONS.replace("LeakyRelu <alpha : float = @alpha>", "Mystery"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(tiny.weights(3, 3, 1, 1), "w"))
    assert "\n  y: Mystery\n" in refusal(proto)


@pytest.mark.parametrize(("condition", "left"), [("{1}", "Relu"), ("{0}", "Neg")])
@pytest.mark.parametrize("opset", [11, 17])
def test_a_branch_with_a_constant_condition_is_resolved(condition: str, left: str, opset: int):
    body = f"""
        c = Constant <value = bool {condition}> ()
        a = If (c) <then_branch = t () => (float[N, 3, 8, 8] p) {{ p = Relu (x) }},
                    else_branch = e () => (float[N, 3, 8, 8] q) {{ q = Neg (x) }}>
        y = Conv (a, w)
    """
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {{ {body} }}", opset=opset, w=tiny.weights(3, 3, 1, 1)
    )
    assert op_types(ingested(proto)) == [left, "Conv"]


def test_a_branch_with_a_computed_condition_stays():
    body = """
        m = ReduceMean <keepdims = 0> (x) c = Greater (m, zero)
        a = If (c) <then_branch = t () => (float[N, 3, 8, 8] p) { p = Relu (x) },
                    else_branch = e () => (float[N, 3, 8, 8] q) { q = Neg (x) }>
        y = Conv (a, w)
    """
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {{ {body} }}",
        opset=17,
        w=tiny.weights(3, 3, 1, 1),
        zero=np.float32(0),
    )
    assert "If" in op_types(ingested(proto))


@pytest.mark.parametrize("opset", [9, 17])
def test_the_standard_domain_may_be_spelled_out(opset: int):
    proto = tiny.convolutional()
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("ai.onnx", opset))
    proto.ir_version = 8
    for node in proto.graph.node:
        node.domain = "ai.onnx"
    network = ingest(proto, subject="net.onnx")
    assert network.opset == max(opset, 17)
    assert op_types(network) == ["Conv", "Relu", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    (expected,) = run(tiny.convolutional())
    np.testing.assert_allclose(run(network.model)[0], expected, rtol=1e-5, atol=1e-6)


def test_nodes_without_names_are_called_by_their_outputs():
    assert [node.name for node in ingested(tiny.convolutional()).model.graph] == [*"abcdef", "scores"]


def test_nodes_of_the_same_name_are_told_apart():
    proto = tiny.convolutional()
    for node in proto.graph.node:
        node.name = "same"
    names = [node.name for node in ingest(proto, subject="net.onnx").model.graph]  # onnxruntime refuses the original
    assert names[0] == "same"
    assert len(set(names)) == len(names)


def test_a_sum_with_a_computed_bias_is_taken_out_of_gemm():
    # A bias that changes from step to step must not gather in a membrane.
    body = "f = Flatten (x) a = Gemm (f, w, c) y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, v, a) z = Relu (y)"
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 5] y, float[N, 5] z) {{ {body} }}",
        w=tiny.weights(192, 5),
        v=tiny.weights(5, 192),
        c=tiny.weights(5),
    )
    network = ingested(proto)
    assert [len(node.inputs) for node in network.model.graph if node.op_type == "Gemm"] == [3, 2]


def test_half_precision_input_is_refused():
    proto = tiny.model(
        "g (float16[N, 3, 8, 8] x) => (float16[N, 3, 8, 8] y) { y = Conv (x, w) }",
        w=tiny.weights(3, 3, 1, 1).astype(np.float16),
    )
    assert "its input does not hold 32-bit floats\n  x: float16 Nx3x8x8\n" in refusal_without_weights(proto)


def refusal_without_weights(proto: onnx.ModelProto) -> str:
    """The refusal of the same network with no synaptic operator in it: the input is what is wrong then."""
    proto.graph.node[0].op_type = "Relu"
    del proto.graph.node[0].input[1:]
    del proto.graph.initializer[:]
    return refusal(proto)


@pytest.mark.parametrize(("code", "dtype"), [(10, np.float16), (11, np.float64)])
def test_layers_in_another_precision_are_refused_by_name(code: int, dtype: type):
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {{ h = Cast <to = {code}> (x) c = Conv (h, w) y = Cast <to = 1> (c) }}",
        w=tiny.weights(3, 3, 1, 1).astype(dtype),
    )
    assert refusal(proto) == (
        f"net.onnx: does not compute in 32-bit floats\n  c: Conv in {'float16' if code == 10 else 'double'}\n"
        "hint: export the network in float32"
    )


def test_a_quantised_network_is_refused():
    assert refusal(tiny.quantised()).startswith(
        "net.onnx: is quantised already: 2 quantised operators\n  q: QuantizeLinear\n  d: DequantizeLinear\n"
    )


def test_a_custom_operator_is_named():
    assert "\n  b: com.example.Mystery\n" in refusal(tiny.custom_op())


@pytest.mark.parametrize(
    ("body", "culprit"),
    [
        ("y = Relu (missing)", "y: Relu reads missing"),
        ("y = Conv (x, missing)", "y: Conv reads missing"),
        ("z = Relu (x)", "output y"),
    ],
)
def test_a_dangling_input_is_refused_by_name(body: str, culprit: str):
    text = refusal(tiny.model(f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {{ {body} }}"))
    assert text.startswith(f"net.onnx: is not a valid ONNX graph: it reads what nothing produces\n  {culprit}\n")


@pytest.mark.parametrize("make", [tiny.text_input, tiny.vector_input])
def test_an_input_that_is_no_image_is_refused(make):
    assert "its input" in refusal(make())


def test_a_checkpoint_of_ours_is_refused():
    proto = tiny.custom_op()
    proto.graph.node[1].domain = "ai.pmsm"
    assert refusal(proto) == "net.onnx: is a spiking checkpoint already\nhint: pass the source network"


@pytest.mark.parametrize(
    "taken",
    [
        "s = Slice (z, minus_one, most)",
        "s = Slice (z, one, two)",
        "s = Slice (z, one, four, zero, two)",
        "s = Gather (z, one)",
        "s = Gather (z, minus_one)",
    ],
)
def test_sizes_that_are_known_are_constants_though_the_number_of_images_is_not(taken: str):
    body = f"z = Shape (x) {taken} c = Cast <to = 1> (s) r = Sqrt (c) m = ReduceMax <keepdims = 0> (r) y = Div (x, m)"
    numbers = {name: np.array([each]) for name, each in [("one", 1), ("two", 2), ("four", 4), ("zero", 0)]}
    numbers |= {"minus_one": np.array([-1]), "most": np.array([2**62])}
    network = ingested(tiny.model(f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {{ {body} }}", **numbers))
    assert op_types(network) == ["Div"]


def test_the_number_of_images_stays_what_the_graph_finds():
    body = (
        "z = Shape (x) s = Slice (z, zero, two) c = Cast <to = 1> (s) m = ReduceMax <keepdims = 0> (c) y = Div (x, m)"
    )
    numbers = {"zero": np.array([0]), "two": np.array([2])}
    network = ingested(tiny.model(f"g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {{ {body} }}", **numbers))
    assert "Shape" in op_types(network)


@pytest.mark.parametrize("last", ["y = Dropout (b, half, on)", "c = Dropout (b, half, on) y = Relu (c)"])
def test_dropout_that_was_exported_in_training_mode_is_silent(last: str):
    text = f"g (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] y) {{ a = Conv (image, w) b = Relu (a) {last} }}"
    settings = {"w": tiny.weights(4, 3, 1, 1), "half": np.float32(0.5), "on": np.array(True)}
    network = ingest(tiny.model(text, **settings), subject="g")
    assert "Dropout" not in [node.op_type for node in network.model.graph]
    images = tiny.images(3)
    (got,) = open_session(network.model, subject="g").run(images)
    weights = settings["w"][:, :, 0, 0]
    np.testing.assert_allclose(got, np.maximum(np.einsum("oc,nchw->nohw", weights, images), 0), rtol=1e-5, atol=1e-5)

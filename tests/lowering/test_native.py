"""The integer graph on the library's operators against the same graph on onnxruntime's own."""

import integers
import numpy as np
import onnx
import pytest
import spiking
import test_lower
import tiny

from pmsm_cli.lowering.lower import lower, lower_further
from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")
IMAGES = integers.images(3)


def both(made: integers.Definition) -> tuple[onnx.ModelProto, list[np.ndarray], list[np.ndarray]]:
    """The graph on the library, its outputs, and those on stock onnxruntime."""
    low, _ = lower(made.model, made.weights)
    further, changed = lower_further(low)
    assert changed
    return further, integers.outputs(further, IMAGES, library=LIBRARY), integers.outputs(low, IMAGES)


@pytest.mark.parametrize("rest", [0, 4])
@pytest.mark.parametrize("levels", [(0, 15), (7, 7), (4, 3), (100, 155)])
@pytest.mark.parametrize("clip", ["Relu (a)", "Clip (a, low, high)", "Identity (a)"])
def test_the_library_gives_the_very_outputs_of_stock_operators(clip, levels, rest):
    further, got, expected = both(integers.definition(test_lower.plain(clip=clip), levels=levels, rest=rest))
    np.testing.assert_array_equal(got[0], expected[0])
    assert not {"QuantizeLinear", "Clip", "Max", "Min"} & integers.ops(further).keys()


@pytest.mark.parametrize("levels", [(0, 15), (7, 7)])
@pytest.mark.parametrize("last", ["Relu (s)", "Identity (s)"])
def test_residual_sums_and_the_neurons_behind_them_give_the_same(last, levels):
    ranges = (-127.5, 0.0) if last != "Relu (s)" else (0.0, 255.0)
    further, got, expected = both(integers.definition(test_lower.residual(last), levels=levels, ranges=ranges))
    np.testing.assert_array_equal(got[0], expected[0])
    assert integers.ops(further)["AffineCodes"] >= 1


def test_between_convolutions_nothing_changes_the_layout(tmp_path):
    made = integers.definition(test_lower.residual(), ranges=(0.0, 255.0))
    further, _ = lower_further(lower(made.model, made.weights)[0])
    integers.outputs(further, IMAGES, str(tmp_path / "run.onnx"), library=LIBRARY)
    graph = onnx.load(tmp_path / "run.onnx").graph
    by_input = {name: node for node in graph.node for name in node.input}
    convolutions = [node for node in graph.node if node.op_type == "QLinearConv"]
    assert len(convolutions) == 3
    assert all(by_input[node.output[0]].op_type != "Transpose" for node in convolutions[:-1])


def test_pooled_and_joined_codes_keep_channels_last():
    network = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 5, 4, 4] scores) {
            i = Conv <pads = [1, 1, 1, 1]> (image, w0)
            j = Relu (i)
            a = Conv <pads = [1, 1, 1, 1]> (j, w1)
            b = Relu (a)
            p = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (b)
            c = Conv (p, w2)
            d = Relu (c)
            e = Conv (d, w3)
            f = Conv (d, w4)
            x = Concat <axis = 1> (e, f)
            y = Relu (x)
            scores = Conv (y, w5)
        }""",
        w0=integers.whole(4, 3, 3, 3, most=9),
        w1=integers.whole(4, 4, 3, 3),
        w2=integers.whole(4, 4, 1, 1, seed=1),
        w3=integers.whole(4, 4, 1, 1, seed=2),
        w4=integers.whole(2, 4, 1, 1, seed=3),
        w5=integers.whole(5, 6, 1, 1, seed=4),
    )
    further, got, expected = both(integers.definition(network, ranges=(0.0, 255.0)))
    np.testing.assert_array_equal(got[0], expected[0])
    assert integers.ops(further)["NhwcMaxPool"] == 1


def test_a_network_of_matrix_products_gives_the_same():
    checkpoint = spiking.checkpoint_of(tiny.residual(), tiny.images(8))
    low, _ = lower(checkpoint.model, {})
    further, _ = lower_further(low)
    (got,), (expected,) = (integers.outputs(model, tiny.images(4), library=LIBRARY) for model in (further, low))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_graph_that_it_is_made_from_stays_as_it_was():
    made = integers.definition(test_lower.plain())
    low, _ = lower(made.model, made.weights)
    before = spiking.serialised(low)
    lower_further(low)
    assert spiking.serialised(low) == before

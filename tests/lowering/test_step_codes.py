"""Several timesteps with int8 weights on the native library: running counts as codes, and the same spikes."""

from dataclasses import replace

import integers
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import spiking
import tiny
from attending import APART as attending_apart
from attending import SPLIT, attending
from timesteps import APART, IMAGE, A, assert_alike, checkpoint_of, network_of
from trainable import attention

from pmsm_cli.calibration.method import Method
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.matching import apply_corrections
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.lower import Use, tidy_steps
from pmsm_cli.lowering.settle import settle_weights
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.parameters import Correction
from pmsm_cli.runtime.library import find_library, library_status
from pmsm_cli.runtime.session import open_session

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

FAST = Use(multiplies_fast=True, multiplies_slices=True)
LAYERS = {
    "clip": f"{A} d = Clip (a, nought, six)",
    "each channel": f"{A} b = Relu (a) d = Conv <group = 4, pads = [1, 1, 1, 1]> (b, wd, b1)",
    "strides": f"{A} b = Relu (a) c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (b, w2)"
    ' d = Resize <mode = "nearest"> (c, , sizes)',
    "pooled": f"{A} b = Relu (a) d = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b)",
    "a map of its own": f"{A} s = Add (a, map) d = Relu (s)",
    "scaled behind limits": f"{A} b = Relu (a) s = Mul (b, f4) d = Relu (s)",
    "the same weights twice": f"{A} b = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (b, w2) e = Relu (c)"
    " s = Conv <pads = [1, 1, 1, 1]> (e, w2) d = Relu (s)",
    "a sum of three": f"{A} b = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (b, w2) s = Add (a, c) t = Add (s, j) d = Relu (t)",
    "joined": f"{A} b = Relu (a) h = Slice (b, one, three, one) d = Concat <axis = 1> (h, h)",
}


def int8(body: str, *, read: int = 4, **options) -> tuple[ir.Model, dict[str, Int8Weights]]:
    """A spiking graph with int8 weights; `read` are the channels of the body's last value."""
    checkpoint = checkpoint_of(body, read=read, **options)
    _, _, shapes = spiking.read(network_of(body, read=read), IMAGE)
    return settle_weights(checkpoint.model, shapes)


@pytest.mark.parametrize("timesteps", [2, 4])
@pytest.mark.parametrize("name", [*APART, *LAYERS])
def test_counts_of_all_steps_are_codes(name, timesteps):
    before, weights = int8((APART | LAYERS)[name], timesteps=timesteps)
    after, changed = tidy_steps(before, FAST, IMAGE, weights)
    assert changed
    ops = integers.ops(after)
    assert ops["ConvolutionSteps"] >= 2
    assert not {"PolarityNeuron", "PolarityNeuronSteps", "Scan"} & set(ops)
    assert_alike(after, before, tiny.images(4, seed=1))
    assert_alike(after, before, tiny.images(1, seed=2))


def ops_of(body: str, **options) -> dict[str, int]:
    before, weights = int8(body, timesteps=3, **options)
    return integers.ops(tidy_steps(before, FAST, IMAGE, weights)[0])


def test_what_follows_a_layer_is_part_of_it():
    ops = ops_of(APART["residual of spikes"])
    # The analog layer; then each of three for all steps.
    assert ops["Conv"] == 1
    assert ops["ConvolutionSteps"] == 3
    assert ops["Relu"] == 1
    assert "Add" not in ops


def test_nothing_is_turned_between_layers():
    ops = ops_of(APART["residual of spikes"])
    assert ops["Transpose"] == 3  # what the image alone decides, and the scores of the first step and of the others


def test_a_tensor_that_is_the_same_at_every_step_is_not_repeated():
    assert ops_of(APART["residual of the image"])["Concat"] == 2  # the shape of the scores, and their steps


def test_integers_of_a_layer_s_weights_are_there_once():
    before, weights = int8(APART["relu"], timesteps=4)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    read = [node.inputs[1].name for node in after.graph if node.op_type == "ConvolutionSteps"]
    assert len(read) == len(set(read)) == 2
    assert not [name for name in weights if name in after.graph.initializers]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"coding": Coding.RATE}, "its steps have no unit in common"),
        ({"levels": 63}, "some count does not fit a byte"),
    ],
)
def test_counts_that_no_code_can_hold_stay_floats(options, why):
    before, weights = int8(APART["relu"], timesteps=4, **options)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert "StepCodes" not in integers.ops(after), why
    assert_alike(after, before, tiny.images(4, seed=1))


EIGHT = "a = Conv <pads = [1, 1, 1, 1]> (j, w8)"


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (f"{EIGHT} d = Sub (a, along_width)", 8),
        (f"{EIGHT} d = Sub (a, along_height)", 8),
        (f"{A} d = Sub (a, apart)", 4),
        (f"{A} d = Sub (a, map)", 4),
        (f"{A} m = ReduceMean <keepdims = 1> (a, one) d = Sub (m, f4)", 4),
    ],
)
def test_a_network_s_own_subtraction_is_a_resting_value_of_channels_alone(body, read):
    before, weights = int8(body, timesteps=3, read=read)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert_alike(after, before, tiny.images(4, seed=1))


@pytest.mark.parametrize("options", [{"timesteps": 4}, {"timesteps": 4, "levels": 11}])
@pytest.mark.parametrize(
    "body",
    [
        f"{A} b = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (b, w2) s = Add (c, j) r = Relu (s)"
        " d = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)",
        f"{A} b = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (b, w2) d = Add (c, j)",
    ],
)
def test_what_is_the_same_at_every_step_is_added_where_no_neurons_follow(body, options):
    before, weights = int8(body, **options)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert integers.ops(after)["ConvolutionSteps"] >= 2
    assert_alike(after, before, tiny.images(4, seed=1))


@pytest.mark.parametrize("timesteps", [2, 4])
@pytest.mark.parametrize("name", ["relu", "no activation", "residual of spikes", "residual of the image", "gates"])
def test_resting_neurons_count_from_where_they_rest(name, timesteps):
    before, weights = int8(APART[name], timesteps=timesteps, method=Method.ENTROPY)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert integers.ops(after)["ConvolutionSteps"] >= 2
    assert_alike(after, before, tiny.images(4, seed=1))


def test_values_take_the_place_of_what_is_added_to_them():
    """Kernels of each channel have blocks of 64, the last one of which reaches back into the one before."""
    each = "Conv <group = 70, pads = [1, 1, 1, 1]>"
    body = (
        f"a = Conv (j, w70) b = Relu (a) c = {each} (b, wd70) s = Add (c, b) r = Relu (s)"
        f" e = {each} (r, wd70) t = Add (e, r) d = Relu (t)"
    )
    before, weights = int8(body, timesteps=3, read=70)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert "Add" not in integers.ops(after)
    assert_alike(after, before, tiny.images(4, seed=1))


def test_neurons_that_rest_below_what_never_is_count_from_nothing():
    """Calibration makes no such neurons; a file may state them."""
    net, plan, shapes = spiking.read(network_of(APART["relu"]), IMAGE)
    parameters = checkpoint_of(APART["relu"]).manifest.calibration.parameters
    below = {
        name: replace(each, rest=np.full_like(each.threshold, -2), negative_levels=0)
        for name, each in parameters.items()
    }
    model = unroll_timesteps(insert_neurons(net, plan, below, shapes), plan, timesteps=3, coding=Coding.REFINE)
    before, weights = settle_weights(model, shapes)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert_alike(after, before, tiny.images(4, seed=1))


def test_no_images_give_no_scores():
    before, weights = int8(APART["residual of the image"], timesteps=3)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert [output.shape for output in integers.outputs(after, tiny.images(4)[:0], library=LIBRARY)] == [
        (0, 5, 8, 8),
        (3, 0, 5, 8, 8),
    ]


def test_a_scale_for_each_column_stays_behind_products_of_two_spiking_tensors():
    proto = attention()
    node = next(each for each in proto.graph.node if each.output[0] == "s")
    node.input[1] = "columns"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.linspace(0.5, 1.5, 16, dtype=np.float32), "columns"))
    node.output[0] = "s_scaled"
    at = list(proto.graph.node).index(node) + 1
    proto.graph.node.insert(at, onnx.helper.make_node("Add", ["s_scaled", "columns"], ["s"]))
    checkpoint = spiking.checkpoint_of(proto, tiny.images(8), timesteps=3)
    _, _, shapes = spiking.read(proto, IMAGE)
    before, weights = settle_weights(checkpoint.model, shapes)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert integers.ops(after)["MatMulIntegerToFloat"] == 2 * 8
    assert_alike(after, before, tiny.images(4))


def test_what_the_network_hands_out_stays_in_floats():
    proto = network_of(APART["residual of spikes"])
    proto.graph.output.append(onnx.helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, None))
    checkpoint = spiking.checkpoint_of(proto, tiny.images(8), timesteps=3)
    _, _, shapes = spiking.read(proto, IMAGE)
    before, weights = settle_weights(checkpoint.model, shapes)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert integers.ops(after)["ConvolutionSteps"] == 3
    assert_alike(after, before, tiny.images(4, seed=1))


def test_what_no_integers_multiply_stays_floats():
    before, weights = int8(f"{A} b = Relu (a) d = Conv <group = 2, pads = [1, 1, 1, 1]> (b, wg)", timesteps=3)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    ops = integers.ops(after)
    assert ops["Conv"] == 1 + 2  # the analog layer, and that of two groups
    assert ops["PolarityNeuron"] == ops["PolarityNeuronSteps"] == 1
    assert "DequantizeLinear" not in ops
    assert_alike(after, before, tiny.images(4, seed=1))


def test_processors_that_multiply_no_faster_keep_floats():
    before, weights = int8(APART["relu"], timesteps=3)
    assert "StepCodes" not in integers.ops(tidy_steps(before, Use(), IMAGE, weights)[0])


def test_float_weights_stay_floats():
    before = checkpoint_of(APART["relu"], timesteps=3).model
    assert "StepCodes" not in integers.ops(tidy_steps(before, FAST, IMAGE)[0])


def test_products_of_two_spiking_tensors_multiply_codes():
    checkpoint = spiking.checkpoint_of(attention(), tiny.images(8), timesteps=3)
    _, _, shapes = spiking.read(attention(), IMAGE)
    before, weights = settle_weights(checkpoint.model, shapes)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    ops = integers.ops(after)
    assert "MatMul" not in ops
    assert ops["MatMulIntegerToFloat"] == 2 * 8
    assert ops["SoftmaxStepCodes"] == 2
    assert not {"Softmax", "ReduceMax", "ReduceSum", "DequantizeLinear"} & set(ops)
    assert_alike(after, before, tiny.images(4))


def test_matched_moments_correct_the_first_step_alone():
    body = APART["residual of spikes"]
    net, plan, shapes = spiking.read(network_of(body), IMAGE)
    parameters = checkpoint_of(body).manifest.calibration.parameters
    corrections = (Correction(node="a", scale=np.full(4, 1.5, np.float32), shift=np.full(4, 0.5, np.float32)),)
    model = apply_corrections(insert_neurons(net, plan, parameters, shapes), corrections, fold=False)
    unrolled = unroll_timesteps(model, plan, timesteps=3, coding=Coding.REFINE)
    before, weights = settle_weights(unrolled, shapes)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert integers.ops(after)["ConvolutionSteps"] == 3
    assert "Mul" not in integers.ops(after)
    assert_alike(after, before, tiny.images(4, seed=1))


@pytest.mark.parametrize("moves", [SPLIT, attending_apart])
def test_queries_keys_and_values_become_codes_before_they_are_moved(moves):
    proto = attending(moves)
    checkpoint = spiking.checkpoint_of(proto, tiny.images(16), timesteps=3)
    _, _, shapes = spiking.read(proto, IMAGE)
    before, weights = settle_weights(checkpoint.model, shapes)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    moved = [node for node in after.graph if node.op_type in ("Transpose", "Split", "Slice", "Squeeze")]
    floats = [node.op_type for node in moved if node.inputs[0].dtype != ir.DataType.UINT8]
    # What is left are the image's tokens, and the heads' way back at the first step and at the others.
    assert floats.count("Transpose") == 1 + 2
    # Of the norm, of all three, of the output; at the first step and at the others.
    assert integers.ops(after)["StepCodes"] == 2 * 3
    assert_alike(after, before, tiny.images(4))


def test_what_corrects_a_product_is_part_of_its_scale():
    net, plan, shapes = spiking.read(attention(), IMAGE)
    checkpoint = spiking.checkpoint_of(attention(), tiny.images(8))
    model = insert_neurons(net, plan, checkpoint.manifest.calibration.parameters, shapes)
    wide, deep = (np.linspace(0.5, 1.5, size, dtype=np.float32) for size in (8, 16))
    corrections = tuple(Correction(node=name, scale=each, shift=each) for name, each in (("y", wide), ("h", deep)))
    corrected = apply_corrections(model, corrections, fold=False)
    before, weights = settle_weights(unroll_timesteps(corrected, plan, timesteps=3, coding=Coding.REFINE), shapes)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    assert not [node.name for node in after.graph if "matched" in node.name and node.op_type in ("Mul", "Add")]
    assert_alike(after, before, tiny.images(4))


def test_the_file_s_graph_stays_as_it_was():
    before, weights = int8(APART["residual of spikes"], timesteps=3)
    serialised = spiking.serialised(before)
    tidy_steps(before, FAST, IMAGE, weights)
    assert spiking.serialised(before) == serialised


def test_a_batch_of_any_size_is_several_images():
    before, weights = int8(APART["residual of the image"], timesteps=3)
    after, _ = tidy_steps(before, FAST, IMAGE, weights)
    session = open_session(after, subject="net", integers=True)
    images = tiny.images(5, seed=3)
    together = session.run(images)[0]
    apart = np.concatenate([session.run(images[index : index + 1])[0] for index in range(5)])
    np.testing.assert_array_equal(together, apart)


def test_without_fast_slices_matrix_products_of_several_steps_stay_in_floats():
    checkpoint = spiking.checkpoint_of(attention(), tiny.images(8), timesteps=3)
    _, _, shapes = spiking.read(attention(), IMAGE)
    before, weights = settle_weights(checkpoint.model, shapes)
    after, _ = tidy_steps(before, Use(multiplies_fast=True), IMAGE, weights)
    assert not {"MatMulIntegerToFloat", "StepCodes"} & integers.ops(after).keys()
    assert_alike(after, before, tiny.images(4))


def test_without_fast_slices_convolutions_of_several_steps_compute_with_integers():
    before, weights = int8(APART["relu"], timesteps=3)
    after, _ = tidy_steps(before, Use(multiplies_fast=True), IMAGE, weights)
    assert "ConvolutionSteps" in integers.ops(after)
    assert_alike(after, before, tiny.images(4, seed=1))

"""What int8 makes of a graph: values that integers hold."""

import integers
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny

from pmsm_cli.graph.rest import AT_REST
from pmsm_cli.graph.synapse import synapse_of
from pmsm_cli.lowering.lower import lower
from pmsm_cli.lowering.settle import correct_weights
from pmsm_cli.neuron.parameters import Correction

PADDED = """
    g (float[N, 3, 8, 8] image) => (float[N, 6, 8, 8] scores) {
        i = Conv <pads = [1, 1, 1, 1]> (image, w0)
        j = Relu (i)
        scores = Conv <pads = [1, 1, 1, 1]> (j, w1, b1)
    }"""


def padded():
    return tiny.model(
        PADDED, w0=tiny.weights(4, 3, 3, 3), w1=tiny.weights(6, 4, 3, 3), b1=tiny.weights(6, seed=1, scale=0.3)
    )


def constants(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def layer(model: ir.Model):
    return next(each for node in model.graph if (each := synapse_of(node)) and each.data.name != "image")


def test_weights_and_biases_are_whole_units():
    made = integers.definition(padded())
    synapse = layer(made.model)
    own = made.weights[synapse.node.inputs[1].name]
    np.testing.assert_array_equal(synapse.weights, own.floats())
    units = synapse.node.inputs[2].const_value.numpy() / own.scale
    np.testing.assert_allclose(units, np.round(units), atol=1e-3)


def test_the_layer_that_reads_the_image_keeps_its_weights():
    made = integers.definition(padded())
    assert np.array_equal(constants(made.model)["w0"], tiny.weights(4, 3, 3, 3))
    assert list(made.weights) == [layer(made.model).node.inputs[1].name]


def test_what_rests_is_seen_through_the_rounded_weights():
    made = integers.definition(padded(), rest=4)
    (drive,) = [node.inputs[1].const_value.numpy() for node in made.model.graph if node.name.endswith(AT_REST)]
    own = made.weights[layer(made.model).node.inputs[1].name]
    (rest,) = made.rests.values()
    inside = np.einsum("mckl,c->m", own.values.astype(np.int64), rest.astype(np.int64)) * own.scale
    np.testing.assert_allclose(drive[0, :, 4, 4], inside, rtol=1e-5, atol=1e-5)
    assert not np.allclose(drive[0, :, 0, 0], inside)


@pytest.mark.parametrize("rest", [0, 4])
def test_corrections_scale_and_shift_what_a_layer_gives_without_rounding_again(rest):
    made = integers.definition(padded(), rest=rest)
    scale, shift = np.linspace(0.5, 2, 6, dtype=np.float32), np.linspace(-1, 1, 6, dtype=np.float32)
    correction = Correction(node=layer(made.model).node.name, scale=scale, shift=shift)
    model, weights = correct_weights(made.model, made.weights, [correction])
    (name,) = weights
    np.testing.assert_array_equal(weights[name].values, made.weights[name].values)
    (got,), (before,) = (integers.outputs(each, integers.images(2)) for each in (model, made.model))
    step = (weights[name].scale).max()  # the bias is rounded again
    np.testing.assert_allclose(got, before * scale[:, None, None] + shift[:, None, None], atol=step)


def test_a_channel_with_hardly_any_weights_keeps_its_bias():
    network = padded()
    for each in network.graph.initializer:
        array = onnx.numpy_helper.to_array(each).copy()
        if each.name == "w1":
            array[0] *= 2.0**-40
        if each.name == "b1":
            array[0] = 1.9
        each.CopyFrom(onnx.numpy_helper.from_array(array, each.name))
    made = integers.definition(network)
    low, _ = lower(made.model, made.weights)
    (got,), (expected,) = (integers.outputs(model, integers.images(2)) for model in (low, made.model))
    np.testing.assert_allclose(expected[:, 0], 1.9, rtol=1e-6)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)

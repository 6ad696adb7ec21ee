"""Keys less what all of them have in common: which sites hold keys, and that nothing else changes."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import spiking
import tiny
from trainable import attention

from pmsm_cli.graph.insert import insert_neurons, spikes_name
from pmsm_cli.graph.keys import Keys, keys_of, with_centred_keys
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.runtime.observe import observe
from pmsm_cli.runtime.session import open_session

IMAGES = tiny.images(6)


def attending(scores: str, *, handed_out: str = "", size: int | str = 8) -> onnx.ModelProto:
    """Two heads [8, 8] of queries q, keys k (4 channels of 8 keys) and values v; `scores` makes s of their products d."""
    return tiny.model(
        f"""
        attending (float[N, 3, {size}, {size}] image) => (float[N, 2, 8, 8] y {handed_out}) {{
            q4 = Conv <pads = [1, 1, 1, 1]> (image, wq)
            k4 = Conv <pads = [1, 1, 1, 1]> (image, wk, common)
            q = Reshape (q4, rows)
            k = Reshape (k4, columns)
            v = Conv <pads = [1, 1, 1, 1]> (image, wv)
            d = MatMul (q, k)
            {scores}
            y = MatMul (a, v)
        }}""",
        wq=tiny.weights(1, 3, 3, 3),
        wk=tiny.weights(1, 3, 3, 3, seed=1),
        wv=tiny.weights(2, 3, 3, 3, seed=2),
        common=np.full(1, 3, np.float32),
        rows=np.array([0, 2, 8, 4]),
        columns=np.array([0, 2, 4, 8]),
        apart=np.array([0, 1, 2, 8, 8]),
        again=np.array([0, 2, 8, 8]),
        mixed=np.array([0, 2, 16, 4]),
        root=np.float32(0.5),
        heads=tiny.weights(2, 1, 1, seed=3),
        keys=1 + tiny.weights(8, seed=3, scale=0.1),
        mask=tiny.weights(8, 8, seed=4),
    )


SEEN = [
    "a = Softmax (d)",
    "e = Mul (d, root)  a = Softmax <axis = 3> (e)",
    "e = Mul (heads, d)  a = Softmax (e)",
    "e = Div (d, root)  f = Add (mask, e)  a = Softmax (f)",
    "e = Add (d, mask)  f = Reshape (e, apart)  g = Add (f, mask)  h = Reshape (g, again)  a = Softmax (h)",
    "e = Transpose <perm = [0, 2, 1, 3]> (d)  f = Softmax (e)  a = Transpose <perm = [0, 2, 1, 3]> (f)",
]
NOT_SEEN = [
    "a = Softmax <axis = 2> (d)",
    "a = Sigmoid (d)",
    "e = Mul (d, keys)  a = Softmax (e)",
    "e = Div (root, d)  a = Softmax (e)",
    "e = Mul (d, d)  a = Softmax (e)",
    "e = Relu (d)  a = Softmax (e)",
    "e = Softmax (d)  a = Add (e, d)",
    "e = Reshape (d, mixed)  f = Softmax (e)  a = Reshape (f, again)",
    "e = Transpose <perm = [0, 1, 3, 2]> (d)  a = Softmax (e)",
    "e = MatMul (k, q)  f = MatMul (q, e)  g = MatMul (f, k)  a = Softmax (g)",
]


@pytest.mark.parametrize("scores", SEEN)
def test_what_is_taken_off_all_keys_changes_no_softmax_over_them(scores):
    network, plan, shapes = spiking.read(attending(scores), (3, 8, 8))
    keys = keys_of(network, plan, shapes)
    assert keys == (Keys(site="k", shape=(2, 4, 1)),)
    centres = {"k": tiny.weights(2, 4, 1, scale=2.0)}
    centred, known = with_centred_keys(network, plan, centres, shapes)
    assert known["k/uncentred"] == known["k"] == shapes["k"]
    (expected,), (got,) = (open_session(each.model, subject="net").run(IMAGES) for each in (network, centred))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    before, after = (
        open_session(with_outputs(each.model, ["k"]), subject="net").run(IMAGES)[0] for each in (network, centred)
    )
    np.testing.assert_allclose(after, before - centres["k"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scores", NOT_SEEN)
def test_other_products_are_not_of_keys(scores):
    network, plan, shapes = spiking.read(attending(scores), (3, 8, 8))
    assert keys_of(network, plan, shapes) == ()


def test_keys_that_are_handed_out_stay_what_they_are():
    network, plan, shapes = spiking.read(attending(SEEN[0], handed_out=", float[N, 2, 4, 8] k"), (3, 8, 8))
    assert keys_of(network, plan, shapes) == ()


def test_channels_must_be_as_many_for_every_size_of_the_image():
    as_many = spiking.read(attending(SEEN[0], size="S"), (3, 8, 8))
    assert [each.site for each in keys_of(*as_many)] == ["k"]  # the reshape states them
    proto = attending(SEEN[0], size="S")
    for node in proto.graph.node:
        if node.output[0] in ("q", "k"):  # maps themselves, whose height is the image's
            node.op_type, node.input[1] = "Concat", node.input[0]
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
    unknown = spiking.read(proto, (3, 8, 8))
    assert keys_of(*unknown) == ()


def test_keys_that_are_weights_of_an_average_stay_what_they_are():
    proto = attending(SEEN[0])
    for node in proto.graph.node:
        if node.output[0] == "k":
            node.output[0] = "scores"
    softmax = onnx.helper.make_node("Softmax", ["scores"], ["k"], axis=2)
    proto.graph.node.insert(4, softmax)
    network, plan, shapes = spiking.read(proto, (3, 8, 8))
    assert next(site for site in plan.sites if site.name == "k").relative_axis == -2
    assert keys_of(network, plan, shapes) == ()


def test_keys_without_heads_have_one_centre_a_channel():
    network, plan, shapes = spiking.read(attention(), (3, 8, 8))
    assert keys_of(network, plan, shapes) == (Keys(site="kt", shape=(8, 1)),)


def observed(network, plan, shapes, size: int = 6):
    keys = keys_of(network, plan, shapes)
    return observe(network, plan, lambda: spiking.batches_of(IMAGES, size), keys=keys, shapes=shapes)


def test_the_mean_is_that_of_all_keys_of_all_images():
    network, plan, shapes = spiking.read(attending(SEEN[0]), (3, 8, 8))
    found = observed(network, plan, shapes, 4).centres
    (values,) = open_session(with_outputs(network.model, ["k"]), subject="net").run(IMAGES)
    np.testing.assert_allclose(found["k"], values.mean(axis=(0, 3))[:, :, None], rtol=1e-5)
    assert np.abs(found["k"]).mean() > 1  # a bias that all keys have


@pytest.mark.parametrize("channels", ["apart", "together"])
def test_statistics_of_keys_are_those_of_a_network_that_has_them_about_their_mean(channels):
    network, plan, shapes = spiking.read(attending(SEEN[0]), (3, 8, 8))
    if channels == "together":
        sites = (replace(site, channel_axis=None) if site.name == "k" else site for site in plan.sites)
        plan = replace(plan, sites=tuple(sites))
    found = observed(network, plan, shapes)
    centred, _ = with_centred_keys(network, plan, found.centres, shapes)
    again = observe(centred, plan, lambda: spiking.batches_of(IMAGES, 6)).statistics
    for name, expected in again.items():
        np.testing.assert_allclose(found.statistics[name].lowest, expected.lowest, rtol=1e-5)
        np.testing.assert_allclose(found.statistics[name].highest, expected.highest, rtol=1e-5)
        np.testing.assert_array_equal(found.statistics[name].counts.sum(axis=1), expected.counts.sum(axis=1))
    assert (found.statistics["k"].lowest < 0).all()  # above it all, with a bias that keys have in common


def neurons(levels: int, *, reach: float = 4.0) -> dict[str, NeuronParameters]:
    threshold = np.float32(reach / levels)
    fine = NeuronParameters(threshold=np.array(threshold), negative_levels=levels, positive_levels=levels)
    weights = NeuronParameters(threshold=np.array(1 / levels, np.float32), negative_levels=0, positive_levels=levels)
    return {"q": fine, "k": fine, "v": fine, "a": weights}


def test_at_few_levels_keys_about_their_mean_are_nearer_to_the_source():
    network, plan, shapes = spiking.read(attending("e = Mul (d, root)  a = Softmax (e)"), (3, 8, 8))
    (expected,) = open_session(network.model, subject="net").run(IMAGES)
    centres = observed(network, plan, shapes).centres
    errors = []
    for each in ({}, centres):
        centred, known = with_centred_keys(network, plan, each, shapes)
        made = insert_neurons(centred, plan, neurons(7), known)
        (got,) = open_session(made, subject="net").run(IMAGES)
        errors.append(float(np.linalg.norm(got - expected)))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("coding", list(Coding))
def test_the_output_tends_to_the_source_s_with_the_timesteps(coding):
    network, plan, shapes = spiking.read(attending("e = Mul (d, root)  a = Softmax (e)"), (3, 8, 8))
    (expected,) = open_session(network.model, subject="net").run(IMAGES)
    centres = observed(network, plan, shapes).centres
    centred, known = with_centred_keys(network, plan, centres, shapes)
    made = insert_neurons(centred, plan, neurons(15, reach=8), known)
    counted = with_outputs(made, [spikes_name("k")])
    assert np.abs(open_session(counted, subject="net").run(IMAGES)[0]).max() > 0
    errors = []
    for timesteps in (2, 8):
        unrolled = unroll_timesteps(made, plan, timesteps=timesteps, coding=coding)
        got = open_session(unrolled, subject="net").run(IMAGES)[0]
        errors.append(float(np.linalg.norm(got - expected)))
    assert errors[1] < 0.5 * errors[0]

"""Attention over spikes is an average: products of a softmax are divided by the sums of what its spikes carry."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import spiking
import tiny
from trainable import attention

from pmsm_cli.graph.insert import insert_neurons, spikes_name
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.graph.rows import LEAST_SUM, row_sum_name
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.neuron.reference import initial_state, running_value, step
from pmsm_cli.runtime.count import count_spikes
from pmsm_cli.runtime.library import find_library
from pmsm_cli.runtime.session import open_session

IMAGES = tiny.images(6)
V = np.float32(0.125)  # the threshold of the values v
HEADS = np.array([0.15, 0.23], np.float32)  # thresholds of the weights a over the largest of a row


def averaging(a: str = "a = Softmax (s)", product: str = "y = MatMul (a, v)", *, opset: int = 20) -> onnx.ModelProto:
    """Two maps of the image, 2 heads of [8, 8]: scores s, whose softmax averages the values v."""
    return tiny.model(
        f"""
        averaging (float[N, 3, 8, 8] image) => (float[N, 2, 8, 8] y) {{
            s = Conv <pads = [1, 1, 1, 1]> (image, w1)
            v = Conv <pads = [1, 1, 1, 1]> (image, w2, common)
            {a}
            {product}
        }}""",
        opset=opset,
        w1=tiny.weights(2, 3, 3, 3),
        w2=tiny.weights(2, 3, 3, 3, seed=1),
        common=np.ones(2, np.float32),  # what the values of a head have in common goes up and down with the sums
        split=np.array([0, 2, 2, 4, 8]),
        join=np.array([0, 2, 8, 8]),
        halves=np.array([0, 2, 16, 4]),
        wholes=np.array([0, 2, 8, 8]),
    )


Read = tuple[Network, SitePlan, dict[str, Shape]]


def read(proto: onnx.ModelProto) -> Read:
    return spiking.read(proto, (3, 8, 8))


def neurons(plan: SitePlan, *, levels: int = 63, factor: float | np.ndarray = 1.0) -> dict[str, NeuronParameters]:
    """Fine ones for v, coarse ones a head for everything else (the softmax, whatever it is called)."""
    return {
        site.name: NeuronParameters(
            threshold=np.array(V) if site.name == "v" else HEADS * np.float32(factor),
            negative_levels=levels if site.name == "v" else 0,
            positive_levels=levels,
        )
        for site in plan.sites
    }


def run(model: ir.Model, *, native: bool = False) -> dict[str, np.ndarray]:
    session = open_session(model, subject="net.onnx", native=native)
    return dict(zip(session.output_names, session.run(IMAGES), strict=True))


def averaged(model: ir.Model) -> set[str]:
    """The nodes that sum up spikes."""
    return {node.name or "" for node in model.graph if node.op_type == "ReduceSum"}


def source_values(proto: onnx.ModelProto, *names: str) -> list[np.ndarray]:
    return list(run(with_outputs(read(proto)[0].model, names)).values())


def test_the_first_step_is_the_average_by_what_spikes_carry():
    network, plan, shapes = read(averaging())
    weights, values = source_values(averaging(), "a", "v")
    weights /= weights.max(-1, keepdims=True)
    theta = HEADS[:, None, None]
    carried = theta * np.clip(np.round(weights / theta), 0, 63)
    expected = carried @ (np.clip(np.round(values / V), -63, 63) * V) / carried.sum(-1, keepdims=True)
    got = run(insert_neurons(network, plan, neurons(plan), shapes))["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coding", Coding)
def test_every_step_averages_by_the_running_counts(coding: Coding):
    network, plan, shapes = read(averaging())
    weights, values = source_values(averaging(), "a", "v")
    weights /= weights.max(-1, keepdims=True)
    theta = HEADS[:, None, None]
    states = [initial_state(weights), initial_state(values)]
    expected = []
    for _ in range(5):
        _, states[0] = step(weights, states[0], theta, negative_levels=0, positive_levels=63, coding=coding)
        _, states[1] = step(values, states[1], V, negative_levels=63, positive_levels=63, coding=coding)
        carried = running_value(states[0], theta, coding)
        averaged_values = carried @ running_value(states[1], V, coding)
        expected.append(averaged_values / np.maximum(carried.sum(-1, keepdims=True), LEAST_SUM))
    flat = insert_neurons(network, plan, neurons(plan), shapes)
    got = run(unroll_timesteps(flat, plan, timesteps=5, coding=coding))["y_per_step"]
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("coding", Coding)
def test_the_error_falls_over_eight_steps_and_the_output_tends_to_the_source_s(coding: Coding):
    network, plan, shapes = read(averaging())
    (source,) = source_values(averaging(), "y")
    flat = insert_neurons(network, plan, neurons(plan), shapes)
    per_step = run(unroll_timesteps(flat, plan, timesteps=8, coding=coding))["y_per_step"]
    errors = [float(np.linalg.norm(each - source) / np.linalg.norm(source)) for each in per_step]
    if coding is Coding.REFINE:
        assert all(later < earlier for earlier, later in itertools.pairwise(errors))
        assert errors[-1] < errors[0] / 60
    else:
        assert errors[-1] < errors[3] < errors[0]
        assert errors[-1] < errors[0] / 5


def test_as_many_levels_give_less_error_than_a_plain_product():
    network, plan, shapes = read(averaging())
    source, weights, values = source_values(averaging(), "y", "a", "v")
    flat = insert_neurons(network, plan, neurons(plan, factor=(1 / 7) / HEADS), shapes)
    plain = np.clip(np.round(weights * 7), 0, 7) / 7 @ (np.round(values / V) * V)
    assert np.linalg.norm(run(flat)["y"] - source) < 0.5 * np.linalg.norm(plain - source)


def test_neurons_read_each_row_over_its_largest_weight_and_so_does_calibration():
    checkpoint = spiking.checkpoint_of(averaging(), IMAGES)
    network, plan, _ = read(averaging())
    assert [(site.name, site.relative_axis) for site in plan.sites] == [("a", -1), ("v", None)]
    (weights,) = source_values(averaging(), "a")
    statistics = spiking.seen(network, plan, IMAGES).statistics["a"]
    assert statistics.highest.tolist() == [1, 1]
    lowest = (weights / weights.max(-1, keepdims=True)).min((0, 2, 3))
    np.testing.assert_allclose(statistics.lowest, lowest, rtol=1e-5)
    spikes = run(with_outputs(checkpoint.model, [spikes_name("a")]))[spikes_name("a")]
    assert (spikes.max(-1) > 0).all()


def test_weights_that_something_else_multiplies_keep_their_scale():
    proto = averaging(product="b = MatMul (a, v) c = MatMul (v, a) y = Add (b, c)")
    network, plan, shapes = read(proto)
    assert {site.name: site.relative_axis for site in plan.sites} == {"a": None, "v": None}
    flat = insert_neurons(network, plan, neurons(plan, factor=0.2), shapes)
    assert len(averaged(flat)) == 1
    (source,) = source_values(proto, "y")
    assert np.linalg.norm(run(flat)["y"] - source) < 0.1 * np.linalg.norm(source)


@pytest.mark.parametrize("timesteps", [1, 4])
def test_rows_without_spikes_give_nothing_and_no_nan(timesteps: int):
    network, plan, shapes = read(averaging())
    flat = insert_neurons(network, plan, neurons(plan, factor=1e6), shapes)
    model = flat if timesteps == 1 else unroll_timesteps(flat, plan, timesteps=timesteps, coding=Coding.RATE)
    assert not run(model)["y"].any()


def test_a_row_with_a_single_spike_gives_the_value_that_it_points_at():
    network, plan, shapes = read(averaging())
    named = run(
        with_outputs(
            insert_neurons(network, plan, neurons(plan, factor=5), shapes), ["y", spikes_name("a"), spikes_name("v")]
        )
    )
    spikes = named[spikes_name("a")]
    single = spikes.sum(-1) == 1
    assert 0 < single.sum() < single.size
    pointed = np.take_along_axis(named[spikes_name("v")] * V, spikes.argmax(-1)[..., None], axis=-2)
    np.testing.assert_allclose(named["y"][single], pointed[single], rtol=1e-6)


@pytest.mark.parametrize("opset", [13, 17, 22])
def test_every_opset_has_the_operators(opset: int):
    network, plan, shapes = read(averaging(opset=opset))
    flat = insert_neurons(network, plan, neurons(plan), shapes)
    model = ir.to_proto(unroll_timesteps(flat, plan, timesteps=3, coding=Coding.RATE))
    onnx.checker.check_model(model, full_check=True)
    assert np.isfinite(run(ir.from_proto(model))["y"]).all()


AVERAGES = {
    "softmax": ("a = Softmax (s)", "y = MatMul (a, v)", 0),
    "softmax, its axis from the left": ("a = Softmax <axis = 3> (s)", "y = MatMul (a, v)", 0),
    "reshaped and back": ("b = Softmax (s) c = Reshape (b, split) a = Reshape (c, join)", "y = MatMul (a, v)", 0),
    "heads moved": (
        "b = Softmax (s) c = Transpose <perm = [1, 0, 2, 3]> (b) a = Transpose <perm = [1, 0, 2, 3]> (c)",
        "y = MatMul (a, v)",
        0,
    ),
    "over columns, turned": (
        "b = Softmax <axis = 2> (s) a = Transpose <perm = [0, 1, 3, 2]> (b)",
        "y = MatMul (a, v)",
        0,
    ),
    "on the right": ("b = Softmax (s) a = Transpose <perm = [0, 1, 3, 2]> (b)", "y = MatMul (v, a)", 1),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_a_softmax_is_found_behind_what_only_moves_its_rows(name: str):
    a, product, operand = AVERAGES[name]
    network, plan, shapes = read(averaging(a, product))
    flat = insert_neurons(network, plan, neurons(plan), shapes)
    (node,) = [node.name for node in network.model.graph if node.op_type == "MatMul"]
    assert averaged(flat) == {row_sum_name(node, operand)}
    (source,) = source_values(averaging(a, product), "y")
    last = run(unroll_timesteps(flat, plan, timesteps=10, coding=Coding.REFINE))["y"]
    np.testing.assert_allclose(last, source, atol=0.02)


PLAIN = {
    "no softmax": ("a = Relu (s)", "y = MatMul (a, v)"),
    "a softmax over the other axis": ("a = Softmax <axis = 2> (s)", "y = MatMul (a, v)"),
    "a softmax over the heads": ("a = Softmax <axis = 1> (s)", "y = MatMul (a, v)"),
    "rows turned into columns": ("b = Softmax (s) a = Transpose <perm = [0, 1, 3, 2]> (b)", "y = MatMul (a, v)"),
    "rows cut in two": (
        "b = Softmax (s) c = Reshape (b, halves) d = Identity (c) e = Relu (d) a = Reshape (e, wholes)",
        "y = MatMul (a, v)",
    ),
    "no longer a softmax": ("b = Softmax (s) a = Mul (b, b)", "y = MatMul (a, v)"),
    "on the right, over its rows": ("a = Softmax (s)", "y = MatMul (v, a)"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_other_products_stay_plain_products(name: str):
    network, plan, shapes = read(averaging(*PLAIN[name]))
    flat = insert_neurons(network, plan, neurons(plan), shapes)
    assert averaged(flat) == set()
    (product,) = [node for node in network.model.graph if node.op_type == "MatMul"]
    left, right = (value.name or "" for value in product.inputs if value is not None)
    named = run(with_outputs(flat, ["y", spikes_name(left), spikes_name(right)]))
    plain = named[spikes_name(left)] @ named[spikes_name(right)] * HEADS[:, None, None] * V
    np.testing.assert_allclose(named["y"], plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("timesteps", [1, 3])
def test_row_sums_are_billed_an_accumulate_a_spike(timesteps: int):
    checkpoint = spiking.checkpoint_of(attention(), IMAGES, timesteps=timesteps)
    counted = {site.name: site for site in count_spikes(checkpoint, spiking.batches_of(IMAGES, 6)).sites}
    assert counted["a"].spikes.all()
    # 8 products with values, and the sum
    np.testing.assert_allclose(counted["a"].synaptic_ops, counted["a"].spikes * 9, rtol=1e-6)


@pytest.mark.parametrize("timesteps", [1, 4])
@pytest.mark.parametrize("coding", Coding)
@pytest.mark.skipif(find_library() is None, reason="the native library was not built")
def test_the_native_library_gives_the_same_averages(timesteps: int, coding: Coding):
    model = spiking.checkpoint_of(attention(), IMAGES, timesteps=timesteps, coding=coding).model
    for ours, bodies in zip(run(model, native=True).values(), run(model).values(), strict=True):
        assert np.array_equal(ours, bodies)

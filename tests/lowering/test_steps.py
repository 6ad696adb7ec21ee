"""Several timesteps on the native library: rows of one batch, or a Scan, and the very same spikes."""

import integers
import numpy as np
import onnx_ir as ir
import pytest
import spiking
import tiny
from timesteps import APART, IMAGE, A, assert_alike, checkpoint_of, network
from trainable import attention

from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.matching import apply_corrections
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.lowering.lower import Use, tidy, tidy_steps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.parameters import Correction
from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")


TOGETHER = {
    "softmax": f"{A} d = Softmax <axis = 0> (a)",
    "mean": f"{A} m = ReduceMean (a, zero) d = Sub (a, m)",
    "order": f"{A} d = Slice (a, minus, least, zero, minus)",
    "sums": f"{A} d = CumSum (a, zero)",
    "the first": f"{A} f = Gather <axis = 0> (a, zero) d = Add (a, f)",
    "joined": f"{A} c = Concat <axis = 0> (a, a) h = ReduceMean (c, zero) d = Add (a, h)",
    "mixed": f"{A} r = Reshape (a, mixed) t = Tanh (r) d = Reshape (t, back)",
    "order, computed": f"{A} s = Neg (one) d = Slice (a, zero, most, zero, s)",
    "vector": f"{A} r = Reshape (a, rows_of_16) m = MatMul (r, v) t = Softmax <axis = 0> (m) u = Unsqueeze (t, two)"
    " w = Mul (r, u) d = Reshape (w, back)",
}


def tidied(checkpoint: spiking.Checkpoint) -> ir.Model:
    after, changed = tidy_steps(checkpoint.model, Use(), IMAGE)
    assert changed == (spiking.serialised(after) != spiking.serialised(checkpoint.model))
    return after


@pytest.mark.parametrize("coding", list(Coding))
@pytest.mark.parametrize("name", APART)
def test_later_steps_are_rows_of_one_batch(name, coding):
    checkpoint = checkpoint_of(APART[name], timesteps=3, coding=coding)
    after = tidied(checkpoint)
    assert "Scan" not in integers.ops(after)
    assert_alike(after, checkpoint.model, tiny.images(4, seed=1))
    assert_alike(after, checkpoint.model, tiny.images(1, seed=2))


@pytest.mark.parametrize("name", TOGETHER)
def test_steps_stay_a_scan_where_an_operator_mixes_images(name):
    checkpoint = checkpoint_of(TOGETHER[name], timesteps=3)
    after = tidied(checkpoint)
    assert integers.ops(after)["Scan"] == 1
    assert_alike(after, checkpoint.model, tiny.images(4, seed=1))


@pytest.mark.parametrize("name", ["residual of the image", "images on another axis", "rows of an image"])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_no_hindrance(name, batch):
    checkpoint = checkpoint_of(APART[name], batch=batch, timesteps=3)
    after = tidied(checkpoint)
    assert "Scan" not in integers.ops(after)
    assert_alike(after, checkpoint.model, tiny.images(batch, seed=2))  # among those of seed 1 is a tie


def test_what_the_image_alone_decides_is_computed_once_and_weights_are_not_copied():
    after = tidied(checkpoint_of(APART["relu"], timesteps=4))
    weights = [node.inputs[1].name for node in after.graph if node.op_type == "Conv"]
    assert len(weights) == 1 + 2 * 2  # the analog layer, then each layer for the first step and for the others
    assert len(set(weights)) == 3
    assert "Concat" not in [node.op_type for node in after.graph if node.name.startswith("j")]


def test_products_of_two_spiking_tensors_are_rows_too():
    checkpoint = spiking.checkpoint_of(attention(), tiny.images(8), timesteps=3)
    after = tidied(checkpoint)
    assert "Scan" not in integers.ops(after)
    assert_alike(after, checkpoint.model, tiny.images(4))


def test_many_steps_stay_a_scan():
    checkpoint = checkpoint_of(APART["relu"], timesteps=12)
    after = tidied(checkpoint)
    assert integers.ops(after)["Scan"] == 1
    assert_alike(after, checkpoint.model, tiny.images(4))


@pytest.mark.parametrize("coding", list(Coding))
def test_matched_moments_correct_the_first_step_alone(coding):
    net, plan, shapes = spiking.read(network(APART["residual of spikes"]), IMAGE)
    parameters = checkpoint_of(APART["residual of spikes"]).manifest.calibration.parameters
    model = insert_neurons(net, plan, parameters, shapes)
    corrections = (Correction(node="a", scale=np.full(4, 1.5, np.float32), shift=np.full(4, 0.5, np.float32)),)
    before = unroll_timesteps(apply_corrections(model, corrections, fold=False), plan, timesteps=3, coding=coding)
    after, _ = tidy_steps(before, Use(), IMAGE)
    assert "Scan" not in integers.ops(after)
    assert_alike(after, before, tiny.images(4, seed=1))
    plain = unroll_timesteps(model, plan, timesteps=3, coding=coding)
    first, other = (integers.outputs(each, tiny.images(4, seed=1), library=LIBRARY)[1][0] for each in (after, plain))
    assert np.abs(first - other).max() > 0.1


def test_the_file_s_graph_stays_as_it_was():
    checkpoint = checkpoint_of(APART["residual of spikes"], timesteps=3)
    before = spiking.serialised(checkpoint.model)
    tidy_steps(checkpoint.model, Use(), IMAGE)
    assert spiking.serialised(checkpoint.model) == before


@pytest.mark.parametrize("wide", [26, 251])
def test_a_size_that_is_a_multiple_of_the_images_looked_at_is_no_row(wide):
    proto = tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, {wide}, 8, 8] scores) {{
            i = Conv (image, w0)
            j = Relu (i)
            a = Conv (j, w1)
            r = Reshape (a, mixed)
            t = Softmax <axis = 1> (r)
            d = Reshape (t, back)
            scores = Conv (d, w3)
        }}""",
        w0=tiny.weights(wide, 3, 1, 1),
        w1=tiny.weights(wide, wide, 1, 1, seed=1),
        w3=tiny.weights(wide, wide, 1, 1, seed=2),
        mixed=np.array([wide, -1, 8, 8]),
        back=np.array([-1, wide, 8, 8]),
    )
    checkpoint = spiking.checkpoint_of(proto, tiny.images(8), timesteps=3)
    after = tidied(checkpoint)
    assert integers.ops(after)["Scan"] == 1
    assert_alike(after, checkpoint.model, tiny.images(4, seed=1))


WIDENED = {
    "sum": f"{A} s = Add (a, k4) m = ReduceMean <keepdims = 1> (s, zero) d = Add (a, m)",
    "expansion": f"{A} e = Expand (a, wider) m = ReduceMean <keepdims = 1> (e, zero) d = Add (a, m)",
}


@pytest.mark.parametrize("timesteps", [2, 3, 5])
@pytest.mark.parametrize("name", WIDENED)
def test_a_single_image_that_is_repeated_is_not_taken_for_rows(name, timesteps):
    checkpoint = checkpoint_of(WIDENED[name], batch=1, timesteps=timesteps)
    after = tidied(checkpoint)
    assert_alike(after, checkpoint.model, tiny.images(1, seed=2))


def test_what_the_image_alone_decides_may_be_repeated_along_two_axes():
    body = f"{A} s = Add (a, kk) h = Tanh (s) t = Transpose <perm = [1, 0, 2, 3]> (h) u = Add (t, kk) d = Relu (u)"
    checkpoint = checkpoint_of(body, batch=4, timesteps=3)
    assert_alike(tidied(checkpoint), checkpoint.model, tiny.images(4, seed=2))


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize(
    "body", [f"{A} d = Sub (a, apart)", f"{A} m = GlobalAveragePool (a) s = Sub (m, apart) d = Add (a, s)"]
)
def test_a_network_s_own_subtraction_is_no_resting_value_unless_it_lies_like_one(body, timesteps):
    checkpoint = checkpoint_of(body, timesteps=timesteps)
    after = tidied(checkpoint) if timesteps > 1 else tidy(checkpoint.model, Use())[0]
    assert_alike(after, checkpoint.model, tiny.images(4, seed=2))

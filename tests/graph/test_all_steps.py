"""One timestep in the place of several, and back."""

import integers
import numpy as np
import onnx_ir as ir
import pytest
import spiking
import tiny
from timesteps import APART, IMAGE, checkpoint_of, network_of
from trainable import attention

from pmsm_cli.graph.all_steps import back_to_first_step, through_all_steps
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.matching import apply_corrections, settle_corrections
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.parameters import Correction

IMAGES = tiny.images(4, seed=1)


def made(proto, parameters):
    network, plan, shapes = spiking.read(proto, IMAGE)
    return insert_neurons(network, plan, parameters, shapes), plan


def body(name: str) -> tuple[ir.Model, object]:
    return made(network_of(APART[name]), checkpoint_of(APART[name]).manifest.calibration.parameters)


@pytest.mark.parametrize("coding", list(Coding))
@pytest.mark.parametrize("timesteps", [2, 3, 4])
def test_a_value_that_does_not_change_is_carried_as_the_last_step_carries_it(timesteps, coding):
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 5, 8, 8] scores) {
            i = Conv <pads = [1, 1, 1, 1]> (image, w0)
            scores = Conv <pads = [1, 1, 1, 1]> (i, w1)
        }""",
        w0=tiny.weights(4, 3, 3, 3),
        w1=tiny.weights(5, 4, 3, 3, seed=1),
    )
    checkpoint = spiking.checkpoint_of(proto, tiny.images(8), levels=3)
    model, plan = made(proto, checkpoint.manifest.calibration.parameters)
    last = integers.outputs(unroll_timesteps(model, plan, timesteps=timesteps, coding=coding), IMAGES)[0]
    at_once = integers.outputs(through_all_steps(model, timesteps=timesteps, coding=coding), IMAGES)[0]
    np.testing.assert_allclose(at_once, last, atol=1e-4)
    assert np.abs(at_once - integers.outputs(model, IMAGES)[0]).max() > 0.01


@pytest.mark.parametrize("name", ["relu", "residual of spikes", "gates"])
def test_the_way_back_leads_to_the_graph_that_it_was(name):
    model, _ = body(name)
    there = through_all_steps(model, timesteps=3, coding=Coding.REFINE)
    back = back_to_first_step(there, model)
    np.testing.assert_array_equal(integers.outputs(back, IMAGES)[0], integers.outputs(model, IMAGES)[0])
    assert integers.ops(back) == integers.ops(model)


def test_products_and_the_sums_that_divide_them_see_the_same_counts():
    checkpoint = spiking.checkpoint_of(attention(), tiny.images(8), levels=31)
    model, _ = made(attention(), checkpoint.manifest.calibration.parameters)
    source = integers.outputs(spiking.read(attention(), IMAGE)[0].model, IMAGES)[0]
    errors = [
        np.linalg.norm(integers.outputs(each, IMAGES)[0] - source)
        for each in (model, through_all_steps(model, timesteps=3, coding=Coding.REFINE))
    ]
    assert errors[1] < 0.5 * errors[0]


def test_settled_corrections_hold_at_every_step():
    model, plan = body("residual of spikes")
    corrections = (Correction(node="a", scale=np.full(4, 1.5, np.float32), shift=np.full(4, 0.5, np.float32)),)
    once = apply_corrections(model, corrections, fold=False)
    always = once.clone()
    settle_corrections(always)
    first, last = (
        [
            np.asarray(integers.outputs(unroll_timesteps(each, plan, timesteps=5, coding=Coding.REFINE), IMAGES)[1])[
                step
            ]
            for each in (once, always)
        ]
        for step in (0, 4)
    )
    np.testing.assert_array_equal(*first)
    assert np.abs(last[0] - last[1]).max() > 0.1
    again = apply_corrections(always, corrections, fold=False)  # others, behind those
    assert integers.ops(again)["Mul"] == integers.ops(always)["Mul"] + 1

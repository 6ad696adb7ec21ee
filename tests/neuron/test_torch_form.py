"""The neuron in torch: the same spikes as the specification, and the gradients that its docstring states."""

import numpy as np
import pytest
import torch
from test_onnx_function import SHAPE, awkward_values, threshold_on

from pmsm_cli.neuron import reference
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.torch_form import carried, initial_state, step


@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3])
@pytest.mark.parametrize(("n", "p"), [(0, 1), (0, 15), (3, 15), (15, 3), (255, 255)])
@pytest.mark.parametrize("coding", Coding)
def test_eight_steps_equal_the_specification(axis: int | None, n: int, p: int, coding: Coding):
    threshold = threshold_on(axis)
    expected_state = reference.initial_state(awkward_values())
    state = initial_state(torch.from_numpy(awkward_values()))
    for timestep in range(1, 9):
        values = awkward_values(seed=timestep)
        options = {"negative_levels": n, "positive_levels": p, "coding": coding}
        expected, expected_state = reference.step(values, expected_state, threshold, **options)
        spikes, state = step(torch.from_numpy(values), state, torch.from_numpy(threshold), **options)
        assert np.array_equal(spikes.numpy(), expected), timestep
        assert np.array_equal(state.emitted.numpy(), expected_state.emitted), timestep


@pytest.mark.parametrize("axis", [None, 1, 3])
@pytest.mark.parametrize(("n", "p"), [(0, 3), (2, 5)])
def test_what_is_carried_in_training_is_the_threshold_times_the_specified_spikes(axis: int | None, n: int, p: int):
    values, threshold = np.random.default_rng(0).normal(0, 3, SHAPE).astype(np.float32), threshold_on(axis)
    spikes, _ = reference.step(values, reference.initial_state(values), threshold, negative_levels=n, positive_levels=p)
    got = carried(torch.from_numpy(values), torch.from_numpy(threshold), negative_levels=n, positive_levels=p)
    np.testing.assert_array_equal(got.numpy(), spikes * threshold)


def test_a_value_that_is_not_a_number_stays_visible_in_training():
    got = carried(torch.tensor([np.nan, 1.0]), torch.tensor(1.0), negative_levels=0, positive_levels=3)
    assert torch.isnan(got).tolist() == [True, False]


@pytest.mark.parametrize("axis", [None, 1, 3])
def test_gradients_pass_inside_the_range_and_thresholds_follow_lsq(axis: int | None):
    random = np.random.default_rng(1)
    values = torch.from_numpy(random.normal(0, 3, SHAPE).astype(np.float32)).requires_grad_()
    threshold = torch.from_numpy(threshold_on(axis)).requires_grad_()
    weight = torch.from_numpy(random.normal(0, 1, SHAPE).astype(np.float32))
    (carried(values, threshold, negative_levels=2, positive_levels=3) * weight).sum().backward()

    wanted = (values / threshold).detach()
    inside = (wanted > -2) & (wanted < 3)
    assert 0.2 < inside.float().mean() < 0.9  # both cases occur
    torch.testing.assert_close(values.grad, weight * inside)
    spikes = wanted.round().clamp(-2, 3)
    expected = torch.where(inside, spikes - wanted, spikes) * weight
    torch.testing.assert_close(threshold.grad, expected.sum_to_size(threshold.shape), rtol=1e-4, atol=1e-4)

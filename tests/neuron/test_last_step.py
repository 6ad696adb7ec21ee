"""All timesteps of a constant value as one step of other neurons, against the specification."""

import numpy as np
import pytest

from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.last_step import after_all_steps
from pmsm_cli.neuron.parameters import MOST_LEVELS, NeuronParameters
from pmsm_cli.neuron.reference import initial_state, running_value, step


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("timesteps", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("negative", "positive"), [(0, 3), (3, 3), (2, 5), (0, 1)])
def test_one_step_carries_what_all_steps_carry(coding: Coding, timesteps: int, negative: int, positive: int):
    random = np.random.default_rng((timesteps, negative, positive))
    lowest = -4 * negative if negative else 0
    values = random.uniform(lowest, 4 * positive, 4000).astype(np.float32)
    theta = np.float32(0.7)
    state = initial_state(values)
    for _ in range(timesteps):
        _, state = step(values, state, theta, negative_levels=negative, positive_levels=positive, coding=coding)
    neurons = NeuronParameters(threshold=np.asarray(theta), negative_levels=negative, positive_levels=positive)
    one = after_all_steps(neurons, timesteps, coding)
    carried = one.threshold * np.clip(np.round(values / one.threshold), -one.negative_levels, one.positive_levels)
    np.testing.assert_allclose(carried, running_value(state, theta, coding), atol=1e-5)


@pytest.mark.parametrize("coding", Coding)
def test_what_rests_stays_where_it_is(coding: Coding):
    neurons = NeuronParameters(
        threshold=np.array([0.5, 2.0], np.float32),
        negative_levels=3,
        positive_levels=3,
        rest=np.array([4, 1], np.float32),
    )
    np.testing.assert_allclose(after_all_steps(neurons, 5, coding).resting_value, neurons.resting_value)


def test_many_steps_do_not_exceed_the_levels_that_float32_can_count():
    neurons = NeuronParameters(threshold=np.ones((), np.float32), negative_levels=0, positive_levels=MOST_LEVELS)
    assert after_all_steps(neurons, 1000, Coding.REFINE).positive_levels == MOST_LEVELS

"""The numpy neuron against traces worked out by hand, and against its own limits."""

import numpy as np
import pytest

from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.reference import NeuronState, initial_state, running_value, step

ONE = np.float32(1.0)


def trace(value: float, *, steps: int, coding: Coding, negative: int = 0, positive: int = 3, theta: float = 1.0):
    values, threshold = np.array([value], np.float32), np.float32(theta)
    state, emitted, running = initial_state(values), [], []
    for _ in range(steps):
        spikes, state = step(
            values, state, threshold, negative_levels=negative, positive_levels=positive, coding=coding
        )
        emitted.append(float(spikes[0]))
        running.append(float(running_value(state, threshold, coding)[0]))
    return emitted, running


def test_refine_halves_the_threshold_at_every_step():
    # 2.6 -> 3; lacks -0.4, in halves -0.8 -> -1; lacks 0.1, in quarters 0.4 -> 0; in eighths 0.8 -> 1
    assert trace(2.6, steps=4, coding=Coding.REFINE) == ([3, -1, 0, 1], [3, 2.5, 2.5, 2.625])


def test_refine_recovers_a_clipped_value_as_far_as_its_levels_reach():
    # P = 3: 3, then 3 halves, then 3 quarters, ...: never beyond 6
    assert trace(9.0, steps=3, coding=Coding.REFINE) == ([3, 3, 3], [3, 4.5, 5.25])


def test_rate_keeps_the_mean_of_its_spikes_near_the_value():
    # cumulated targets 1.4, 2.8, 4.2, 5.6, 7 -> 1, 3, 4, 6, 7
    assert trace(1.4, steps=5, coding=Coding.RATE)[0] == [1, 2, 1, 2, 1]


def test_rate_emits_negative_corrections_after_the_first_step_where_values_cannot_be_negative():
    values = np.array([2.0], np.float32)
    spikes, state = step(values, initial_state(values), ONE, negative_levels=0, positive_levels=3, coding=Coding.RATE)
    assert spikes[0] == 2
    spikes, _ = step(values * 0, state, ONE, negative_levels=0, positive_levels=3, coding=Coding.RATE)
    assert spikes[0] == -2


def test_a_negative_value_emits_nothing_at_the_first_step_where_n_is_zero():
    assert trace(-5.0, steps=1, coding=Coding.REFINE)[0] == [0]


def test_a_negative_value_emits_negative_spikes_up_to_n():
    assert trace(-5.0, steps=1, coding=Coding.REFINE, negative=2)[0] == [-2]
    assert trace(-1.2, steps=1, coding=Coding.REFINE, negative=2)[0] == [-1]


@pytest.mark.parametrize(
    ("value", "spikes"), [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-2.5, -2), (0.50001, 1)]
)
def test_ties_go_to_the_even_count(value: float, spikes: int):
    assert trace(value, steps=1, coding=Coding.REFINE, negative=3)[0] == [spikes]


@pytest.mark.parametrize(("value", "spikes"), [(np.inf, 3), (-np.inf, -2), (np.nan, 0), (3e38, 3), (1e-45, 0)])
def test_values_that_are_not_finite_are_defined(value: float, spikes: int):
    assert trace(value, steps=1, coding=Coding.REFINE, negative=2, theta=0.5)[0] == [spikes]


@pytest.mark.parametrize("coding", Coding)
def test_a_value_that_is_not_a_number_leaves_the_state_alone(coding: Coding):
    emitted, running = trace(np.nan, steps=3, coding=coding)
    assert emitted == [0, 0, 0]
    assert running == [0, 0, 0]


@pytest.mark.parametrize("coding", Coding)
def test_both_codings_agree_at_the_first_step(coding: Coding):
    values = np.random.default_rng(0).normal(0, 3, 1000).astype(np.float32)
    spikes, _ = step(values, initial_state(values), ONE, negative_levels=5, positive_levels=7, coding=coding)
    assert np.array_equal(spikes, np.clip(np.round(values), -5, 7))


@pytest.mark.parametrize("timesteps", [1, 2, 4, 8, 16])
def test_the_error_of_refine_falls_as_two_to_the_minus_t(timesteps: int):
    values = np.random.default_rng(1).uniform(0, 7, 1000).astype(np.float32)
    state = initial_state(values)
    for _ in range(timesteps):
        _, state = step(values, state, ONE, negative_levels=0, positive_levels=7)
    worst = np.abs(running_value(state, ONE, Coding.REFINE) - values).max()
    assert worst <= 0.5 * 2.0 ** (1 - timesteps) * 1.001 + 1e-6


@pytest.mark.parametrize("timesteps", [1, 2, 4, 8, 100])
def test_the_error_of_rate_falls_as_one_over_t(timesteps: int):
    values = np.random.default_rng(1).uniform(0, 7, 1000).astype(np.float32)
    state = initial_state(values)
    for _ in range(timesteps):
        _, state = step(values, state, ONE, negative_levels=0, positive_levels=7, coding=Coding.RATE)
    assert np.abs(running_value(state, ONE, Coding.RATE) - values).max() <= 0.5 / timesteps + 1e-4


def test_a_threshold_per_channel_broadcasts():
    values = np.ones((2, 3, 4), np.float32)
    threshold = np.array([0.5, 1.0, 2.0], np.float32).reshape(3, 1)
    spikes, _ = step(values, initial_state(values), threshold, negative_levels=0, positive_levels=9)
    assert spikes[0, :, 0].tolist() == [2, 1, 0]


def test_no_argument_is_modified():
    values = np.array([1.3, -0.2], np.float32)
    state = NeuronState(np.array([1.0, 0.0], np.float32), 1)
    before = values.copy(), state.emitted.copy()
    step(values, state, ONE, negative_levels=1, positive_levels=1)
    assert np.array_equal(values, before[0])
    assert np.array_equal(state.emitted, before[1])


def test_timesteps_before_the_first_are_refused():
    with pytest.raises(ValueError, match="count from 1"):
        Coding.RATE.at(0)

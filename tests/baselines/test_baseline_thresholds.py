"""The baselines' thresholds, worked out by hand, and the settings that each method may choose among."""

import numpy as np
import pytest
from observing import observe

from pmsm_cli.baselines.methods import ABOUT, Baseline, Observed, candidates
from pmsm_cli.baselines.plan import NeuronPlan
from pmsm_cli.baselines.thresholds import largest, largest_of_neurons, least_squares, percentile, pooled
from pmsm_cli.graph.sites import Site


def rectified(*rows: list[float]) -> np.ndarray:
    return np.maximum(np.array(rows, np.float32), 0)


def test_the_largest_activation_is_that_of_each_channel_or_of_all():
    seen = observe(rectified([0, 1, 5], [0.5, -2, 2]))
    np.testing.assert_array_equal(largest(seen), [5, 2])
    np.testing.assert_array_equal(largest(pooled(seen)), [5])


def test_a_channel_that_was_never_active_gets_the_threshold_of_the_others():
    np.testing.assert_array_equal(largest(observe(rectified([0, 1, 5], [0, 0, 0], [0, 0, 2]))), [5, 3.5, 2])
    np.testing.assert_array_equal(largest(observe(np.zeros((2, 9)))), [1, 1])


def test_the_percentile_is_that_of_all_or_of_those_above_0():
    values = np.concatenate([np.zeros(9000), np.linspace(0.01, 1, 1999), [50.0]])[None]
    assert percentile(observe(values), 99.9, above_zero=True)[0] == pytest.approx(1, abs=0.03)
    assert percentile(observe(values), 50, above_zero=True)[0] == pytest.approx(0.5, abs=0.03)
    assert percentile(observe(values), 91)[0] == pytest.approx(0.5, abs=0.03)  # of 11,000 the 10,010th


def test_a_channel_that_is_hardly_ever_active_has_its_largest_activation_for_its_percentile():
    values = np.concatenate([np.zeros(99999), [3.0]])[None]
    assert percentile(observe(values), 99.9)[0] == 3.0


def test_the_percentile_of_all_channels_together_weighs_them_by_their_values():
    values = rectified(np.full(3000, 1.0), np.concatenate([np.full(2998, 2.0), [8.0, 8.0]]))
    assert percentile(pooled(observe(values)), 99.9)[0] == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("levels", [4, 16])
def test_least_squares_finds_the_grid_that_the_activations_are_on(levels: int):
    random = np.random.default_rng(levels)
    values = 3.2 / levels * random.integers(0, levels + 1, (1, 4000))
    assert least_squares(observe(values), levels)[0] == pytest.approx(3.2, rel=0.01)


def test_least_squares_clips_a_lonely_outlier():
    values = np.append(np.random.default_rng(0).uniform(0, 1, 50000), 20.0)[None]
    assert least_squares(observe(values), 4)[0] < 2


def test_pooled_statistics_hold_every_value():
    seen = observe(rectified([0, 1, 5, 2], [0.5, -2, 2, 1]))
    assert pooled(seen).values == seen.values == 8


def test_a_neuron_has_its_own_largest_activation_unless_it_was_never_active():
    maxima = np.array([[[0.5, 0.0]], [[2.0, 3.0]]], np.float32)
    thresholds = largest_of_neurons(maxima, np.array([[[4.0]], [[9.0]]], np.float32))
    np.testing.assert_array_equal(thresholds, [[[0.5, 4]], [[2, 3]]])


SITE = Site(name="r", channel_axis=-3, channels=2, neurons=8, readers=())
PLAN = NeuronPlan(neurons=(SITE,), uncovered=(), obstacles=())
VALUES = np.maximum(np.random.default_rng(0).normal(0, 1, (2, 4000)), 0)
SEEN = {"r": Observed(statistics=observe(VALUES), maxima=VALUES.reshape(2, 1000, 2, 2).max(axis=1).astype(np.float32))}


@pytest.mark.parametrize("method", Baseline)
def test_a_method_has_settings_of_its_own_kind(method: Baseline):
    found = list(candidates(method, PLAN, SEEN))
    assert len({each.description for each in found}) == len(found) > 3
    neurons = [each.neurons["r"] for each in found]
    assert {each.signed for each in neurons} == {method is Baseline.SIGNED_MEMORY}
    assert {each.start for each in neurons} == ({0.5} if method is Baseline.QCFS else {0.0, 0.5})
    assert {each.threshold.shape for each in neurons} >= {(), (2, 1, 1)}
    assert ((2, 2, 2) in {each.threshold.shape for each in neurons}) == (method is Baseline.SIGNED_MEMORY)


def test_every_method_names_its_paper():
    assert all("doi:" in each.paper or "arXiv" in each.paper for each in ABOUT.values())
    assert set(ABOUT) == set(Baseline)

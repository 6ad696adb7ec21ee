"""Each method against its definition, worked out value by value; and where neurons rest."""

import numpy as np
import pytest
from observing import observe

from pmsm_cli.calibration.calibrate import Images, calibrate
from pmsm_cli.calibration.emission import Neurons, Spread, emit
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.objectives import BITS_A_SPIKE, CLIPPED_COUNTS, divergence, information_lost
from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.calibration.thresholds import choose_parameters

RANDOM = np.random.default_rng(0)
SPARSE = np.maximum(RANDOM.normal(-0.5, 1, 20_000), 0)  # silent most of the time
BUSY = np.clip(RANDOM.normal(3, 1, 20_000), 0, 6)
SIGNED = RANDOM.normal(0.4, 1, 20_000)
SKEWED = RANDOM.gamma(2.0, 1.0, 20_000)
CHANNELS = {"sparse": SPARSE, "busy": BUSY, "signed": SIGNED, "skewed": SKEWED}


def carried(values: np.ndarray, theta: float, rest: float, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Spikes, and the values that they stand for."""
    spikes = np.clip(np.round(values / theta - rest), -levels, levels)
    return spikes, theta * (spikes + rest)


def price(values: np.ndarray, theta: float, rest: float, levels: int) -> float:
    """Minus the information conveyed, but for h(X), and the price of the spikes."""
    spikes, stands_for = carried(values, theta, rest, levels)
    counts = np.where(np.abs(values / theta - rest) > levels + 0.5, CLIPPED_COUNTS, 1)
    return float(0.5 * np.log2(np.mean(counts * (values - stands_for) ** 2)) + BITS_A_SPIKE * np.abs(spikes).mean())


def usual(values: np.ndarray) -> float:
    return float(np.median(values)) if np.median(values) != 0 else 0.0


@pytest.mark.parametrize("may_rest", [False, True])
@pytest.mark.parametrize("levels", [3, 15])
@pytest.mark.parametrize("name", CHANNELS)
def test_entropy_finds_what_brute_force_over_the_values_finds(name: str, levels: int, may_rest: bool):
    values = CHANNELS[name]
    chosen = choose_parameters(observe(values[None]), Method.ENTROPY, levels, may_rest=may_rest)
    middle = usual(values) if may_rest else 0.0

    def at(theta: float) -> float:
        return price(values, theta, float(np.clip(round(middle / theta), -levels, levels)), levels)

    best = min(at(theta) for theta in np.linspace(0.02, 1.0, 1500) * np.abs(values).max() / levels)
    theta, rest = float(chosen.threshold), float(chosen.rest)
    # Within a few hundredths of a bit: the search sees bins, brute force the values.
    assert price(values, theta, rest, levels) <= best + 0.03


def test_the_figure_of_entropy_is_distortion_in_bits_and_a_price_for_every_spike():
    statistics = observe(BUSY[None])
    for theta, rest in ((0.3, 0.0), (0.3, 10.0), (0.1, 30.0)):
        neurons = Neurons(np.array([theta], np.float32), np.array([rest], np.float32), 7, 7)
        assert information_lost(Spread.of(statistics), neurons)[0] == pytest.approx(
            price(BUSY, theta, rest, 7), abs=0.01
        )


@pytest.mark.parametrize("name", CHANNELS)
def test_less_is_clipped_than_by_least_squares(name: str):
    values = CHANNELS[name]
    reach = {
        method: float(chosen.threshold * (chosen.positive_levels + chosen.rest))
        for method in (Method.MSE, Method.ENTROPY)
        for chosen in [choose_parameters(observe(values[None]), method, 7)]
    }
    assert reach[Method.ENTROPY] > reach[Method.MSE] or reach[Method.MSE] > values.max()


def test_spikes_that_cost_something_are_fewer_than_least_squares_sends():
    """With many levels, that is: elsewhere precision is worth more than the price."""
    values = observe(SKEWED[None])
    sent = {}
    for method in (Method.MSE, Method.ENTROPY):
        chosen = choose_parameters(values, method, 255)
        sent[method] = np.abs(emit(values.centres, Neurons.of(chosen, 1)) * values.counts).sum() / values.values
    assert sent[Method.ENTROPY] < sent[Method.MSE]


def by_hand(counts: np.ndarray, wanted: np.ndarray, levels: int) -> float:
    """Kullback-Leibler divergence in bits, bin by bin: clipped values in the last bin, each level spread over its bins."""
    counts = counts.astype(float).copy()
    counts[0] = min(counts[0], counts[1])  # the zeros
    kept = np.where(wanted <= levels, counts, 0)
    if np.count_nonzero(kept) <= levels:
        return np.inf
    reference = kept.copy()
    reference[np.flatnonzero(kept)[-1]] += counts[wanted > levels].sum()
    found = 0.0
    for held, mine, level in zip(kept, reference, wanted, strict=True):
        if held:
            same = kept[(wanted == level) & (kept > 0)]
            found += mine / counts.sum() * np.log2(mine / counts.sum() / (same.mean() / kept.sum()))
    return found


def small_histogram(bins: int = 64) -> SiteStatistics:
    counts = np.histogram(SKEWED, bins, (0, 8))[0]
    return SiteStatistics(lowest=np.zeros(1, np.float32), highest=np.full(1, 8, np.float32), counts=counts[None])


def test_kl_finds_the_least_divergence_that_brute_force_finds_on_a_small_histogram():
    statistics = small_histogram()
    levels = 3

    def at(theta: float) -> float:
        return by_hand(statistics.counts[0], np.round(statistics.centres[0] / theta), levels)

    for theta in (0.1, 0.5, 1.3, 2.6):
        neurons = Neurons(np.full(1, theta, np.float32), np.zeros(1, np.float32), levels, levels)
        assert divergence(Spread.of(statistics), neurons)[0] == pytest.approx(at(theta), abs=1e-4)
    chosen = choose_parameters(statistics, Method.KL, levels)
    best = min(at(theta) for theta in np.linspace(0.02, 1.0, 1500) * 8 / levels)
    assert at(float(chosen.threshold)) <= best * 1.01 + 1e-6


def test_kl_is_not_drawn_to_tiny_thresholds_by_the_zeros_of_relu():
    chosen = choose_parameters(observe(SPARSE[None]), Method.KL, 7)
    assert 7 * chosen.threshold > np.quantile(SPARSE, 0.95)


@pytest.mark.parametrize("levels", [7, 63])
def test_kl_does_not_clip_a_busy_channel_to_a_bin_that_its_level_is_no_different_from(levels):
    busy = np.concatenate([np.clip(RANDOM.normal(4, 0.5, 20_000), 0, 6), [0.01, 0.3]])
    chosen = choose_parameters(observe(busy[None]), Method.KL, levels)
    assert levels * chosen.threshold > np.quantile(busy, 0.9)


def test_percentile_leaves_one_value_in_a_thousand_beyond_its_reach():
    values = np.linspace(0, 1000, 100_001)[None]
    (threshold,) = choose_parameters(observe(values), Method.PERCENTILE, 9).threshold[None]
    assert 9 * threshold == pytest.approx(999, abs=1)
    mostly_negative = choose_parameters(observe(-values), Method.PERCENTILE, 9)
    assert 9 * mostly_negative.threshold == pytest.approx(999, abs=1)


def test_percentile_of_a_channel_that_is_hardly_ever_active_is_its_largest_value():
    values = np.zeros((1, 100_000))
    values[0, :5] = 8
    assert 4 * choose_parameters(observe(values), Method.PERCENTILE, 4).threshold == pytest.approx(8, rel=1e-2)


def test_max_reaches_the_largest_magnitude_and_clips_nothing():
    chosen = choose_parameters(observe(np.array([[-6.0, 0, 1, 3], [0, 1, 2, 4]])), Method.MAX, 2)
    assert chosen.threshold.tolist() == [3, 2]
    assert (chosen.negative_levels, chosen.positive_levels) == (2, 2)


# Where neurons rest


def test_a_busy_channel_rests_at_its_median_and_a_sparse_one_at_0():
    chosen = choose_parameters(observe(np.stack([SPARSE, BUSY, SIGNED])), Method.ENTROPY, 15, may_rest=True)
    assert chosen.rest[0] == 0
    half = chosen.threshold / 2
    assert abs(chosen.resting_value[1] - np.median(BUSY)) <= half[1] + 0.01
    assert abs(chosen.resting_value[2] - np.median(SIGNED)) <= half[2] + 0.01
    assert np.array_equal(chosen.rest, np.round(chosen.rest))


@pytest.mark.parametrize("silent", [0.4, 0.49, 0.51, 0.9])
def test_a_channel_rests_at_0_just_where_it_is_silent_more_than_half_of_the_time(silent: float):
    values = RANDOM.uniform(4, 6, 10_000)
    values[: int(silent * 10_000)] = 0
    chosen = choose_parameters(observe(values[None]), Method.ENTROPY, 15, may_rest=True)
    assert (float(chosen.rest) == 0) == (silent > 0.5)


@pytest.mark.parametrize("method", [Method.MSE, Method.KL, Method.PERCENTILE, Method.MAX])
def test_the_other_methods_rest_at_0(method: Method):
    assert choose_parameters(observe(BUSY[None]), method, 15, may_rest=True).rests_at_zero


def test_neurons_that_may_not_rest_do_not():
    assert choose_parameters(observe(BUSY[None]), Method.ENTROPY, 15).rests_at_zero


def test_resting_costs_fewer_spikes_a_finer_threshold_and_uses_both_signs():
    statistics = observe(BUSY[None])
    resting, plain = (choose_parameters(statistics, Method.ENTROPY, 15, may_rest=rests) for rests in (True, False))
    spikes = {
        name: np.abs(emit(statistics.centres, Neurons.of(each, 1)) * statistics.counts).sum() / statistics.values
        for name, each in (("resting", resting), ("plain", plain))
    }
    assert spikes["resting"] < 0.6 * spikes["plain"]
    assert resting.threshold < 0.7 * plain.threshold
    assert resting.negative_levels > 0
    assert plain.negative_levels == 0


@pytest.mark.parametrize("levels", [1, 2, 7, 63])
def test_levels_are_never_more_than_asked_for_nor_than_the_values_need(levels: int):
    values = np.stack([SPARSE, BUSY, SIGNED, -BUSY, np.full(20_000, 2.5), np.zeros(20_000)])
    chosen = choose_parameters(observe(values), Method.ENTROPY, levels, may_rest=True)
    assert 0 <= chosen.negative_levels <= levels
    assert 1 <= chosen.positive_levels <= levels
    assert (np.abs(chosen.rest) <= levels).all()
    wanted = np.round(values / chosen.threshold[:, None] - chosen.rest[:, None])
    assert chosen.positive_levels == min(wanted.max(), levels)
    assert chosen.negative_levels == min(-wanted.min(), levels)
    dead = chosen.threshold[5], chosen.rest[5]
    assert dead == (np.median(chosen.threshold[:5]), 0)


def test_a_constant_channel_rests_at_its_value_and_sends_nothing():
    statistics = observe(np.stack([np.full(1000, 2.5), np.full(1000, -0.3)]))
    chosen = choose_parameters(statistics, Method.ENTROPY, 7, may_rest=True)
    np.testing.assert_allclose(chosen.resting_value, [2.5, -0.3], rtol=1e-5)
    assert not emit(statistics.centres, Neurons.of(chosen, 2)).any()


def test_only_the_sites_that_can_rest_do_and_none_where_steps_are_averaged():
    made = {"one": observe(BUSY[None]), "other": observe(BUSY[None])}
    settings = {
        "levels": 15,
        "method": Method.ENTROPY,
        "source_sha256": "",
        "images": Images(origin="test", images=1, skipped=0, digest="", seed=0),
        "resting_sites": {"one"},
    }
    at_once = calibrate(made, **settings).parameters
    assert (at_once["one"].rests_at_zero, at_once["other"].rests_at_zero) == (False, True)
    assert all(each.rests_at_zero for each in calibrate(made, horizon=4, **settings).parameters.values())

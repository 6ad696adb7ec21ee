"""Statistics in a stream, thresholds by least squares, and what is said of them."""

import numpy as np
import pytest

from pmsm_cli.calibration.calibrate import Images, calibrate
from pmsm_cli.calibration.emission import Neurons, squared_error
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.quality import assess
from pmsm_cli.calibration.statistics import HistogramObserver, RangeObserver, SiteStatistics
from pmsm_cli.calibration.thresholds import choose_parameters
from pmsm_cli.errors import CalibrationError
from pmsm_cli.neuron.parameters import NeuronParameters


def observe(values: np.ndarray, *, batches: int = 1) -> SiteStatistics:
    parts = np.array_split(values.astype(np.float32), batches, axis=1)
    ranges = RangeObserver("site", len(values))
    for part in parts:
        ranges.update(part)
    histogram = HistogramObserver(ranges)
    for part in parts:
        histogram.update(part)
    return histogram.result()


def half_normal(channels: int, count: int, seed: int = 0) -> np.ndarray:
    scale = np.linspace(0.5, 5, channels)[:, None]
    return np.abs(np.random.default_rng(seed).normal(size=(channels, count))) * scale


def test_statistics_do_not_depend_on_how_the_values_are_batched():
    values = np.random.default_rng(0).normal(size=(3, 5000))
    whole, parts = observe(values), observe(values, batches=7)
    assert np.array_equal(whole.counts, parts.counts)
    assert np.array_equal(whole.lowest, parts.lowest)


def test_every_value_is_counted_and_the_extremes_fall_into_the_outer_bins():
    statistics = observe(np.array([[0.0, 1.0, 2.0, 10.0]]))
    assert statistics.values == 4
    assert statistics.counts[0, 0] == 1
    assert statistics.counts[0, -1] == 1


def test_a_constant_channel_is_counted_without_warnings():
    with np.errstate(all="raise"):
        statistics = observe(np.full((1, 100), 2.5))
    assert statistics.counts.sum() == 100
    assert statistics.centres.min() == pytest.approx(2.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_the_name_of_their_site(bad: float):
    with pytest.raises(CalibrationError, match=r"conv3: .* infinite or not a number"):
        RangeObserver("conv3", 1).update(np.array([[1.0, bad]], np.float32))


@pytest.mark.parametrize("levels", [1, 3, 7, 15, 63])
def test_the_threshold_is_within_a_percent_of_the_least_error_found_by_brute_force(levels: int):
    values = half_normal(1, 20000)
    chosen = choose_parameters(observe(values), Method.MSE, levels)

    def error(theta: float) -> float:
        return float(np.mean((values - theta * np.clip(np.round(values / theta), 0, levels)) ** 2))

    best = min(error(theta) for theta in np.linspace(values.max() / levels / 50, values.max() / levels * 1.02, 2000))
    assert error(float(chosen.threshold)) <= best * 1.01


def test_each_channel_gets_the_threshold_that_suits_its_own_scale():
    values = half_normal(1, 5000)
    threshold = choose_parameters(observe(np.concatenate([values, 10 * values])), Method.MSE, 7).threshold
    assert threshold[1] == pytest.approx(10 * threshold[0], rel=1e-3)


def test_n_is_zero_where_no_value_is_negative():
    assert choose_parameters(observe(half_normal(4, 1000)), Method.MSE, 15).negative_levels == 0


def test_a_symmetric_tensor_gets_as_many_negative_levels_as_positive_ones():
    chosen = choose_parameters(observe(np.random.default_rng(0).normal(size=(1, 50000))), Method.MSE, 7)
    assert (chosen.negative_levels, chosen.positive_levels) == (7, 7)


def test_a_mostly_positive_tensor_gets_only_the_negative_levels_that_it_needs():
    values = np.concatenate([half_normal(1, 5000), [[-0.2]]], axis=1)
    chosen = choose_parameters(observe(values), Method.MSE, 15)
    assert chosen.positive_levels == 15
    assert 0 <= chosen.negative_levels <= 2


def test_a_channel_that_never_fires_gets_the_median_threshold_of_the_others():
    values = half_normal(3, 1000)
    values[1] = 0
    threshold = choose_parameters(observe(values), Method.MSE, 15).threshold
    assert threshold[1] == np.median(threshold[[0, 2]])


def test_a_tensor_that_is_zero_everywhere_gets_a_usable_neuron():
    chosen = choose_parameters(observe(np.zeros((2, 10))), Method.MSE, 15)
    assert (chosen.threshold == 1).all()
    assert chosen.positive_levels == 1


def test_a_constant_tensor_is_carried_without_error():
    statistics = observe(np.full((1, 100), 0.3))
    chosen = choose_parameters(statistics, Method.MSE, 15)
    assert assess(statistics, chosen).clipped_high == 0
    assert squared_error(statistics, Neurons.of(chosen, 1))[0] < 1e-8


def test_quality_equals_what_the_values_themselves_give():
    values = np.random.default_rng(3).normal(1, 2, size=(2, 40000))
    statistics = observe(values)
    neuron = NeuronParameters(threshold=np.array([0.5, 0.7], np.float32), negative_levels=3, positive_levels=6)
    spikes = np.clip(np.round(values / neuron.threshold[:, None]), -3, 6)
    quality = assess(statistics, neuron)
    error = np.mean((values - spikes * neuron.threshold[:, None]) ** 2)
    share = np.bincount((spikes + 3).astype(int).ravel()) / spikes.size
    assert quality.mean_spikes == pytest.approx(np.abs(spikes).mean(), rel=0.01)
    assert quality.firing == pytest.approx(100 * (spikes != 0).mean(), rel=0.01)
    assert quality.signal_to_distortion_db == pytest.approx(10 * np.log10(np.mean(values**2) / error), abs=0.1)
    assert quality.entropy_bits == pytest.approx(-(share * np.log2(share)).sum(), abs=0.01)
    assert quality.levels_used == 10
    assert quality.silent_channels == 0


@pytest.mark.parametrize(
    ("threshold", "n", "p"), [(0.0, 0, 1), (-1.0, 0, 1), (np.nan, 0, 1), (1.0, -1, 1), (1.0, 0, 0)]
)
def test_neurons_that_cannot_work_are_refused(threshold: float, n: int, p: int):
    with pytest.raises(ValueError, match=r"thresholds|levels"):
        NeuronParameters(threshold=np.array(threshold, np.float32), negative_levels=n, positive_levels=p)


def test_merged_bins_keep_the_counts_and_the_range():
    statistics = observe(half_normal(2, 1000))
    merged = statistics.merged(100)
    assert merged.counts.shape == (2, 128)
    assert np.array_equal(merged.counts.sum(axis=1), statistics.counts.sum(axis=1))
    assert merged.centres.mean() == pytest.approx(statistics.centres.mean(), rel=1e-6)


def test_a_channel_that_rests_at_one_value_gets_a_level_there():
    resting = np.full(5000, 0.7371)
    values = np.concatenate([resting, np.random.default_rng(0).uniform(0, 2, 50)])[None]
    chosen = choose_parameters(observe(values), Method.MSE, 255)
    steps = 0.7371 / float(chosen.threshold)
    assert abs(steps - round(steps)) < 0.15


def test_a_channel_that_rests_at_one_end_of_its_values_reaches_the_other():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(3, 0.2, 6000), random.normal(-3, 0.2, 4000)])[None]
    statistics = observe(values)
    chosen = choose_parameters(statistics, Method.ENTROPY, 255, may_rest=True)
    assert chosen.resting_value == pytest.approx(3, abs=0.3)
    error = squared_error(statistics, Neurons.of(chosen, 1))
    assert error[0] < 0.01 * values.var() / 100


def test_thresholds_for_an_average_over_steps_clip_less_and_keep_the_levels_of_a_step():
    statistics = {"site": observe(half_normal(3, 5000))}
    images = Images(origin="test", images=1, skipped=0, digest="", seed=0)
    settings = {"levels": 3, "method": Method.MSE, "source_sha256": "", "images": images}
    (once,), (averaged,) = (calibrate(statistics, horizon=steps, **settings).sites for steps in (1, 4))
    assert (averaged.parameters.threshold > once.parameters.threshold).all()
    assert averaged.quality.clipped_high < once.quality.clipped_high
    assert (averaged.parameters.negative_levels, averaged.parameters.positive_levels) == (0, 3)

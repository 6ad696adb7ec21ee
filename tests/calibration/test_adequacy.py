"""Two halves of the images: told apart in the stream, and compared."""

import numpy as np
import pytest
from observing import observe

from pmsm_cli.calibration.adequacy import STEADY, compare_halves
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.calibration.thresholds import choose_parameters
from pmsm_cli.neuron.parameters import NeuronParameters


def by_least_squares(name: str, statistics: SiteStatistics) -> NeuronParameters:
    return choose_parameters(statistics, Method.MSE, 15)


def by_largest(name: str, statistics: SiteStatistics) -> NeuronParameters:
    return NeuronParameters(threshold=statistics.highest / 15, negative_levels=0, positive_levels=15)


def heavy(channels: int, images: int, seed: int = 0) -> np.ndarray:
    """Values whose largest depend on the image."""
    random = np.random.default_rng(seed)
    scale = random.lognormal(sigma=0.7, size=(channels, images, 1))
    return (np.abs(random.normal(size=(channels, images, 30))) * scale).reshape(channels, -1)


@pytest.mark.parametrize("batch", [1, 3, 7, 20])
def test_halves_do_not_depend_on_the_size_of_the_batches(batch: int):
    values = heavy(3, 21)
    whole, parts = observe(values, images=21), observe(values, images=21, batch=batch)
    assert np.array_equal(whole.even_counts, parts.even_counts)
    assert np.array_equal(whole.counts, parts.counts)


def test_the_halves_are_the_images_of_even_and_of_odd_number_over_their_own_range():
    images = np.stack([np.full((1, 50), value) + np.linspace(0, 1, 50) for value in (0, 7, 1, 3)], axis=1)
    even, odd = observe(images.reshape(1, -1), images=4).halves
    bin_of_a_half = 8 / 256
    assert (even.lowest[0], odd.highest[0]) == (0, 8)
    assert even.highest[0] == pytest.approx(2, abs=bin_of_a_half)
    assert odd.lowest[0] == pytest.approx(3, abs=bin_of_a_half)
    assert (even.values, odd.values) == (100, 100)
    assert (even.centres * even.counts).sum() / 100 == pytest.approx(1, abs=bin_of_a_half)


def test_statistics_that_do_not_tell_images_apart_have_no_halves():
    assert observe(heavy(2, 4)).halves is None
    assert observe(heavy(2, 1), images=1).halves is None
    assert compare_halves({"site": observe(heavy(2, 4))}, by_least_squares) is None


@pytest.mark.parametrize("choose", [by_least_squares, by_largest])
def test_the_more_images_the_closer_are_the_thresholds_of_the_halves(choose):
    few, many = (compare_halves({"site": observe(heavy(40, images), images=images)}, choose) for images in (8, 800))
    assert few.median > 2 * many.median > 0
    assert not few.steady


def test_two_halves_that_are_alike_agree():
    half = heavy(5, 10).reshape(5, 10, 1, 30)
    values = np.concatenate([half, half], axis=2).reshape(5, -1)  # each image twice
    found = compare_halves({"site": observe(values, images=20)}, by_least_squares)
    assert found.median == 0
    assert found.steady


def test_a_half_of_larger_values_is_noticed_and_the_site_named():
    steady, values = heavy(4, 400), heavy(4, 400).reshape(4, 400, 30)
    values[:, ::2] *= 3
    found = compare_halves(
        {"steady": observe(steady, images=400), "torn": observe(values.reshape(4, -1), images=400)}, by_least_squares
    )
    assert found.worst_site == "torn"
    assert found.sites[1].median == pytest.approx(100, abs=25)  # 3 : 1 is 100 % of the mean
    assert found.sites[1].worst >= found.sites[1].median > STEADY


def test_dead_channels_are_left_out_of_the_comparison():
    values = heavy(3, 100)
    alone = compare_halves({"site": observe(values, images=100)}, by_least_squares)
    beside = compare_halves({"site": observe(np.vstack([values, 0 * values]), images=100)}, by_least_squares)
    assert beside.median == pytest.approx(alone.median)
    assert compare_halves({"site": observe(0 * values, images=100)}, by_least_squares) is None


def test_of_wide_sites_a_part_is_compared_and_chosen_for():
    seen = []

    def choose(name: str, statistics: SiteStatistics) -> NeuronParameters:
        seen.append(len(statistics.lowest))
        return by_largest(name, statistics)

    compare_halves({"wide": observe(heavy(1000, 4), images=4)}, choose)
    assert seen == [125, 125]

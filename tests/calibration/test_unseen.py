"""What calibration expects of images that it has not seen."""

import numpy as np
import pytest
from observing import observe

from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.calibration.unseen import with_unseen


def activations(images: int, *, seed: int, positions: int = 1, channels: int = 200) -> np.ndarray:
    """Values that are alike within an image and differ between images, [channels, images x positions]."""
    random = np.random.default_rng(seed)
    level = random.normal(size=(channels, images, 1))
    return (level + 0.1 * random.normal(size=(channels, images, positions))).reshape(channels, -1)


def share_beyond(seen: SiteStatistics, values: np.ndarray) -> float:
    return float(((values > seen.highest[:, None]) | (values < seen.lowest[:, None])).mean())


def share_added(seen: SiteStatistics, expected: SiteStatistics) -> float:
    """What share of the values to expect lies beyond the range that was seen."""
    outside = np.abs(expected.centres - (seen.highest + seen.lowest)[:, None] / 2)
    return np.where(outside > (seen.highest - seen.lowest)[:, None] / 2, expected.counts, 0).sum() / expected.values


def test_further_images_leave_the_range_about_as_often_as_expected():
    seen = observe(activations(16, seed=0, positions=9), images=16)
    expected = with_unseen(seen)
    added = share_added(seen, expected)
    total = expected.counts.sum(axis=1)
    assert (total == total[0]).all()
    further = activations(400, seed=1, positions=9)
    assert 0.5 < added / share_beyond(seen, further) < 2
    assert share_beyond(expected, further) < share_beyond(seen, further) / 30


def test_the_error_that_clipping_makes_on_further_images_falls():
    seen = observe(activations(12, seed=0), images=12)
    expected = with_unseen(seen)
    further = activations(400, seed=1)

    def clipped(limits: SiteStatistics) -> float:
        within = np.clip(further, limits.lowest[:, None], limits.highest[:, None])
        return float(np.mean((further - within) ** 2))

    assert clipped(expected) < clipped(seen) / 3


def test_what_is_expected_can_count_less_and_lies_where_it_lay():
    seen = observe(activations(16, seed=0, positions=9), images=16)
    whole, half, nothing = (with_unseen(seen, weight=weight) for weight in (1.0, 0.5, 0.0))
    assert (half.highest == whole.highest).all()
    assert (half.lowest == whole.lowest).all()
    assert half.values - nothing.values == pytest.approx((whole.values - nothing.values) / 2, rel=0.01)
    assert whole.values > nothing.values


def test_many_values_move_little():
    values = activations(500, seed=0, positions=40, channels=20)
    seen = observe(values, images=500)
    expected = with_unseen(seen)
    for power, most in ((1, 0.01), (2, 0.05)):
        means = [each.centres[0] ** power @ each.counts[0] / each.counts[0].sum() for each in (seen, expected)]
        assert abs(means[0] - means[1]) < most
    assert share_added(seen, expected) < 0.005


@pytest.mark.parametrize("tail", ["exponential", "heavy"])
@pytest.mark.parametrize("images", [64, 400])
def test_how_far_further_images_reach_beyond_the_range_is_as_expected(tail: str, images: int):
    """The expected excess over a limit, squared, is what decides how far thresholds should reach."""
    random = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        drawn = random.exponential(size=(400, count))
        return drawn if tail == "exponential" else np.expm1(0.2 * drawn) / 0.2  # generalised Pareto, shape 0.2

    seen = observe(draw(images).astype(np.float32), images=images)
    expected, further = with_unseen(seen), draw(20000)
    for factor in (1.0, 1.3):
        limit = factor * seen.highest[:, None]
        share = expected.counts / expected.counts.sum(axis=1, keepdims=True)
        told = float((np.maximum(expected.centres - limit, 0) ** 2 * share).sum())
        seen_later = float((np.maximum(further - limit, 0) ** 2).mean(axis=1).sum())
        assert 0.4 < told / seen_later < 2.5


def test_a_tensor_behind_a_relu_stays_without_negative_values():
    seen = observe(np.maximum(activations(16, seed=0), 0), images=16)
    expected = with_unseen(seen)
    assert (expected.lowest == 0).all()
    assert (expected.highest >= seen.highest).all()
    assert expected.highest.mean() > 1.1 * seen.highest.mean()


def test_a_channel_that_never_changes_and_images_not_told_apart_stay_as_they_are():
    values = activations(16, seed=0)
    values[3] = 0.5
    expected = with_unseen(observe(values, images=16))
    assert expected.lowest[3] == expected.highest[3] == np.float32(0.5)
    together = observe(values)
    assert with_unseen(together) is together


def test_tails_are_followed_less_far_for_many_levels():
    seen = observe(activations(256, seed=3), images=256)
    few, many, found = (with_unseen(seen, levels=levels) for levels in (15, 255, None))
    assert (many.highest < few.highest).any()
    assert (many.highest > seen.highest).any()
    np.testing.assert_array_equal(few.highest, found.highest)

"""What activations hold and what spikes convey, against distributions whose answers are known."""

import numpy as np
import pytest
from observing import observe

from pmsm_cli.calibration.information import Information, information
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.quality import assess, assess_channels
from pmsm_cli.calibration.thresholds import choose_parameters
from pmsm_cli.neuron.parameters import NeuronParameters

VALUES = 200_000
SCALAR_LOSS = 0.5 * np.log2(2 * np.pi * np.e / 12)  # 0.2546 bit


def measured(values: np.ndarray, theta: float, negative: int, positive: int) -> Information:
    neuron = NeuronParameters(threshold=np.array(theta, np.float32), negative_levels=negative, positive_levels=positive)
    return information(observe(np.atleast_2d(values)), neuron)


def normal(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=VALUES)


@pytest.mark.parametrize("levels", [4, 16, 64])
def test_a_uniform_variable_fills_all_levels_and_pays_the_loss_of_a_scalar_quantiser(levels: int):
    values = np.random.default_rng(0).uniform(-0.5, levels - 0.5, VALUES)
    found = measured(values, 1.0, 0, levels - 1)
    assert found.entropy_bits[0] == pytest.approx(np.log2(levels), abs=0.01)
    assert found.information_bits[0] == pytest.approx(np.log2(levels) - SCALAR_LOSS, abs=0.01)
    assert found.activation_entropy_bits[0] == pytest.approx(11, abs=0.02)  # 2048 bins, equally full
    assert found.levels_used[0] == levels


@pytest.mark.parametrize("theta", [0.05, 0.1, 0.3])
def test_a_gaussian_with_many_levels_conveys_what_theory_says(theta: float):
    found = measured(normal(), theta, 127, 127)
    entropy = 0.5 * np.log2(2 * np.pi * np.e) - np.log2(theta)
    assert found.entropy_bits[0] == pytest.approx(entropy, abs=0.01)
    assert found.information_bits[0] == pytest.approx(entropy - SCALAR_LOSS, abs=0.02)


def test_bits_spent_on_tiny_thresholds_that_clip_everything_convey_little():
    """Why entropy alone is no objective: many levels in use, and the value is lost."""
    good, bad = measured(normal(), 0.3, 8, 8), measured(normal(), 0.02, 8, 8)
    assert bad.information_bits[0] < 0.25 * good.information_bits[0]
    assert bad.entropy_bits[0] - bad.information_bits[0] > 1


def test_the_zeros_of_relu_are_told_apart_and_cost_no_distortion():
    values = np.maximum(normal(), 0)
    found = measured(values, 0.02, 0, 255)
    # One bit says whether it is zero; the other half has a half normal density, one bit narrower than the normal.
    theory = 1 + 0.5 * (0.5 * np.log2(2 * np.pi * np.e) - 1 - np.log2(0.02) - SCALAR_LOSS)
    assert found.information_bits[0] == pytest.approx(theory, abs=0.02)
    assert found.information_bits[0] <= found.entropy_bits[0]
    without = measured(np.abs(normal()), 0.02, 0, 255)  # no atom, twice the density
    assert without.information_bits[0] > found.information_bits[0] + 1


def test_the_limit_of_a_clip_is_an_atom_too():
    values = np.clip(normal() * 3 + 3, 0, 6)
    theta = 6 / 255
    found = measured(values, theta, 0, 255)
    inside = values[(values > 0) & (values < 6)]
    share = np.array([(values == 0).mean(), (values == 6).mean(), len(inside) / VALUES])
    counts, edges = np.histogram(inside, 200)
    chance = counts / counts.sum()
    density = -(chance * np.log2(chance)).sum() + np.log2(edges[1] - edges[0])
    theory = -(share * np.log2(share)).sum() + share[2] * (density - np.log2(theta) - SCALAR_LOSS)
    assert found.information_bits[0] == pytest.approx(theory, abs=0.03)


def test_two_values_are_one_bit_and_all_of_it_is_conveyed():
    found = measured(np.repeat([0.0, 6.0], 500), 0.4, 0, 15)
    bits = [found.activation_entropy_bits[0], found.entropy_bits[0], found.information_bits[0]]
    assert bits == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0, 1e-30])
def test_a_constant_holds_nothing_and_conveys_nothing(value: float):
    with np.errstate(all="raise"):
        found = measured(np.full(100, value), 0.3, 1, 15)
    assert (found.activation_entropy_bits[0], found.entropy_bits[0], found.information_bits[0]) == (0, 0, 0)
    assert found.levels_used[0] == 1


def test_the_256_values_of_a_pixel_are_taken_as_a_density():
    pixels = np.random.default_rng(0).integers(0, 256, VALUES) / 255
    found = measured(pixels, 1 / 15, 0, 15)
    assert found.activation_entropy_bits[0] == pytest.approx(8, abs=0.01)
    assert found.information_bits[0] == pytest.approx(found.entropy_bits[0] - SCALAR_LOSS, abs=0.05)


def test_few_values_do_not_make_the_information_seem_much_smaller():
    many, few = measured(normal(), 0.2, 31, 31), measured(normal()[:500], 0.2, 31, 31)
    assert few.information_bits[0] == pytest.approx(many.information_bits[0], abs=0.2)


def test_information_does_not_depend_on_the_unit_of_the_activations():
    one, other = measured(normal(), 0.2, 15, 15), measured(1000 * normal(), 200, 15, 15)
    assert one.information_bits[0] == pytest.approx(other.information_bits[0], abs=1e-3)


# Sites and channels


def mixed() -> np.ndarray:
    """A normal channel, one after ReLU, a dead one."""
    return np.stack([normal(1)[:20000], np.maximum(normal(2)[:20000], 0), np.zeros(20000)])


def test_each_channel_is_assessed_as_if_it_were_alone():
    statistics = observe(mixed())
    neuron = choose_parameters(statistics, Method.MSE, 7)
    channels = assess_channels(statistics, neuron)
    for index, values in enumerate(mixed()):
        alone = observe(values[None])
        single = NeuronParameters(
            threshold=np.asarray(neuron.threshold[index]),
            negative_levels=neuron.negative_levels,
            positive_levels=neuron.positive_levels,
        )
        expected = assess(alone, single)
        assert channels.mean_spikes[index] == pytest.approx(expected.mean_spikes)
        assert channels.clipped_high[index] == pytest.approx(expected.clipped_high)
        assert channels.clipped_low[index] == pytest.approx(expected.clipped_low)
        assert channels.entropy_bits[index] == pytest.approx(expected.entropy_bits, abs=1e-9)
        assert channels.information_bits[index] == pytest.approx(expected.information_bits)
        assert channels.level_use[index] == pytest.approx(expected.level_use)
        ratio = expected.signal_to_distortion_db
        assert channels.signal_to_distortion_db[index] == pytest.approx(np.nan if ratio is None else ratio, nan_ok=True)


def test_a_site_s_bits_are_the_means_of_its_channels_and_add_up():
    statistics = observe(mixed())
    neuron = choose_parameters(statistics, Method.MSE, 7)
    quality, channels = assess(statistics, neuron), assess_channels(statistics, neuron)
    assert quality.activation_entropy_bits == pytest.approx(channels.activation_entropy_bits.mean())
    assert quality.information_bits == pytest.approx(channels.information_bits.mean())
    assert quality.channel_entropy_bits == pytest.approx(quality.information_bits + quality.idle_bits)
    assert quality.activation_entropy_bits == pytest.approx(quality.channel_entropy_bits + quality.lost_bits)
    assert quality.level_use == pytest.approx(100 * quality.levels_used / 15)
    assert quality.constant_channels == 1

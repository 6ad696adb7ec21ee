"""`pmsm convert` without images: thresholds from batch norm statistics where there are any, and what is said of it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny

from pmsm_cli.checkpoint.file import Checkpoint, open_checkpoint
from pmsm_cli.pipeline import data_free
from pmsm_cli.runtime.session import open_session

DIGITS = Path(__file__).parent.parent.parent / "sample_models"
BATCH_NORM = (
    "warning: no images given: thresholds come from batch norm statistics and synthetic images; "
    f"{data_free.BATCH_NORM_COST}; pass --data\n"
)
FOLDED = (
    "warning: no images given, and no batch norm statistics in the file: thresholds come from synthetic images alone; "
    f"{data_free.SYNTHETIC_COST}; pass --data\n"
)


def batch_norm(
    *, mean: float = 0, variance: float = 1, gamma: float = 1, batch: int | str = "N", channels: int = 3
) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, Conv, with running statistics as the network's training might have left them."""
    return tiny.model(
        f"""
        g (float[{batch}, {channels}, 8, 8] image) => (float[{batch}, 5] scores) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = BatchNormalization (a, gamma, beta, mean, variance)
            c = Relu (b) d = Conv (c, w2) e = GlobalAveragePool (d) scores = Flatten (e)
        }}""",
        w1=tiny.weights(4, channels, 3, 3),
        gamma=np.float32(gamma) * np.array([1, 2, 3, 4], np.float32),
        beta=np.float32(gamma) * np.array([1, -1, 0.5, 0], np.float32),
        mean=np.full(4, mean, np.float32),
        variance=np.full(4, variance, np.float32),
        w2=tiny.weights(5, 4, 1, 1),
    )


@pytest.fixture
def convert(pmsm, tmp_path: Path):
    """Convert a network without images; the checkpoint, and what was said."""

    def call(proto: onnx.ModelProto, *options: object, preprocess: str = "none") -> tuple[Checkpoint, str]:
        source, target = tiny.save(proto, tmp_path / "net.onnx"), tmp_path / "net.snn.onnx"
        made = pmsm("convert", source, "--preprocess", preprocess, "--threads", 1, *options, "-o", target)
        assert made.code == 0, made.err
        return open_checkpoint(target), made.err

    return call


def thresholds(checkpoint: Checkpoint) -> np.ndarray:
    (site,) = checkpoint.manifest.calibration.sites
    return site.parameters.threshold


def reach(checkpoint: Checkpoint) -> np.ndarray:
    """The largest value that each channel can carry, wherever it rests."""
    (site,) = checkpoint.manifest.calibration.sites
    return site.parameters.threshold * (site.parameters.rest + site.parameters.positive_levels)


def test_thresholds_follow_the_batch_norm_and_not_what_synthetic_images_give(convert):
    usual, said = convert(batch_norm())
    assert said == BATCH_NORM
    # Training data that the first layer answered to four times as much, and somewhere else.
    other, _ = convert(batch_norm(mean=5, variance=16))
    np.testing.assert_allclose(thresholds(other), thresholds(usual), rtol=1e-2)
    wider, _ = convert(batch_norm(gamma=2))
    np.testing.assert_allclose(thresholds(wider), 2 * thresholds(usual), rtol=1e-2)


def test_the_preprocessing_changes_little_where_batch_norm_states_the_moments(convert):
    plain, _ = convert(batch_norm())
    other, _ = convert(batch_norm(), preprocess="inception")  # images twice as far apart, and around zero
    # Next to nothing is clipped of a few levels' worth of values, so that the reach follows the largest of them.
    np.testing.assert_allclose(reach(other), reach(plain), rtol=0.3)


def test_a_threshold_s_reach_is_that_of_the_stated_moments(convert):
    checkpoint, _ = convert(batch_norm(), "--levels", 255)
    mean, deviation = np.array([1, -1, 0.5, 0]), np.array([1, 2, 3, 4])
    assert (reach(checkpoint) > mean + 2 * deviation).all()
    assert (reach(checkpoint) < mean + 8 * deviation).all()


def test_the_checkpoint_says_what_it_was_calibrated_on(convert):
    images = convert(batch_norm(), "--seed", 3)[0].manifest.calibration.images
    assert (images.origin, images.images, images.seed) == ("batch norm statistics and synthetic images", 128, 3)
    images = convert(tiny.convolutional())[0].manifest.calibration.images
    assert (images.origin, images.images, images.seed) == ("synthetic images", 128, 0)


def test_a_network_without_batch_norm_falls_back_to_synthetic_images_and_says_so(convert):
    assert convert(tiny.convolutional())[1] == FOLDED


@pytest.mark.parametrize(("batch", "images"), [(1, 128), (5, 130), (200, 200)])
def test_a_fixed_batch_gets_about_the_thresholds_of_an_open_one(convert, batch: int, images: int):
    fixed, _ = convert(batch_norm(batch=batch, mean=5, variance=16))
    assert fixed.manifest.calibration.images.images == images
    free, _ = convert(batch_norm(mean=5, variance=16))
    np.testing.assert_allclose(thresholds(fixed), thresholds(free), rtol=0.2)


@pytest.mark.parametrize("options", [("-T", 3), ("-T", 3, "--coding", "rate"), ("--no-match-moments",)])
def test_later_timesteps_either_coding_and_unmatched_moments_work_as_with_images(convert, options):
    checkpoint, _ = convert(batch_norm(channels=1), *options)
    assert checkpoint.manifest.moments_matched == ("--no-match-moments" not in options)


def test_the_same_seed_gives_the_same_file_and_another_seed_another(convert):
    one, two, three = (convert(batch_norm(), "--seed", seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(thresholds(one), thresholds(two))
    assert (thresholds(one) != thresholds(three)).any()


def test_the_corrections_undo_what_spikes_distort_and_nothing_else(convert):
    # With ample levels spikes distort next to nothing: real images must find the source's outputs.
    checkpoint, _ = convert(batch_norm(mean=5, variance=16, gamma=2), "--levels", 4095)
    source = batch_norm(mean=5, variance=16, gamma=2)
    inputs = tiny.images(8)
    expected = ort.InferenceSession(source.SerializeToString()).run(None, {"image": inputs})[0]
    (scores,) = open_session(checkpoint.model, subject="net").run(inputs)
    np.testing.assert_allclose(scores, expected, rtol=0.01, atol=0.01)


def test_the_bundled_network_keeps_its_classes_without_images(pmsm, tmp_path: Path):
    source, target = DIGITS / "digits.onnx", tmp_path / "digits.snn.onnx"
    options = ["--preprocess", "none", "--levels", 15, "--threads", 1]
    assert pmsm("convert", source, *options, "-o", target).code == 0
    shown = pmsm("eval", target, DIGITS / "digits" / "test", "--against", source, "--json", "--threads", 1)
    assert shown.record["agreement"] >= 98.5

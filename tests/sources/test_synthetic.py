"""Images made up on the spot."""

import numpy as np
import pytest

from pmsm_cli.sources.images import read_batches
from pmsm_cli.sources.preprocessing import Channels, Layout, Preprocessing
from pmsm_cli.sources.synthetic import SyntheticImages

SHAPES = [
    Preprocessing(height=1, width=1, channels=Channels.GRAY, layout=Layout.NCHW),
    Preprocessing(height=7, width=12, channels=Channels.RGB, layout=Layout.NCHW),
    Preprocessing(height=8, width=8, channels=Channels.GRAY, layout=Layout.NHWC),
    Preprocessing(height=9, width=5, channels=Channels.BGR, layout=Layout.NHWC, mean=(0.5,), std=(0.1,)),
]


@pytest.mark.parametrize("preprocessing", SHAPES, ids=lambda each: f"{each.channels}{each.shape}")
def test_an_image_has_the_networks_shape_and_finite_values(preprocessing):
    for index in range(5):
        image = SyntheticImages(count=5, seed=0).load(index, preprocessing)
        assert image.shape == preprocessing.shape
        assert image.dtype == np.float32
        assert np.isfinite(image).all()


def test_an_image_depends_on_seed_and_index_alone():
    def load(seed: int, index: int) -> np.ndarray:
        return SyntheticImages(count=10, seed=seed).load(index, SHAPES[1])

    np.testing.assert_array_equal(load(1, 2), load(1, 2))
    assert not np.array_equal(load(1, 2), load(1, 3))
    assert not np.array_equal(load(1, 2), load(2, 2))


def test_values_are_those_of_pixels_before_mean_and_deviation():
    plain = Preprocessing(height=32, width=32, channels=Channels.RGB, layout=Layout.NCHW)
    (batch,) = read_batches(SyntheticImages(count=32, seed=0), plain, 32)
    assert batch.inputs.min() >= 0
    assert batch.inputs.max() <= 1
    assert 0.3 < batch.inputs.mean() < 0.6
    assert 0.1 < batch.inputs.std() < 0.4


def test_neighbouring_pixels_are_alike_as_in_photographs():
    plain = Preprocessing(height=32, width=32, channels=Channels.GRAY, layout=Layout.NCHW)
    image = SyntheticImages(count=1, seed=0).load(0, plain)[0]
    assert np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1] > 0.5
    assert abs(np.corrcoef(image.ravel(), np.random.default_rng(0).permutation(image.ravel()))[0, 1]) < 0.2


def test_edges_stand_out_between_areas_that_are_alike_as_in_photographs():
    plain = Preprocessing(height=32, width=32, channels=Channels.GRAY, layout=Layout.NCHW)
    (batch,) = read_batches(SyntheticImages(count=32, seed=0), plain, 32)
    steps = np.diff(batch.inputs, axis=3)
    kurtosis = (steps**4).mean() / (steps**2).mean() ** 2
    assert kurtosis > 8  # of plain noise: 3, over images of different contrast a little more


def test_images_differ_in_brightness_and_contrast():
    plain = Preprocessing(height=32, width=32, channels=Channels.RGB, layout=Layout.NCHW)
    (batch,) = read_batches(SyntheticImages(count=32, seed=0), plain, 32)
    assert np.ptp(batch.inputs.mean(axis=(1, 2, 3))) > 0.2
    contrast = batch.inputs.std(axis=(1, 2, 3))
    assert contrast.max() > 3 * contrast.min()


def test_a_set_is_as_long_as_asked_for_and_has_no_labels():
    images = SyntheticImages(count=3, seed=0)
    assert len(images) == 3
    assert images.labels is None
    assert images.name(2) == "synthetic[2]"

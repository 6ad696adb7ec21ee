"""`timm:NAME` as preprocessing gives what timm's own transform gives, to the last bit."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("timm", reason="timm is not installed")

import timm.data
import timm.models

from pmsm_cli.errors import PreprocessingError
from pmsm_cli.sources.preprocessing import Channels, Fit, InputShape, Layout, resolve_preprocessing

OPEN = InputShape(height=None, width=None, channel_count=3, layout=Layout.NCHW)
MODELS = {
    "resnet50": Fit.CROP,  # 224 / 0.95: timm takes the floor
    "inception_v3": Fit.CROP,
    "dm_nfnet_f0": Fit.SQUASH,  # and crops
    "vit_base_patch16_sapiens2": Fit.STRETCH,  # 1024x768
    "deepseek_vit_412m.deepseek_v4_flash_vision_exp": Fit.PAD,
    "volo_d4_448": Fit.CROP,  # of a larger window than the image: a black border
}
SIZES = [(375, 500), (500, 333), (224, 224), (100, 90), (600, 300), (40, 700)]


def image(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("name", "fit"), MODELS.items(), ids=MODELS)
def test_an_image_becomes_what_timm_makes_of_it(name, fit):
    config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config, is_training=False)
    preprocessing = resolve_preprocessing(f"timm:{name}", OPEN)
    assert preprocessing.fit is fit
    assert preprocessing.shape == config["input_size"]
    for size in SIZES:
        np.testing.assert_array_equal(preprocessing.apply(image(*size)), transform(image(*size)).numpy())


def test_the_networks_own_size_or_the_stated_one_is_kept_with_timms_crop():
    own = InputShape(height=96, width=96, channel_count=3, layout=Layout.NHWC)
    for resolved in (
        resolve_preprocessing("timm:resnet50", own),
        resolve_preprocessing("timm:resnet50", OPEN, image_size=96),
    ):
        assert (resolved.height, resolved.width, resolved.interpolation) == (96, 96, "bicubic")
        assert resolved.crop_fraction == 96 / 101


def test_grey_networks_get_the_mean_of_the_colours():
    grey = InputShape(height=28, width=28, channel_count=1, layout=Layout.NCHW)
    resolved = resolve_preprocessing("timm:vit_small_patch16_224", grey)
    assert (resolved.channels, resolved.mean, resolved.std) == (Channels.GRAY, (0.5,), (0.5,))


def test_a_wrong_name_is_refused_as_a_preprocessing():
    with pytest.raises(PreprocessingError, match=r"^timm:resnet5: timm has no model of this name\n"):
        resolve_preprocessing("timm:resnet5", OPEN)

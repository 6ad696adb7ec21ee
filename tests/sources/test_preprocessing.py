"""How an image becomes a network's input: every size, every mode, every refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pmsm_cli.errors import PreprocessingError
from pmsm_cli.sources.images import ImageFiles
from pmsm_cli.sources.preprocessing import (
    PRESETS,
    Channels,
    Fit,
    InputShape,
    Layout,
    Preprocessing,
    resolve_preprocessing,
)


def preprocessing(**changes) -> Preprocessing:
    settings = {"height": 8, "width": 8, "channels": Channels.RGB, "layout": Layout.NCHW}
    return Preprocessing(**{**settings, **changes})


def shape(height: int | None = 8, width: int | None = 8, *, channels: int = 3, layout: Layout = Layout.NCHW):
    return InputShape(height=height, width=width, channel_count=channels, layout=layout)


def columns(width: int, height: int, *, axis: int = 1) -> Image.Image:
    """An image whose value at each place is its column (axis 1) or its row (axis 0)."""
    values = np.arange(width if axis == 1 else height, dtype=np.uint8)
    grid = np.broadcast_to(values if axis == 1 else values[:, None], (height, width))
    return Image.fromarray(np.repeat(grid[..., None], 3, axis=2))


# Size and crop


@pytest.mark.parametrize("size", [32, 64])
def test_networks_of_64_pixels_and_less_take_the_whole_image(size):
    resolved = resolve_preprocessing("imagenet", shape(size, size))
    assert (resolved.height, resolved.width, resolved.crop_fraction) == (size, size, 1.0)


@pytest.mark.parametrize("size", [65, 224, 299])
def test_larger_networks_take_the_centre_of_a_larger_image(size):
    assert resolve_preprocessing("imagenet", shape(size, size)).crop_fraction == 0.875


def test_a_network_with_one_small_side_takes_the_whole_image():
    resolved = resolve_preprocessing("imagenet", shape(64, 224))
    assert resolved.crop_fraction == 1.0
    assert resolved.shape == (3, 64, 224)


def test_the_short_side_is_scaled_to_the_size_over_0_875_before_the_crop():
    wanted = preprocessing(height=224, width=224, crop_fraction=0.875)
    # 224 / 0.875 = 256: an image of that height is not scaled at all.
    assert (wanted.apply(columns(512, 256, axis=0))[0, :, 0] * 255).round().tolist() == list(range(16, 240))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    expected = image.resize((384, 256), Image.Resampling.BILINEAR).crop((80, 16, 304, 240))
    np.testing.assert_allclose(wanted.apply(image), np.asarray(expected, np.float32).transpose(2, 0, 1) / 255)


def test_the_crop_is_the_centre_of_a_wide_image():
    cropped = preprocessing().apply(columns(20, 8))
    np.testing.assert_array_equal((cropped[0, 0] * 255).round(), np.arange(6, 14))


def test_the_crop_is_the_centre_of_a_high_image():
    cropped = preprocessing().apply(columns(8, 20, axis=0))
    np.testing.assert_array_equal((cropped[0, :, 0] * 255).round(), np.arange(6, 14))


@pytest.mark.parametrize("size", [(16, 3001), (3000, 16)])
def test_of_a_long_strip_only_the_middle_is_scaled_up(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]):
    waves = np.sin(np.arange(size[1])[:, None] / 9 + np.arange(size[0]) / 7)
    image = Image.fromarray(np.uint8(127 + 120 * waves)).convert("RGB")
    wanted = preprocessing(height=224, width=224, crop_fraction=0.875)
    whole = wanted.apply(image)
    scaled: list[int] = []
    resize = Image.Image.resize

    def measured(self: Image.Image, size: tuple[int, int], *others: object) -> Image.Image:
        scaled.append(size[0] * size[1])
        return resize(self, size, *others)

    monkeypatch.setattr(Image.Image, "resize", measured)
    monkeypatch.setattr("pmsm_cli.sources.preprocessing._MOST_PIXELS", 2**20)
    np.testing.assert_allclose(wanted.apply(image), whole, atol=3 / 255)
    assert scaled[0] <= 2**20


def test_an_image_of_the_networks_own_size_is_still_cropped_when_the_preset_crops():
    # What torchvision's Resize(256), CenterCrop(224) do to an image of 224 pixels.
    image = columns(224, 224)
    expected = image.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    result = preprocessing(height=224, width=224, crop_fraction=0.875).apply(image)
    np.testing.assert_allclose(result, np.asarray(expected, np.float32).transpose(2, 0, 1) / 255)


def test_pixels_of_the_networks_own_size_are_not_cropped_again_when_they_come_from_an_array():
    image = columns(224, 224)
    result = preprocessing(height=224, width=224, crop_fraction=0.875).apply(image, keep_own_size=True)
    np.testing.assert_allclose(result, np.asarray(image, np.float32).transpose(2, 0, 1) / 255)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3), (7, 9), (8, 8), (500, 333)])
@pytest.mark.parametrize("fit", Fit)
def test_an_image_of_any_size_gets_the_networks_size(size, fit):
    colour = preprocessing(height=6, width=10, fit=fit, crop_fraction=0.875, mean=(0.2, 0, 1))
    result = colour.apply(Image.new("RGB", size, (51, 0, 255))) + np.array(colour.mean)[:, None, None]
    assert result.shape == (3, 6, 10)
    np.testing.assert_allclose(result, np.broadcast_to(np.array([0.2, 0, 1])[:, None, None], result.shape), atol=1e-6)


def test_a_stretched_image_keeps_its_borders_when_the_proportions_differ():
    result = preprocessing(fit=Fit.STRETCH, interpolation="nearest").apply(columns(16, 8))
    np.testing.assert_array_equal((result[0, 0] * 255).round(), np.arange(1, 16, 2))


def test_a_squashed_image_is_stretched_and_then_cropped():
    result = preprocessing(fit=Fit.SQUASH, crop_fraction=0.5, interpolation="nearest").apply(columns(32, 8))
    np.testing.assert_array_equal((result[0, 0] * 255).round(), np.arange(9, 24, 2))


def test_a_padded_image_is_whole_and_surrounded_by_the_mean():
    wide = preprocessing(fit=Fit.PAD, interpolation="nearest", mean=(0.2, 0.4, 0.6))
    result = wide.apply(Image.new("RGB", (16, 8), (255, 255, 255)))
    np.testing.assert_allclose(result[:, 2:6], np.broadcast_to([[[0.8]], [[0.6]], [[0.4]]], (3, 4, 8)), atol=1e-6)
    np.testing.assert_allclose(np.delete(result, slice(2, 6), axis=1), 0, atol=1e-6)


def test_a_window_larger_than_the_image_leaves_a_black_border():
    result = preprocessing(crop_fraction=2).apply(Image.new("RGB", (8, 8), (255, 255, 255)))
    expected = np.zeros((3, 8, 8), np.float32)
    expected[:, 2:6, 2:6] = 1
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_each_interpolation_is_that_of_pillow(name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((8, 8), getattr(Image.Resampling, name.upper())), np.float32) / 255
    np.testing.assert_allclose(preprocessing(interpolation=name).apply(image), expected.transpose(2, 0, 1))


# Values


def test_mean_and_deviation_are_taken_per_channel_after_scaling_to_one():
    result = preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0)).apply(Image.new("RGB", (8, 8), (255, 0, 102)))
    np.testing.assert_allclose(result[:, 0, 0], [1.0, -1.0, 0.2], rtol=1e-6)


def test_channels_are_swapped_before_the_mean_when_the_network_expects_bgr():
    result = preprocessing(channels=Channels.BGR, mean=(0.1, 0.0, 0.0)).apply(Image.new("RGB", (8, 8), (255, 51, 0)))
    np.testing.assert_allclose(result[:, 0, 0], [-0.1, 0.2, 1.0], rtol=1e-6)


def test_channels_come_last_when_the_network_reads_nhwc():
    result = preprocessing(height=4, width=6, layout=Layout.NHWC).apply(Image.new("RGB", (6, 4), (255, 51, 0)))
    assert result.shape == (4, 6, 3)
    np.testing.assert_allclose(result[0, 0], [1.0, 0.2, 0.0], rtol=1e-6)


def test_the_input_is_contiguous_float32():
    for layout in Layout:
        result = preprocessing(layout=layout).apply(columns(9, 9))
        assert result.dtype == np.float32
        assert result.flags.c_contiguous


# Modes


def with_alpha() -> Image.Image:
    return Image.new("RGBA", (8, 8), (10, 20, 30, 0))


def with_palette() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


def with_transparent_palette() -> Image.Image:
    image = with_palette()
    image.info["transparency"] = b"\xff\x00"  # one value a palette entry
    return image


MODES = {
    "RGB": (lambda: Image.new("RGB", (8, 8), (10, 20, 30)), (10, 20, 30)),
    "grey": (lambda: Image.new("L", (8, 8), 40), (40, 40, 40)),
    "grey with alpha": (lambda: Image.new("LA", (8, 8), (40, 7)), (40, 40, 40)),
    "black and white": (lambda: Image.new("1", (8, 8), 1), (255, 255, 255)),
    "alpha": (with_alpha, (10, 20, 30)),
    "palette": (with_palette, (10, 20, 30)),
    "palette with transparency": (with_transparent_palette, (10, 20, 30)),
    "16-bit grey": (lambda: Image.fromarray(np.full((8, 8), 40 * 257, np.uint16)), (40, 40, 40)),
    "dark 16-bit grey": (lambda: Image.fromarray(np.full((8, 8), 200, np.uint16)), (1, 1, 1)),
    "32-bit grey": (lambda: Image.fromarray(np.full((8, 8), 40 * 257, np.int32)), (40, 40, 40)),
    "float grey": (lambda: Image.fromarray(np.full((8, 8), 40, np.float32)), (40, 40, 40)),
    "CMYK": (lambda: Image.new("CMYK", (8, 8), (0, 255, 255, 0)), (255, 0, 0)),
}


@pytest.mark.parametrize(("make", "expected"), MODES.values(), ids=MODES)
def test_an_image_of_any_mode_becomes_the_colours_it_shows(make, expected):
    result = preprocessing().apply(make())
    np.testing.assert_allclose(result[:, 3, 3] * 255, expected, atol=1e-3)


@pytest.mark.parametrize(("make", "expected"), MODES.values(), ids=MODES)
def test_an_image_of_any_mode_becomes_one_grey_channel_when_the_network_reads_grey(make, expected):
    result = preprocessing(channels=Channels.GRAY).apply(make())
    assert result.shape == (1, 8, 8)
    luma = np.dot(expected, [0.299, 0.587, 0.114])  # ITU-R 601, as Pillow converts
    np.testing.assert_allclose(result[0, 3, 3] * 255, luma, atol=1)


def test_an_image_is_turned_upright_when_its_exif_tag_says_so(tmp_path: Path):
    image = Image.new("RGB", (16, 8), (0, 0, 0))
    image.paste((255, 0, 0), (0, 0, 8, 8))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the left comes to the top
    image.save(tmp_path / "turned.png", exif=exif)
    files = ImageFiles(origin="", paths=(tmp_path / "turned.png",))
    red = files.load(0, preprocessing(height=16, width=8))[0]
    np.testing.assert_array_equal(red[:8], 1)
    np.testing.assert_array_equal(red[8:], 0)


# Presets and files


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_its_mean_and_deviation(preset):
    resolved = resolve_preprocessing(preset, shape())
    assert (resolved.mean, resolved.std) == (PRESETS[preset]["mean"], PRESETS[preset]["std"])
    assert resolved.channels is Channels.RGB


def test_a_preset_is_averaged_over_its_channels_when_the_network_reads_grey():
    resolved = resolve_preprocessing("imagenet", shape(channels=1))
    assert resolved.channels is Channels.GRAY
    assert resolved.mean == pytest.approx((0.449,))
    assert resolved.std == pytest.approx((0.226,))


def test_the_layout_is_the_networks_own():
    assert resolve_preprocessing("none", shape(layout=Layout.NHWC)).shape == (8, 8, 3)


def test_the_size_is_the_stated_one_when_the_network_leaves_it_open():
    assert resolve_preprocessing("none", shape(None, None), image_size=96).shape == (3, 96, 96)


def test_a_json_file_overrules_what_follows_from_the_network(tmp_path: Path):
    record = {
        "channels": "BGR",
        "fit": "stretch",
        "interpolation": "bicubic",
        "mean": [0, 1, -1],
        "std": 2,
        "crop_fraction": 0.5,
        "height": 10,
        "width": 12,
    }
    file = tmp_path / "own.json"
    file.write_text(json.dumps(record))
    assert resolve_preprocessing(str(file), shape(None, None)) == preprocessing(
        height=10,
        width=12,
        channels=Channels.BGR,
        fit=Fit.STRETCH,
        interpolation="bicubic",
        mean=(0.0, 1.0, -1.0),
        std=(2.0,),
        crop_fraction=0.5,
    )


def test_a_record_survives_json():
    record = preprocessing(
        height=4,
        width=6,
        channels=Channels.BGR,
        layout=Layout.NHWC,
        fit=Fit.STRETCH,
        crop_fraction=0.5,
        interpolation="lanczos",
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )
    assert Preprocessing.from_json(json.loads(json.dumps(record.to_json()))) == record


# Refusals


def refusal(preset: object, network: InputShape, **settings) -> str:
    with pytest.raises(PreprocessingError) as caught:
        resolve_preprocessing(str(preset), network, **settings)
    return str(caught.value)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    assert refusal("imagnet", shape()) == (
        "--preprocess: unknown preset 'imagnet'; known: imagenet, inception, cifar10, none, timm:NAME, or a JSON file"
    )


def test_an_open_size_is_refused_with_the_option_that_states_it():
    assert refusal("none", shape(None, 8)) == (
        "the network leaves the height and width of its input open\nhint: state them: --image-size 224"
    )


def test_an_image_size_other_than_the_networks_is_refused():
    assert refusal("none", shape(), image_size=9) == (
        "--image-size 9 does not fit a network that reads 8x8\n"
        "hint: leave --image-size out: it is for networks whose input size is open"
    )


BAD_FILES = {
    "not JSON": ("{", "is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
    "no object": ("[1]", "must hold one JSON object"),
    "another size": ('{"height": 9}', "height is 9, but the network reads 8 pixels"),
    "size as text": ('{"width": "8"}', "width must be a whole number of pixels, not '8'"),
    "no size": ('{"height": 0}', "height must be a whole number of pixels, not 0"),
    "unknown key": (
        '{"sdt": [1]}',
        "unknown keys sdt; known: channels, crop_fraction, fit, height, interpolation, layout, mean, std, width",
    ),
    "unknown channels": ('{"channels": "CMYK"}', "unknown channels 'CMYK'; known: RGB, BGR, GRAY"),
    "unknown layout": ('{"layout": "NC"}', "unknown layout 'NC'; known: NCHW, NHWC"),
    "a mean of bytes": (
        '{"mean": [123.7, 116, 104], "std": 58}',
        "a mean of 123.7 is none of pixels, which are from 0 to 1 here\n"
        "hint: divide mean and std by 255; a network that reads 0 to 255 has mean 0 and std 1/255",
    ),
    "another layout": ('{"layout": "NHWC"}', "layout is NHWC, but the network reads NCHW\nhint: leave it out"),
    "unknown fit": ('{"fit": ["crop"]}', "unknown fit ['crop']; known: crop, stretch, squash, pad"),
    "unknown filter": (
        '{"interpolation": "box"}',
        "unknown interpolation 'box'; known: nearest, bilinear, bicubic, lanczos",
    ),
    "grey for colour": ('{"channels": "GRAY"}', "GRAY has 1 channels, the network reads 3"),
    "too few means": ('{"mean": [1, 2]}', "mean has 2 values for 3 channels"),
    "mean as text": ('{"mean": "0.5"}', "mean must be a number or a list of numbers, not '0.5'"),
    "infinite mean": ('{"mean": [Infinity]}', "mean must be finite: (inf,)"),
    "no deviation": ('{"std": [1, 0, 1]}', "std must be finite and positive: (1.0, 0.0, 1.0)"),
    "crop too large": ('{"crop_fraction": 2.5}', "crop_fraction must be from 0.05 to 2, not 2.5"),
    "next to nothing": ('{"crop_fraction": 0.0001}', "crop_fraction must be from 0.05 to 2, not 0.0001"),
    "crop as text": ('{"crop_fraction": "a"}', "crop_fraction must be a number, not 'a'"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_an_unusable_file_is_refused_with_the_reason(tmp_path: Path, content, message):
    file = tmp_path / "own.json"
    file.write_text(content)
    assert refusal(file, shape()) == f"{file}: {message}"


def test_a_missing_file_is_refused(tmp_path: Path):
    assert (
        refusal(tmp_path / "own.json", shape())
        == f"{tmp_path / 'own.json'}: cannot be read (No such file or directory)"
    )


def test_a_record_without_layout_is_refused():
    with pytest.raises(PreprocessingError, match=r"^does not state layout$"):
        Preprocessing.from_json({"height": 8, "width": 8, "channels": "RGB"})


@pytest.mark.parametrize("size", [{"height": 0}, {"width": -3}])
def test_a_record_without_pixels_is_refused(size):
    with pytest.raises(PreprocessingError, match="height and width must be 1 or more"):
        preprocessing(**size)

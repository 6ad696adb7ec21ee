"""How an image becomes a network's input: size, crop, channel order, mean, deviation, layout.

The record travels inside the checkpoint, because a wrong mean or deviation costs more accuracy than any quantiser.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from pmsm_cli.errors import PreprocessingError
from pmsm_cli.sources.timm_names import is_timm, preset_of

Floats = npt.NDArray[np.float32]

SMALL_NETWORK = 64  # networks of this size and less are trained on whole images, not on centre crops
CROP_FRACTION = 0.875  # the field's convention for larger ones: 224 cropped from 256
_LARGEST_SIZE = 65535  # pixels
SMALLEST_FRACTION = 0.05  # below, an image would be scaled up to gigabytes for the middle of it
LARGEST_FRACTION = 2  # above 1 the image is smaller than the network's input, and gets a border (volo, in timm)


class Channels(StrEnum):
    """The order of the colour channels that a network expects."""

    RGB = "RGB"
    BGR = "BGR"
    GRAY = "GRAY"


class Layout(StrEnum):
    """Where a network's input has its channels."""

    NCHW = "NCHW"
    NHWC = "NHWC"


class Fit(StrEnum):
    """How an image of another shape is brought to the network's size."""

    CROP = "crop"  # scale until it covers the size / crop_fraction, then cut the centre
    STRETCH = "stretch"  # scale both sides to the size, the proportions change (detectors)
    SQUASH = "squash"  # scale both sides to the size / crop_fraction, then cut the centre
    PAD = "pad"  # scale until it fits into the size / crop_fraction, then cut the centre or fill up with the mean


_Choice = TypeVar("_Choice", bound=StrEnum)

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_MOST_PIXELS, _AROUND_A_WINDOW = 2**25, 4  # of a scaled image; of its middle, in windows
_DEEP_GREY_MODES = {"I", "F"}  # beside I;16, I;16B, ...: more than 8 bits a pixel


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """From a decoded image to one float32 input; sizes in pixels, mean and std on a scale of 0 to 1."""

    height: int
    width: int
    channels: Channels
    layout: Layout
    fit: Fit = Fit.CROP
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Refuse what would only fail, or silently do nothing sensible, on the first image."""
        if self.height < 1 or self.width < 1:
            raise PreprocessingError(f"height and width must be 1 or more, not {self.height}x{self.width}")
        if max(self.height, self.width) > _LARGEST_SIZE:
            raise PreprocessingError(f"height and width must be {_LARGEST_SIZE} or less")
        if self.interpolation not in _FILTERS:
            raise PreprocessingError(f"unknown interpolation {self.interpolation!r}; known: {', '.join(_FILTERS)}")
        if not SMALLEST_FRACTION <= self.crop_fraction <= LARGEST_FRACTION:
            raise PreprocessingError(
                f"crop_fraction must be from {SMALLEST_FRACTION} to {LARGEST_FRACTION}, not {self.crop_fraction}"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channel_count):
                raise PreprocessingError(f"{name} has {len(values)} values for {self.channel_count} channels")
            if not all(math.isfinite(value) for value in values) or (name == "std" and min(values) <= 0):
                raise PreprocessingError(f"{name} must be finite{' and positive' if name == 'std' else ''}: {values}")

    @property
    def channel_count(self) -> int:
        """How many colour channels the network reads."""
        return 1 if self.channels is Channels.GRAY else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one input, without the batch."""
        if self.layout is Layout.NCHW:
            return (self.channel_count, self.height, self.width)
        return (self.height, self.width, self.channel_count)

    def apply(self, image: Image.Image, *, keep_own_size: bool = False) -> Floats:
        """One input of `shape` from a decoded image of any size and mode (grey, palette, alpha, 16 bits).

        `keep_own_size` takes an image of the network's own size for one that was cropped before.
        """
        coloured = self._in_colour(image)
        cropped = keep_own_size and image.size == (self.width, self.height)
        return self.normalise(np.asarray(coloured if cropped else self._resized(coloured)))

    def normalise(self, pixels: npt.NDArray[Any]) -> Floats:
        """One input of `shape` from pixels (0 to 255) of height x width (x channels), already of the right size."""
        colours = pixels.astype(np.float32).reshape(*pixels.shape[:2], -1)
        if self.channels is Channels.BGR:
            colours = colours[..., ::-1]
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        values: Floats = (colours / np.float32(255) - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1) if self.layout is Layout.NCHW else values)

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_json`.

        Raises:
            PreprocessingError: a key is unknown or missing, or a value is unusable.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(record) - known)
        if unknown:
            raise PreprocessingError(f"unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        try:
            return cls(
                **{
                    **record,
                    "height": int(record["height"]),
                    "width": int(record["width"]),
                    "channels": _one_of(Channels, record["channels"], "channels"),
                    "layout": _one_of(Layout, record["layout"], "layout"),
                    "fit": _one_of(Fit, record.get("fit", Fit.CROP), "fit"),
                    "crop_fraction": _number(record.get("crop_fraction", 1.0), "crop_fraction"),
                    "mean": _numbers(record.get("mean", 0.0), "mean"),
                    "std": _numbers(record.get("std", 1.0), "std"),
                }
            )
        except KeyError as error:
            raise PreprocessingError(f"does not state {error.args[0]}") from error
        except (TypeError, ValueError) as error:
            raise PreprocessingError(f"cannot be used ({error})") from error

    def _in_colour(self, image: Image.Image) -> Image.Image:
        target = "L" if self.channels is Channels.GRAY else "RGB"
        if image.mode.startswith("I;16") or image.mode in _DEEP_GREY_MODES:
            deep = np.asarray(image, np.float32)  # Pillow would clip 16-bit greys at 255 instead of scaling them
            # I and F do not say how deep they are.
            scale = 257.0 if image.mode.startswith("I;16") or deep.max(initial=0) > 255 else 1.0
            if image.mode == "F" and 0 < deep.max(initial=0) <= 1:
                scale = 1 / 255
            image = Image.fromarray(np.round(np.clip(deep / scale, 0, 255)).astype(np.uint8))
        if image.mode == "P":  # a palette may hold transparent entries
            image = image.convert("RGBA")
        return image if image.mode == target else image.convert(target)

    def _resized(self, image: Image.Image) -> Image.Image:
        resample = _FILTERS[self.interpolation]
        if image.size == (self.width, self.height) and self.crop_fraction == 1:
            return image
        if self.fit is Fit.STRETCH:
            return image.resize((self.width, self.height), resample)
        around = (round(self.width / self.crop_fraction), round(self.height / self.crop_fraction))
        size = self._scaled(image.size, around)
        if self.fit is Fit.CROP and size[0] * size[1] > _MOST_PIXELS:
            image = _middle(image, around)
            size = self._scaled(image.size, around)
        if size != image.size:
            image = image.resize(size, resample)
        return self._centre(image)

    def _scaled(self, size: tuple[int, int], around: tuple[int, int]) -> tuple[int, int]:
        """Width and height of an image once it is scaled for the crop window, widened by 1 / crop_fraction."""
        if self.fit is Fit.SQUASH:
            return around
        scales = (around[0] / size[0], around[1] / size[1])
        if self.fit is Fit.PAD:  # the largest scale at which the image lies inside
            return (max(1, round(size[0] * min(scales))), max(1, round(size[1] * min(scales))))
        # The smallest scale at which the window lies inside the image.
        return (max(around[0], int(size[0] * max(scales))), max(around[1], int(size[1] * max(scales))))

    def _centre(self, image: Image.Image) -> Image.Image:
        """The crop window around the centre; where the image does not reach, the mean colour (pad) or black."""
        left, top = _start(image.width, self.width), _start(image.height, self.height)
        if left >= 0 and top >= 0:
            return image.crop((left, top, left + self.width, top + self.height))
        mean = np.broadcast_to(self.mean if self.fit is Fit.PAD else 0.0, self.channel_count)
        colour = tuple(round(255 * value) for value in mean.tolist())
        filled = Image.new(image.mode, (self.width, self.height), colour if len(colour) > 1 else colour[0])
        filled.paste(image, (-left, -top))
        return filled


def _middle(image: Image.Image, around: tuple[int, int]) -> Image.Image:
    """What of a long strip lies about the crop window: scaled up as a whole it would take gigabytes."""
    scale = max(around[0] / image.width, around[1] / image.height)
    about = (math.ceil(_AROUND_A_WINDOW * window / scale) for window in around)
    # As even or odd as the image is, so that the centre stays where it was.
    width, height = (min(own, most + (own - most) % 2) for own, most in zip(image.size, about, strict=True))
    left, top = _start(image.width, width), _start(image.height, height)
    return image.crop((left, top, left + width, top + height))


def _start(length: int, window: int) -> int:
    """Where a window around the centre begins; negative where it is longer than what it is cut from."""
    return round((length - window) / 2) if length >= window else -((window - length) // 2)


def _one_of(kind: type[_Choice], value: Any, name: str) -> _Choice:
    try:
        return kind(value)
    except ValueError as error:
        raise PreprocessingError(f"unknown {name} {value!r}; known: {', '.join(kind)}") from error


def _number(value: Any, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise PreprocessingError(f"{name} must be a number, not {value!r}")
    return float(value)


def _numbers(value: Any, name: str) -> tuple[float, ...]:
    """One number for all channels, or a list with one a channel."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in values):
        raise PreprocessingError(f"{name} must be a number or a list of numbers, not {value!r}")
    return tuple(float(each) for each in values)


@dataclass(frozen=True, kw_only=True, slots=True)
class InputShape:
    """What a network's own graph says of its image input; `None` where the graph leaves a side open."""

    height: int | None
    width: int | None
    channel_count: int
    layout: Layout


_FURTHEST_MEAN = 2.0  # that is one of pixels from 0 to 1, however unusual

PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "inception": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "cifar10": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)},
    "none": {"mean": (0.0,), "std": (1.0,)},
}


def resolve_preprocessing(preset: str, shape: InputShape, *, image_size: int | None = None) -> Preprocessing:
    """The preprocessing that a preset's name, `timm:` and a model's name, or a JSON file means for a network's input.

    A JSON file is an object with any of the keys of `Preprocessing`; what it leaves out follows the network.

    Raises:
        PreprocessingError: the preset is unknown, the file unusable, or the size of the input is not known.
    """
    chosen = _read_preset(preset, height=shape.height or image_size, width=shape.width or image_size)
    for name in ("height", "width"):
        size = chosen.get(name, 1)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise PreprocessingError(f"{name} must be a whole number of pixels, not {size!r}", subject=preset)
    height = chosen.pop("height", None) or shape.height or image_size
    width = chosen.pop("width", None) or shape.width or image_size
    if not height or not width:
        raise PreprocessingError(
            "the network leaves the height and width of its input open", hint="state them: --image-size 224"
        )
    for name, own, stated in (("height", shape.height, height), ("width", shape.width, width)):
        if own and own != stated:
            raise PreprocessingError(f"{name} is {stated}, but the network reads {own} pixels", subject=preset)
    if image_size and (height, width) != (image_size, image_size):
        raise PreprocessingError(
            f"--image-size {image_size} does not fit a network that reads {height}x{width}",
            hint="leave --image-size out: it is for networks whose input size is open",
        )
    grey = shape.channel_count == 1
    if grey and (preset in PRESETS or is_timm(preset)):  # colour statistics, averaged: what grey images share with it
        chosen |= {key: (sum(chosen[key]) / len(chosen[key]),) for key in ("mean", "std")}
    record = {
        "height": height,
        "width": width,
        "channels": Channels.GRAY if grey else Channels.RGB,
        "layout": shape.layout,
        "crop_fraction": 1.0 if min(height, width) <= SMALL_NETWORK else CROP_FRACTION,
        **chosen,
    }
    try:
        resolved = Preprocessing.from_json(record)
    except PreprocessingError as error:
        raise PreprocessingError(error.problem, subject=preset, hint=error.hint) from error
    if resolved.channel_count != shape.channel_count:
        raise PreprocessingError(
            f"{resolved.channels} has {resolved.channel_count} channels, the network reads {shape.channel_count}",
            subject=preset,
        )
    if preset not in PRESETS and max(map(abs, resolved.mean)) > _FURTHEST_MEAN:
        raise PreprocessingError(
            f"a mean of {max(resolved.mean, key=abs):g} is none of pixels, which are from 0 to 1 here",
            subject=preset,
            hint="divide mean and std by 255; a network that reads 0 to 255 has mean 0 and std 1/255",
        )
    if resolved.layout is not shape.layout:
        raise PreprocessingError(
            f"layout is {resolved.layout}, but the network reads {shape.layout}", subject=preset, hint="leave it out"
        )
    return resolved


def _read_preset(preset: str, *, height: int | None, width: int | None) -> dict[str, Any]:
    if preset in PRESETS:
        return dict(PRESETS[preset])
    if is_timm(preset):
        return preset_of(preset, height=height, width=width)
    path = Path(preset)
    if path.suffix != ".json":
        raise PreprocessingError(
            f"unknown preset {preset!r}; known: {', '.join(PRESETS)}, timm:NAME, or a JSON file", subject="--preprocess"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PreprocessingError(f"cannot be read ({error.strerror})", subject=preset) from error
    except ValueError as error:
        raise PreprocessingError(f"is not JSON ({error})", subject=preset) from error
    if not isinstance(record, dict):
        raise PreprocessingError("must hold one JSON object", subject=preset)
    return record

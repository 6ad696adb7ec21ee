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

Floats = npt.NDArray[np.float32]

SMALL_NETWORK = 64  # networks of this size and less are trained on whole images, not on centre crops
CROP_FRACTION = 0.875  # the field's convention for larger ones: 224 cropped from 256


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

    CROP = "crop"  # scale until it covers, then cut the centre
    STRETCH = "stretch"  # scale both sides, the proportions change (detectors)


_Choice = TypeVar("_Choice", bound=StrEnum)

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
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
        if self.interpolation not in _FILTERS:
            raise PreprocessingError(f"unknown interpolation {self.interpolation!r}; known: {', '.join(_FILTERS)}")
        if not 0 < self.crop_fraction <= 1:
            raise PreprocessingError(f"crop_fraction must be above 0 and at most 1, not {self.crop_fraction}")
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
        # The smallest scale at which the crop window, widened by 1 / crop_fraction, still lies inside the image.
        covered = (round(self.width / self.crop_fraction), round(self.height / self.crop_fraction))
        scale = max(covered[0] / image.width, covered[1] / image.height)
        size = (max(covered[0], int(image.width * scale)), max(covered[1], int(image.height * scale)))
        if size != image.size:
            image = image.resize(size, resample)
        left, top = round((size[0] - self.width) / 2), round((size[1] - self.height) / 2)
        return image.crop((left, top, left + self.width, top + self.height))


def _one_of(kind: type[_Choice], value: Any, name: str) -> _Choice:
    try:
        return kind(value)
    except ValueError as error:
        raise PreprocessingError(f"unknown {name} {value!r}; known: {', '.join(kind)}") from error


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


PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "inception": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "cifar10": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)},
    "none": {"mean": (0.0,), "std": (1.0,)},
}


def resolve_preprocessing(preset: str, shape: InputShape, *, image_size: int | None = None) -> Preprocessing:
    """The preprocessing that a preset name or a JSON file means for a network's input.

    A JSON file is an object with any of the keys of `Preprocessing`; what it leaves out follows the network.

    Raises:
        PreprocessingError: the preset is unknown, the file unusable, or the size of the input is not known.
    """
    chosen = _read_preset(preset)
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
    if grey and preset in PRESETS:  # a preset's colour statistics, averaged: what grey images have in common with it
        chosen = {key: (sum(values) / len(values),) for key, values in chosen.items()}
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
    return resolved


def _read_preset(preset: str) -> dict[str, Any]:
    if preset in PRESETS:
        return dict(PRESETS[preset])
    path = Path(preset)
    if path.suffix != ".json":
        raise PreprocessingError(
            f"unknown preset {preset!r}; known: {', '.join(PRESETS)}, or a JSON file", subject="--preprocess"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PreprocessingError(f"cannot be read ({error.strerror})", subject=preset) from error
    except ValueError as error:
        raise PreprocessingError(f"is not JSON ({error})", subject=preset) from error
    if not isinstance(record, dict):
        raise PreprocessingError("must hold one JSON object", subject=preset)
    return record

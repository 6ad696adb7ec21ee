"""Resizing of maps, and moving channels into space and back."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pmsm_cli.errors import UnsupportedGraphError
from pmsm_cli.finetune.operators.table import Call, integers, operator

_Grid = npt.NDArray[np.float64]

_ROUNDING: dict[str, Callable[[_Grid], _Grid]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@operator("Resize")
def resize(
    call: Call, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """Nearest or linear, axis by axis, for all ways of laying the new grid over the old one but `tf_crop_and_resize`.

    Raises:
        UnsupportedGraphError: the mode is cubic, or smooths before it shrinks.
    """
    mode, coordinates = call.get("mode", "nearest"), call.get("coordinate_transformation_mode", "half_pixel")
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if (
        mode not in ("nearest", "linear")
        or call.get("antialias", 0)
        or coordinates not in _COORDINATES
        or policy != "stretch"
    ):
        raise UnsupportedGraphError(f"Resize in mode {mode}, {coordinates}, cannot be trained through yet")
    axes = [axis % x.ndim for axis in call.get("axes", range(x.ndim))]
    wanted = integers(sizes) if sizes is not None and sizes.numel() else None
    ratios = scales.tolist() if wanted is None and scales is not None else []
    for position, axis in enumerate(axes):
        old = x.shape[axis]
        new = wanted[position] if wanted else int(np.floor(old * ratios[position]))
        ratio = new / old if wanted else ratios[position]
        if new == old and ratio == 1:
            continue
        where = _COORDINATES[coordinates](np.arange(new, dtype=np.float64), float(ratio), old, new)
        x = _nearest(call, x, axis, where) if mode == "nearest" else _linear(x, axis, where)
    return x


def _half_pixel(x: _Grid, ratio: float, old: int, new: int) -> _Grid:
    return (x + 0.5) / ratio - 0.5


def _half_pixel_symmetric(x: _Grid, ratio: float, old: int, new: int) -> _Grid:
    centre = old / 2 * (1 - new / (ratio * old))
    return centre + (x + 0.5) / ratio - 0.5


def _corners(x: _Grid, ratio: float, old: int, new: int) -> _Grid:
    return x * (old - 1) / (new - 1) if new > 1 else x * 0


_COORDINATES: dict[str, Callable[[_Grid, float, int, int], _Grid]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": lambda x, ratio, old, new: _half_pixel(x, ratio, old, new) if new > 1 else x * 0,
    "align_corners": _corners,
    "asymmetric": lambda x, ratio, old, new: x / ratio,
}


def _nearest(call: Call, x: Tensor, axis: int, where: _Grid) -> Tensor:
    rounded = _ROUNDING[call.get("nearest_mode", "round_prefer_floor")](where)
    chosen = np.clip(rounded, 0, x.shape[axis] - 1).astype(np.int64)
    return x.index_select(axis, torch.from_numpy(chosen).to(x.device))


def _linear(x: Tensor, axis: int, where: _Grid) -> Tensor:
    inside = np.clip(where, 0, x.shape[axis] - 1)
    left = np.floor(inside).astype(np.int64)
    right = np.minimum(left + 1, x.shape[axis] - 1)
    shape = [-1 if position == axis else 1 for position in range(x.ndim)]
    share = torch.from_numpy((inside - left).astype(np.float32)).to(x.device).reshape(shape)
    low, high = (x.index_select(axis, torch.from_numpy(index).to(x.device)) for index in (left, right))
    return low + (high - low) * share


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Blocks of channels become blocks of pixels."""
    size = call.get("blocksize")
    images, channels, height, width = x.shape
    rest = channels // size**2
    if call.get("mode", "DCR") == "CRD":
        x = x.reshape(images, rest, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        x = x.reshape(images, size, size, rest, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(images, rest, height * size, width * size)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Blocks of pixels become blocks of channels."""
    size = call.get("blocksize")
    images, channels, height, width = x.shape
    x = x.reshape(images, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(images, channels * size**2, height // size, width // size)

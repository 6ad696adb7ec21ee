"""Pooling over windows and over whole maps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pmsm_cli.finetune.operators.padding import pads_of
from pmsm_cli.finetune.operators.table import Call, operator

_AVERAGES = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_MAXIMA = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


@operator("GlobalAveragePool")
def global_average(call: Call, x: Tensor) -> Tensor:
    """The mean of each channel's map; its axes stay."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_maximum(call: Call, x: Tensor) -> Tensor:
    """The largest value of each channel's map; its axes stay."""
    return x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    """Means over windows, the padding counted or not as `count_include_pad` says."""
    kernel = call.get("kernel_shape")
    spatial = len(kernel)
    strides = call.get("strides", [1] * spatial)
    begins, ends, extra = _borders(call, x, [1] * spatial)
    pool = _AVERAGES[spatial - 1]
    if not any(begins) and not any(ends) and not any(extra):
        return pool(x, kernel, strides)
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    counted = _pad(inside, begins, ends, 1.0 if call.get("count_include_pad", 0) else 0.0)
    nothing = [0] * spatial
    share = pool(_pad(counted, nothing, extra, 0.0), kernel, strides)
    padded = _pad(x, begins, [end + more for end, more in zip(ends, extra, strict=True)], 0.0)
    return pool(padded, kernel, strides) / share


@operator("MaxPool")
def maximum_pool(call: Call, x: Tensor) -> Tensor:
    """The largest value of each window; padding never is."""
    kernel = call.get("kernel_shape")
    spatial = len(kernel)
    dilations = call.get("dilations", [1] * spatial)
    begins, ends, extra = _borders(call, x, dilations)
    ends = [end + more for end, more in zip(ends, extra, strict=True)]
    if any(begins) or any(ends):
        x = _pad(x, begins, ends, -math.inf)
    return _MAXIMA[spatial - 1](x, kernel, call.get("strides", [1] * spatial), dilation=dilations)


def _borders(call: Call, x: Tensor, dilations: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Padding before and after each axis, and how much further the last window reaches with `ceil_mode`."""
    kernel = call.get("kernel_shape")
    strides = call.get("strides", [1] * len(kernel))
    begins, ends = pads_of(call, x.shape[2:], kernel, strides, dilations)
    extra = [0] * len(kernel)
    if call.get("ceil_mode", 0):
        for axis, size in enumerate(x.shape[2:]):
            room = size + begins[axis] + ends[axis] - (kernel[axis] - 1) * dilations[axis] - 1
            steps = -(-room // strides[axis])
            if steps * strides[axis] >= size + begins[axis]:  # a window must begin inside
                steps -= 1
            extra[axis] = max(steps * strides[axis] - room, 0)
    return begins, ends, extra


def _pad(x: Tensor, begins: list[int], ends: list[int], value: float) -> Tensor:
    return F.pad(x, [pad for pair in zip(reversed(begins), reversed(ends), strict=True) for pad in pair], value=value)

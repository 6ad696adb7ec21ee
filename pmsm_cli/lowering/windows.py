"""How a convolution moves its kernel, as the native library's operators state it: a number to each attribute."""

from collections.abc import Sequence

import onnx_ir as ir

from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant

WINDOW = ("stride_y", "stride_x", "step_y", "step_x", "top", "left", "bottom", "right")
ONE_PLACE = {**dict.fromkeys(WINDOW[:4], 1), **dict.fromkeys(WINDOW[4:], 0), "group": 1}
_IMAGES = 4  # axes: [N, channels, height, width]


def pads_of(node: ir.Node) -> tuple[int, ...] | None:
    """Top, left, bottom, right; None: they depend on the image, or cut it."""
    pads = tuple(node.attributes.get_ints("pads", (0, 0, 0, 0)))
    how = node.attributes.get_string("auto_pad", "NOTSET")
    if how not in ("NOTSET", "VALID") or min(pads) < 0 or (how == "VALID" and any(pads)):
        return None
    return pads


def window_attributes(node: ir.Node) -> dict[str, int]:
    """Those of a convolution of images, by name; precondition: `pads_of` knows its pads."""
    strides, steps = (node.attributes.get_ints(name, (1, 1)) for name in ("strides", "dilations"))
    numbers = dict(zip(WINDOW, (*strides, *steps, *(pads_of(node) or ())), strict=True))
    return {**numbers, "group": node.attributes.get_int("group", 1)}


def is_layer(node: ir.Node, own: Int8Weights) -> bool:
    """Whether a convolution with int8 weights is one of images that the library computes."""
    return own.axis == 0 and own.scale.ndim == 1 and may_be_layer(node, (len(own.scale), *own.values.shape[1:]))


def may_be_layer(node: ir.Node, weights: Sequence[int]) -> bool:
    """Whether the library computes a convolution with weights of this shape: it has kernels, and a constant bias."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return has_kernels(node, weights) and (bias is None or constant(bias) is not None)


def has_kernels(node: ir.Node, weights: Sequence[int]) -> bool:
    """Whether the library has kernels for weights of this shape: those of images, for all channels or for each."""
    group = node.attributes.get_int("group", 1)
    grouped = group == 1 or (len(weights) > 1 and group == weights[0] and weights[1] == 1)
    return len(weights) == _IMAGES and grouped and pads_of(node) is not None


def alike(one: ir.Shape | None, other: ir.Shape | None) -> bool:
    """Whether two tensors, [N, further axes], are of one shape; N may have two names."""
    if one is None or other is None or len(one) != len(other) or len(one) == 0:
        return False
    known = all(isinstance(size, int) for size in one[1:]) and one[1:] == other[1:]
    fixed = [size for size in (one[0], other[0]) if isinstance(size, int)]
    return known and (one[0] == other[0] if fixed else True)

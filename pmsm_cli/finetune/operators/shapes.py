"""Operators that move values about, or compute shapes; shapes and indices stay on the CPU."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pmsm_cli.finetune.operators.table import Call, Result, integers, operator

_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}  # ONNX's numbers for them


@operator("Identity", "Dropout")
def identity(call: Call, x: Tensor, *others: Tensor) -> Tensor:
    """The value itself; dropout is for training the source, not for tuning it."""
    return x


@operator("Reshape")
def reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """The same values in another shape; 0 keeps a size, -1 takes what is left."""
    sizes = integers(shape)
    if not call.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    """Two axes: those before `axis`, and the rest."""
    axis = call.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1) if x.numel() else x.reshape(math.prod(x.shape[:axis]), 0)


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    """The axes in another order, reversed if none is stated."""
    return x.permute(call.get("perm", list(range(x.ndim))[::-1]))


@operator("Concat")
def concat(call: Call, *parts: Tensor) -> Tensor:
    """Parts in a row along an axis."""
    device = next((part.device for part in parts if part.device.type != "cpu"), parts[0].device)
    return torch.cat([part.to(device) for part in parts], dim=call.get("axis"))


@operator("Split")
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> Result:
    """An axis in parts, of stated sizes or all alike but for the last."""
    axis = call.get("axis", 0)
    if sizes is not None:
        return torch.split(x, integers(sizes), dim=axis)
    return torch.split(x, -(-x.shape[axis] // call.get("num_outputs", call.outputs)), dim=axis)


@operator("Slice")
def slice_(call: Call, x: Tensor, starts: Tensor, ends: Tensor, *rest: Tensor | None) -> Tensor:
    """A part of some axes, in steps of either sign."""
    axes, steps = (*rest, None, None)[:2]
    firsts, lasts = integers(starts), integers(ends)
    along = integers(axes) if axes is not None else list(range(len(firsts)))
    strides = integers(steps) if steps is not None else [1] * len(firsts)
    for first, last, axis, stride in zip(firsts, lasts, along, strides, strict=True):
        # Python's own rules are ONNX's, but for a last index beyond the beginning, which ONNX writes as a number.
        size = x.shape[axis]
        stop = None if stride < 0 and last < -size else last
        chosen = range(size)[slice(first, stop, stride)]
        if stride > 0:
            index: list[Any] = [slice(None)] * x.ndim
            index[axis] = slice(first, last, stride)
            x = x[tuple(index)]
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))
    return x


@operator("Pad")
def pad(call: Call, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    """More (or, with negative pads, less) at both ends of axes: a constant, mirrored, repeated or wrapped."""
    along = [axis % x.ndim for axis in integers(axes)] if axes is not None else list(range(x.ndim))
    stated = integers(pads)
    begins, ends = stated[: len(along)], stated[len(along) :]
    mode = call.get("mode", "constant")
    if mode == "constant":
        around = [0] * (2 * x.ndim)
        for axis, begin, end in zip(along, begins, ends, strict=True):
            position = 2 * (x.ndim - 1 - axis)
            around[position : position + 2] = [begin, end]
        while around[-2:] == [0, 0] and len(around) > 2:  # fewer axes have faster kernels
            around = around[:-2]
        return F.pad(x, around, value=0 if value is None else value.item())
    for axis, begin, end in zip(along, begins, ends, strict=True):
        if begin or end:
            size = x.shape[axis]
            index = torch.arange(-begin, size + end)
            if mode == "edge":
                index = index.clamp(0, size - 1)
            elif mode == "wrap":
                index = index.remainder(size)
            else:
                period = max(2 * (size - 1), 1)
                index = index.remainder(period)
                index = torch.where(index < size, index, period - index)
            x = x.index_select(axis, index.to(x.device))
    return x


@operator("Gather")
def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Entries of an axis; negative indices count from its end."""
    axis = call.get("axis", 0) % x.ndim
    flat = indices.reshape(-1).to(torch.int64)
    flat = torch.where(flat < 0, flat + x.shape[axis], flat).to(x.device)
    return x.index_select(axis, flat).reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@operator("GatherElements")
def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """One entry of an axis for each index."""
    axis = call.get("axis", 0)
    chosen = indices.to(device=x.device, dtype=torch.int64)
    return x.gather(axis, torch.where(chosen < 0, chosen + x.shape[axis], chosen))


@operator("Squeeze")
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without axes of size 1."""
    return x.squeeze() if axes is None else x.squeeze(tuple(integers(axes)))


@operator("Unsqueeze")
def unsqueeze(call: Call, x: Tensor, axes: Tensor) -> Tensor:
    """With new axes of size 1, which count in the result."""
    rank = x.ndim + axes.numel()
    for axis in sorted(axis % rank for axis in integers(axes)):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Repeated along axes of size 1."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(integers(shape))))  # type: ignore[no-untyped-call]


@operator("Tile")
def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeated as a whole along axes."""
    return x.repeat(*integers(repeats))


@operator("Shape")
def shape(call: Call, x: Tensor) -> Tensor:
    """The sizes, or some of them."""
    return torch.tensor(x.shape[call.get("start", 0) : call.get("end", x.ndim)], dtype=torch.int64)


@operator("Size")
def size(call: Call, x: Tensor) -> Tensor:
    """How many elements there are."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("Range")
def range_(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers from a start on."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Constant")
def constant(call: Call) -> Tensor:
    """A constant of any kind."""
    if "value" in call.attributes:
        return torch.as_tensor(call.get("value"))
    (name,) = call.attributes
    return torch.tensor(call.get(name), dtype=torch.float32 if name.startswith("value_float") else torch.int64)


@operator("ConstantOfShape")
def constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    """One number, as often as a shape says."""
    value = call.get("value", torch.zeros(1))
    return torch.full(integers(shape), value.item(), dtype=value.dtype)


@operator("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    """The same numbers in another type."""
    return x.to(_TYPES[call.get("to")])


@operator("CastLike")
def cast_like(call: Call, x: Tensor, other: Tensor) -> Tensor:
    """The same numbers in another value's type."""
    return x.to(other.dtype)

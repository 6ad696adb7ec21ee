"""Sums, means and extremes along axes."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from pmsm_cli.finetune.operators.table import Call, integers, operator

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _log_sum_exp(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep)


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(dim=axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": lambda x, axes, keep: x.amax(dim=axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(dim=axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(dim=axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(dim=axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(dim=axes, keepdim=keep),
}


def _reduce(function: Reduction, call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """`axes` was an attribute before opset 18 (13 for sums); none stated means all of them, or none at all."""
    stated = integers(axes) if axes is not None else call.get("axes", [])
    if not stated:
        if call.get("noop_with_empty_axes", 0):
            return x
        stated = list(range(x.ndim))
    return function(x, tuple(stated), bool(call.get("keepdims", 1)))


for _name, _function in _REDUCTIONS.items():
    operator(_name)(functools.partial(_reduce, _function))


@operator("ReduceProd")
def product(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Products along axes, one after the other."""

    def along(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
        for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
            x = x.prod(dim=axis, keepdim=keep)
        return x

    return _reduce(along, call, x, axes)


@operator("ArgMax")
def arg_max(call: Call, x: Tensor) -> Tensor:
    """The position of the largest value along an axis."""
    return _position(call, x)


@operator("ArgMin")
def arg_min(call: Call, x: Tensor) -> Tensor:
    """The position of the smallest value along an axis."""
    return _position(call, -x)


def _position(call: Call, x: Tensor) -> Tensor:
    axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
    if call.get("select_last_index", 0):
        return torch.rsub(x.flip(axis).argmax(dim=axis, keepdim=keep), x.shape[axis] - 1)
    return x.argmax(dim=axis, keepdim=keep)


@operator("CumSum")
def cumulated_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """Running sums along an axis."""
    along = int(axis.item())
    x = x.flip(along) if call.get("reverse", 0) else x
    total = x.cumsum(dim=along)
    total = total - x if call.get("exclusive", 0) else total
    return total.flip(along) if call.get("reverse", 0) else total


@operator("TopK")
def top_k(call: Call, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) values along an axis, sorted, and where they are."""
    values, positions = torch.topk(
        x, int(k.item()), dim=call.get("axis", -1), largest=bool(call.get("largest", 1)), sorted=True
    )
    return values, positions

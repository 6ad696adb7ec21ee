"""Shortcuts without weights: values that are thinned out and given further channels, as ResNets for small images do."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.lowering.codes import code_of, quantiser_of
from pmsm_cli.lowering.convolutions import IDENTITY, Tail, integer_convolution
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant, is_op, only_reader, rank_of, read

_CHANNELS, _PLACES = 1, (2, 3)  # axes of an image
_LAST = 2**31 - 1  # what exporters write for the end of an axis


def shortcuts_to_integers(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """DequantizeLinear, Slice with steps over places, Pad of channels, QuantizeLinear -> QLinearConv that copies.

    Preconditions: images, [N, channels, height, width], and one scale on either side.
    """
    changed = False
    for node in list(graph):
        quantiser = quantiser_of(node)
        found = _copy_behind(read(node, 0)) if quantiser and quantiser.scale.ndim == 0 else None
        code = None if found is None else code_of(found.source)
        if quantiser is None or found is None or code is None:
            continue
        kernel = found.kernel()
        attributes = [ir.AttrInt64("group", 1), ir.AttrInt64s("strides", found.strides)]
        copying = ir.Node("", "Conv", [found.source], attributes, name=f"{node.name}/copied")
        graph.insert_before(node, copying)
        scale, bias = np.full(len(kernel), 1 / IDENTITY, np.float32), np.zeros(len(kernel), np.float32)
        integer_convolution(graph, copying, code, kernel, scale, bias, Tail.of(quantiser))
        changed = True
    return changed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Copy:
    """Every so many places of a value, with channels of zeros before and behind its own."""

    source: ir.Value
    channels: int
    before: int
    behind: int
    strides: tuple[int, int]

    def kernel(self) -> npt.NDArray[np.int8]:
        """The convolution that does it."""
        size = self.before + self.channels + self.behind
        return (IDENTITY * np.eye(size, self.channels, -self.before, np.int8)).reshape(size, self.channels, 1, 1)


def _copy_behind(value: ir.Value) -> _Copy | None:
    """What a value is a copy of, if anything was left out or put in."""
    before = behind = 0
    strides = [1, 1]
    node = value.producer()
    while is_op(node, "Slice", "Pad") and only_reader(node.outputs[0]) is not None and rank_of(read(node, 0)) == 4:
        if node.op_type == "Slice":
            steps = _steps(node)
            if steps is None:
                return None
            strides = [own * step for own, step in zip(strides, steps, strict=True)]
        else:
            pads = _channels_of_zeros(node)
            if pads is None:
                return None
            before, behind = before + pads[0], behind + pads[1]
        value = read(node, 0)
        node = value.producer()
    channels = None if value.shape is None or len(value.shape) != 4 else value.shape[_CHANNELS]
    if not isinstance(channels, int) or (before, behind, *strides) == (0, 0, 1, 1):
        return None
    return _Copy(source=value, channels=channels, before=before, behind=behind, strides=(strides[0], strides[1]))


def _steps(node: ir.Node) -> tuple[int, int] | None:
    """The steps of a Slice over height and width, from the first place to the last; None: it takes something else."""
    given = [constant(each) for each in node.inputs[1:]]
    if len(given) < 2 or any(each is None for each in given):
        return None
    starts, ends = given[:2]
    axes = given[2] if len(given) > 2 else np.arange(len(starts))
    steps = given[3] if len(given) > 3 else np.ones(len(starts), np.int64)
    shape = read(node, 0).shape
    found = dict.fromkeys(_PLACES, 1)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = None if shape is None else shape[int(axis) % 4]
        whole = end >= (size if isinstance(size, int) else _LAST)
        if int(axis) % 4 not in found or start != 0 or step < 1 or not whole:
            return None
        found[int(axis) % 4] = int(step)
    return found[2], found[3]


def _channels_of_zeros(node: ir.Node) -> tuple[int, int] | None:
    """How many channels a Pad puts before and behind; None: it does something else."""
    pads, filling, axes = ([*(constant(each) for each in node.inputs[1:]), None, None, None])[:3]
    if node.attributes.get_string("mode", "constant") != "constant" or pads is None:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and (filling is None or filling != 0):
        return None
    if len(node.inputs) > 3 and axes is None:
        return None
    on = [int(axis) % 4 for axis in (range(4) if axes is None else axes)]
    sizes = dict(zip(on, zip(pads[: len(on)], pads[len(on) :], strict=True), strict=True))
    before, behind = (int(each) for each in sizes.pop(_CHANNELS, (0, 0)))
    if min(before, behind) < 0 or any(before or behind for before, behind in sizes.values()):
        return None
    return before, behind

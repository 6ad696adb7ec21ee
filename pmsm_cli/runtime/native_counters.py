"""Counting spikes by the native library's operator: one pass over them, and one tensor that leaves the network.

What a site counts is a few numbers for each image, and a network has a hundred sites; tensors that leave onnxruntime
one by one would take longer than the counting.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.network import Shape
from pmsm_cli.lowering.resting import SPIKE_COUNTS
from pmsm_cli.neuron.onnx_function import DOMAIN
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.runtime.session import Array

_DIGITS, _OF_DIGITS = 2, np.array([2.0**20, 1.0])  # a sum leaves as two numbers, each exact in single precision
_FLOAT = ir.TensorType(ir.DataType.FLOAT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What one site counts: [rows, positions | positions | channels | channels] (native/spike_counts.cpp)."""

    kinds: tuple[str, ...]  # names of these four, as many as are wanted
    # Sizes behind the axis that is summed over, None for the one that is open; no sizes: where does not matter.
    positions: tuple[int | None, ...] | None
    channels: int
    rows: int | None  # to an image, in the tensor of all sites; None: it leaves by itself
    output: str

    @property
    def width(self) -> int:
        """The columns of one row."""
        places = _DIGITS if self.positions is None else math.prod(size or 1 for size in self.positions)
        return 2 * places + 2 * self.channels

    def split(self, block: Array, suffix: str) -> dict[str, Array]:
        """The counts by name, from [..., rows, columns]."""
        places = block.shape[-1] // 2 - self.channels
        known = math.prod(size for size in self.positions or () if size is not None)
        shape = [places // max(known, 1) if size is None else size for size in self.positions or ()]
        ends = np.cumsum([0, places, places, self.channels, self.channels])
        parts = {}
        for index, kind in enumerate(self.kinds):
            part = block[..., ends[index] : ends[index + 1]]
            if index < 2 and self.positions is None:
                part = part.astype(np.float64) @ _OF_DIGITS
            elif index < 2:
                part = part.reshape(*block.shape[:-1], *shape)
            parts[kind + suffix] = part
        return parts


class NativeCounters:
    """Counters of a graph, or of the body of its later timesteps, while they are put in."""

    def __init__(self, graph: ir.Graph, outer: ir.Graph, *, output: str, batch: int | None) -> None:
        """`outer` holds constants; `batch` is the fixed number of images, None: open."""
        self.graph, self.outer, self.output, self.batch = graph, outer, output, batch
        self.blocks: list[Block] = []
        self._parts: list[ir.Value] = []
        self._alone: list[ir.Value] = []

    def add(
        self,
        value: ir.Value,
        shape: Shape,
        kinds: tuple[str, ...],
        axis: int | None,
        neuron: NeuronParameters | None,
        *,
        by_position: bool,
    ) -> None:
        """Count the spikes of a value that has this shape for one image, or the fixed batch.

        `kinds` name sizes, neurons that fire, such of each channel and those at their limit; the last ones may be
        missing. `axis` is that of the channels; None: there are none. `neuron` is what limits the spikes. `by_position`
        says whether it matters where they are.
        """
        recorded = list(value.shape or ())
        whole = self.batch is None and recorded and all(isinstance(size, int) for size in recorded[1:])
        rows = shape[0] // (self.batch or 1)
        # Rows of an image among those of all: where the batch is the only open size, it is in the first axis.
        together = (whole and not isinstance(recorded[0], int)) or (self.batch and shape[0] == rows * self.batch)
        block = Block(
            kinds=kinds,
            positions=(tuple(shape[2:]) if together else _open_sizes(recorded, shape)) if by_position else None,
            channels=1 if axis is None else shape[axis],
            rows=rows if together else None,
            output=self.output if together else f"{self.output}/{value.name}",
        )
        self.blocks.append(block)
        counts = ir.Value(name=f"{self.output}/{value.name}", type=_FLOAT, shape=ir.Shape([None, None]))
        levels = (neuron.negative_levels, neuron.positive_levels) if neuron else (0, 0)
        attributes = [
            ir.AttrInt64("axis", axis or 0),
            ir.AttrInt64("positions", int(by_position)),
            ir.AttrInt64("negative_levels", levels[0]),
            ir.AttrInt64("positive_levels", levels[1]),
        ]
        self.graph.append(ir.Node(DOMAIN, SPIKE_COUNTS, [value], attributes, outputs=[counts], name=counts.name))
        if not together:
            self._alone.append(counts)
            return
        if rows != 1:
            target = add_constant(self.outer, f"{counts.name}/by_image", np.array([-1, rows * block.width], np.int64))
            by_image = ir.Value(name=f"{counts.name}/of_images", type=_FLOAT, shape=ir.Shape([None, None]))
            self.graph.append(ir.Node("", "Reshape", [counts, target], outputs=[by_image], name=by_image.name))
            counts = by_image
        self._parts.append(counts)

    def outputs(self) -> list[ir.Value]:
        """What is to leave the graph: the tensor of all sites, and those of sites by themselves."""
        if not self._parts:
            return self._alone
        joined = ir.Value(name=self.output, type=_FLOAT, shape=ir.Shape([None, None]))
        axis = ir.AttrInt64("axis", 1)
        self.graph.append(ir.Node("", "Concat", self._parts, [axis], outputs=[joined], name=self.output))
        return [joined, *self._alone]


def split_counts(blocks: Iterable[Block], named: Mapping[str, Array], suffix: str = "") -> dict[str, Array]:
    """The counts of all sites by name, from what has left the network under theirs with the suffix."""
    counts: dict[str, Array] = {}
    start = 0
    for block in blocks:
        whole = named[block.output + suffix]
        if block.rows is not None:
            end = start + block.rows * block.width
            lead, images = whole.shape[:-2], whole.shape[-2]
            whole, start = whole[..., start:end].reshape(*lead, images * block.rows, block.width), end
        counts |= block.split(whole, suffix)
    return counts


def _open_sizes(recorded: list[int | ir.SymbolicDim], shape: Shape) -> tuple[int | None, ...]:
    """The sizes behind the second axis, of which one may be that of the images."""
    sizes: list[int | None] = list(shape[2:])
    for place, size in enumerate(recorded[2:]):
        if not isinstance(size, int):
            sizes[place] = None
            break
    return tuple(sizes)

"""Counting spikes by the native library's operators: one pass over them, and one tensor that leaves the network.

What a site counts is a few numbers for each image, and a network has a hundred sites; tensors that leave onnxruntime
one by one would take longer than the counting.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.network import Shape
from pmsm_cli.lowering.counted_codes import NO_CODES, SITE_COUNTS
from pmsm_cli.lowering.resting import SPIKE_COUNTS
from pmsm_cli.neuron.onnx_function import DOMAIN
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.runtime.session import Array, Totals

REACHED = ("reached", "events")  # synapses that spikes reach, each as often as its size says, and once
_OF_DIGITS = np.array([2.0**20, 1.0])  # a sum leaves as two numbers, each exact in single precision
_ALIKE = np.zeros(0)  # no position differs from others in what it reaches
_FLOAT = ir.TensorType(ir.DataType.FLOAT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What one site counts: a row of native/site_counts.cpp, or by position, of native/spike_counts.cpp."""

    site: str
    kinds: tuple[str, ...]  # sizes, neurons that fire, such of each channel and those at their limit, or the first ones
    positions: tuple[int | None, ...] | None  # sizes behind the axis that is summed over, one maybe open; None: nowhere
    mapped: bool  # the synapses that spikes reach are counted, too
    channels: int
    rows: int | None  # to an image, in the tensor of all sites; None: it leaves by itself
    output: str

    @property
    def width(self) -> int:
        """The columns of one row of a site that is counted with the others."""
        return len(_OF_DIGITS) * (4 if self.mapped else 2) + 2 * self.channels

    def split(self, block: Array, suffix: str) -> dict[str, Array]:
        """The counts by name, from [..., rows, columns]."""
        last = block.shape[-1] - 2 * self.channels
        parts, sums = dict[str, Array](), block[..., :last]
        if self.positions is None:
            sums = sums.astype(np.float64).reshape(*block.shape[:-1], -1, len(_OF_DIGITS)) @ _OF_DIGITS
            names = (*self.kinds[:2], *(REACHED if self.mapped else ()))
            parts = {kind: sums[..., index] for index, kind in enumerate(names)}
        else:
            known = math.prod(size for size in self.positions if size is not None)
            shape = [last // 2 // max(known, 1) if size is None else size for size in self.positions]
            both = sums.reshape(*block.shape[:-1], 2, *shape)
            parts = {kind: np.take(both, index, block.ndim - 1) for index, kind in enumerate(self.kinds[:2])}
        for index, kind in enumerate(self.kinds[2:]):
            start = last + index * self.channels
            parts[kind] = block[..., start : start + self.channels]
        return {f"{self.site}/{kind}{suffix}": part for kind, part in parts.items()}


class NativeCounters:
    """Counters of a graph, or of the body of its later timesteps, while they are put in."""

    def __init__(self, graph: ir.Graph, outer: ir.Graph, *, output: str, batch: int | None) -> None:
        """`outer` holds constants; `batch` is the fixed number of images, None: open."""
        self.graph, self.outer, self.output, self.batch = graph, outer, output, batch
        self.blocks: list[Block] = []
        self._together: list[_Counted] = []
        self._alone: list[ir.Value] = []

    def add(
        self,
        site: str,
        value: ir.Value,
        shape: Shape,
        kinds: tuple[str, ...],
        axis: int | None,
        neuron: NeuronParameters | None,
        fan: Totals,
    ) -> None:
        """Count the spikes of a site: a value that has this shape for one image, or the fixed batch.

        `kinds` name sizes, neurons that fire, such of each channel and those at their limit; the last ones may be
        missing. `axis` is that of the channels; None: there are none. `neuron` is what limits the spikes. `fan` says
        how many synapses a neuron reaches, by position, or anywhere.
        """
        recorded = list(value.shape or ())
        known = (isinstance(size, int) or place == axis for place, size in enumerate(recorded))
        whole = self.batch is None and recorded and all(itertools.islice(known, 1, None))
        rows, by_position = shape[0] // (self.batch or 1), fan.size > 1
        # Rows of an image among those of all: where the batch is the only open size, it is in the first axis.
        together = bool((whole and not isinstance(recorded[0], int)) or (self.batch and shape[0] == rows * self.batch))
        block = Block(
            site=site,
            kinds=kinds,
            positions=_open_sizes(recorded, shape) if by_position and not together else None,
            mapped=by_position and together,
            channels=1 if axis is None else shape[axis],
            rows=rows if together else None,
            output=self.output if together else self._own_output(value, by_position=by_position),
        )
        self.blocks.append(block)
        counts = self._counts(value, axis, neuron, by_position=by_position)
        if together:
            reached = np.broadcast_to(fan, shape[2:]) if by_position else _ALIKE
            self._together.append(_Counted(counts=counts, rows=rows, reached=reached))
        elif by_position:
            self._alone.append(counts)
        else:  # what reads codes instead of spikes does so here, too
            self._alone.append(self._joined([_Counted(counts=counts, rows=1, reached=_ALIKE)], block.output))

    def outputs(self) -> list[ir.Value]:
        """What is to leave the graph: the tensor of all sites, and those of sites by themselves."""
        return [*([self._joined(self._together, self.output)] if self._together else ()), *self._alone]

    def _own_output(self, value: ir.Value, *, by_position: bool) -> str:
        return f"{self.output}/{value.name}{'' if by_position else '/sums'}"

    def _counts(
        self, value: ir.Value, axis: int | None, neuron: NeuronParameters | None, *, by_position: bool
    ) -> ir.Value:
        counts = ir.Value(name=f"{self.output}/{value.name}", type=_FLOAT, shape=ir.Shape([None, None]))
        levels = (neuron.negative_levels, neuron.positive_levels) if neuron else (0, 0)
        numbers = (axis or 0, int(by_position), *levels)
        names = ("axis", "positions", "negative_levels", "positive_levels")
        attributes = [ir.AttrInt64(name, number) for name, number in zip(names, numbers, strict=True)]
        self.graph.append(ir.Node(DOMAIN, SPIKE_COUNTS, [value], attributes, outputs=[counts], name=counts.name))
        return counts

    def _joined(self, together: list["_Counted"], name: str) -> ir.Value:
        sites = np.array([(site.rows, site.reached.size, *NO_CODES) for site in together], np.int32)
        maps = np.concatenate([site.reached.reshape(-1).astype(np.int32) for site in together])
        told = [add_constant(self.outer, f"{name}/{kind}", array) for kind, array in (("sites", sites), ("maps", maps))]
        inputs = [*told, *(site.counts for site in together)]
        joined = ir.Value(name=name, type=_FLOAT, shape=ir.Shape([None, None]))
        self.graph.append(ir.Node(DOMAIN, SITE_COUNTS, inputs, outputs=[joined], name=name))
        return joined


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Counted:
    """One site on its way into the tensor of all: how many rows are an image's, and what each position reaches."""

    counts: ir.Value
    rows: int
    reached: Totals


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

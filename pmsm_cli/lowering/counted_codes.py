"""Counting what neurons emit from their codes on the native library: where they are emitted, or all sites together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.lowering.attention import SOFTMAX_STEP_CODES
from pmsm_cli.lowering.channels_last import TO_FIRST
from pmsm_cli.lowering.codes import Code, code_of
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant, is_op, read
from pmsm_cli.lowering.resting import SPIKE_COUNTS, STEP_CODES
from pmsm_cli.lowering.step_convolutions import CONVOLUTION_STEPS, StepsInputs, StepsOutputs
from pmsm_cli.neuron.onnx_function import DOMAIN, LEVELS

SITE_COUNTS = "SiteCounts"
# What SiteCounts is told of a site behind how many rows an image has: how many positions differ in what they reach, 0
# of them or -1 where that is counted already; and of codes where channels are, and which code stands for what.
_ALIKE, _COUNTED = 0, -1
NO_CODES = (0, 0, 0, 0)
_POSITIONS, _CODES = 1, slice(2, None)
# Who emits codes and can count them: by which output, and the attribute that asks for it.
_COUNTING = {
    CONVOLUTION_STEPS: (StepsOutputs.COUNTS, "counted"),
    STEP_CODES: (1, "counted_by"),
    SOFTMAX_STEP_CODES: (2, "counted_by"),
}
_MANY = 65536  # codes of an image from which on they are counted where they are emitted


def counts_of_codes(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """SpikeCounts of DequantizeLinear of a timestep's codes -> another output of ConvolutionSteps, or SiteCounts.

    What is counted by position stays, unless channels are last, maybe turned back since. Preconditions: one timestep;
    the native library; what SpikeCounts makes is read by SiteCounts.
    """
    changed = False
    for node in list(graph):
        if node.domain == DOMAIN and node.op_type == SITE_COUNTS:
            changed |= _count_together(graph, node)
    if changed:
        graph.sort()  # what reads the first counts may come before what makes the last codes
    return changed


def _count_together(graph: ir.Graph, node: ir.Node) -> bool:
    """Have a SiteCounts read codes, or counts of who emits them, where it can; whether it could anywhere."""
    changed, start, kept = False, 0, list[npt.NDArray[np.int32]]()
    sites, maps = (constant(read(node, index)) for index in (0, 1))
    sites = sites.copy()
    for index, site in enumerate(sites, 2):
        end = start + max(int(site[_POSITIONS]), 0)
        reached, start = maps[start:end], end
        counting = _Counting.of(read(node, index).producer())
        if counting is not None:
            changed, site[_CODES] = True, counting.numbers
            counts = counting.where_they_are_emitted(graph, reached)
            if counts is not None:
                site[_POSITIONS:] = _COUNTED if len(reached) else _ALIKE, *NO_CODES
                reached = reached[:0]
            node.replace_input_with(index, counting.codes if counts is None else counts)
        kept.append(reached)
    if changed:
        node.replace_input_with(0, add_constant(graph, f"{node.name}/sites/of_codes", sites))
        node.replace_input_with(1, add_constant(graph, f"{node.name}/maps/of_codes", np.concatenate(kept)))
    return changed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Counting:
    """A SpikeCounts, and the codes that it can read."""

    node: ir.Node
    codes: ir.Value
    axis: int  # of the channels; 0: there are none
    zero: int

    @staticmethod
    def of(node: ir.Node | None) -> "_Counting | None":
        """None: it is something else, or does not read codes, or not so."""
        if node is None or node.domain != DOMAIN or node.op_type != SPIKE_COUNTS:
            return None
        code = code_of(read(node, 0))
        if code is None or float(code.step) != 1 or code.value.shape is None:
            return None
        axis, codes = _channels_of(node, code)
        if node.attributes["positions"].as_int() and axis != len(code.value.shape) - 1:
            return None
        return _Counting(node=node, codes=codes, axis=axis, zero=code.offset)

    @property
    def numbers(self) -> list[int]:
        """What SiteCounts wants to know."""
        return [self.axis, *(self.node.attributes[kind].as_int() for kind in LEVELS), self.zero]

    def where_they_are_emitted(self, graph: ir.Graph, reached: npt.NDArray[np.int32]) -> ir.Value | None:
        """Counts of who emits the codes, with a map of what they reach; None: it does not count these."""
        emitter = self.codes.producer()
        if emitter is None or not self._can_be_counted_by(emitter, by_map=len(reached) > 0):
            return None
        output, attribute = _COUNTING[emitter.op_type]
        emitter.attributes[attribute] = ir.AttrInt64(attribute, self.axis if attribute == "counted_by" else 1)
        emitter.resize_outputs(output + 1)
        counts, old = emitter.outputs[output], self.node.outputs[0]
        counts.name, counts.type, counts.shape = f"{old.name}/of_codes", old.type, old.shape
        if len(reached):
            emitter.resize_inputs(StepsInputs.REACHED + 1)
            emitter.replace_input_with(StepsInputs.REACHED, add_constant(graph, f"{counts.name}/reached", reached))
        return counts

    def _can_be_counted_by(self, emitter: ir.Node, *, by_map: bool) -> bool:
        shape = self.codes.shape
        if emitter.op_type not in _COUNTING or shape is None or _few(shape):
            return False
        if len(emitter.outputs) > _COUNTING[emitter.op_type][0]:
            return False  # it counts something already
        if emitter.op_type == CONVOLUTION_STEPS:
            return emitter.outputs[StepsOutputs.EMITTED] is self.codes and self.axis == len(shape) - 1
        return emitter.outputs[0] is self.codes and not by_map


def _few(shape: ir.Shape) -> bool:
    """Whether an image has few codes, as far as is known."""
    sizes = [size for size in list(shape)[1:] if isinstance(size, int)]
    return len(sizes) == len(shape) - 1 and math.prod(sizes) < _MANY


def _channels_of(counting: ir.Node, code: Code) -> tuple[int, ir.Value]:
    """The axis of the channels, 0 where there are none, and the codes that it is one of."""
    axis, turning = counting.attributes["axis"].as_int(), code.value.producer()
    if axis == 1 and is_op(turning, "Transpose") and tuple(turning.attributes.get_ints("perm", ())) == TO_FIRST:
        return len(TO_FIRST) - 1, read(turning, 0)
    return axis, code.value

"""Counting what neurons emit from their codes on the native library: where they are emitted, or all sites together."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.lowering.channels_last import TO_FIRST
from pmsm_cli.lowering.codes import Code, code_of
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import is_op, read
from pmsm_cli.lowering.resting import SPIKE_COUNTS
from pmsm_cli.lowering.step_convolutions import CONVOLUTION_STEPS
from pmsm_cli.neuron.onnx_function import DOMAIN, LEVELS

CODE_COUNTS = "CodeCounts"
_COUNTED, _EMITTED, _COUNTS = "counted", 1, 2  # of ConvolutionSteps: an attribute, and two outputs
_SUMMED_UP, _BY_POSITION = 1, 2  # what that attribute says


def counts_of_codes(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """SpikeCounts of DequantizeLinear of a timestep's codes -> another output of ConvolutionSteps, or CodeCounts.

    What is counted by position stays, unless channels are last, maybe turned back since. Preconditions: one timestep;
    the native library.
    """
    changed, others = False, list[_Counting]()
    for node in list(graph):
        counting = _Counting.of(node) if node.domain == DOMAIN and node.op_type == SPIKE_COUNTS else None
        if counting is not None:
            changed = True
            if not counting.where_they_are_emitted():
                others.append(counting)
    if others:
        _count_together(graph, others)
    return changed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Counting:
    """A SpikeCounts, and the codes that it can read."""

    node: ir.Node
    codes: ir.Value
    axis: int  # of the channels; 0: there are none
    zero: int

    @staticmethod
    def of(node: ir.Node) -> "_Counting | None":
        """None: it does not read codes, or not so."""
        code = code_of(read(node, 0))
        if code is None or float(code.step) != 1 or code.value.shape is None:
            return None
        axis, codes = _channels_of(node, code)
        if node.attributes["positions"].as_int() and axis != len(code.value.shape) - 1:
            return None
        return _Counting(node=node, codes=codes, axis=axis, zero=code.offset)

    @property
    def numbers(self) -> list[int]:
        """What CodeCounts wants to know."""
        levels = [self.node.attributes[kind].as_int() for kind in LEVELS]
        return [self.axis, self.node.attributes["positions"].as_int(), *levels, self.zero]

    def where_they_are_emitted(self) -> bool:
        """Have the convolution count that emits the codes; False: there is none."""
        producer, shape = self.codes.producer(), self.codes.shape
        if producer is None or producer.op_type != CONVOLUTION_STEPS or producer.outputs[_EMITTED] is not self.codes:
            return False
        if shape is None or self.axis != len(shape) - 1 or producer.attributes[_COUNTED].as_int():
            return False
        kind = _BY_POSITION if self.node.attributes["positions"].as_int() else _SUMMED_UP
        producer.attributes[_COUNTED] = ir.AttrInt64(_COUNTED, kind)
        producer.resize_outputs(_COUNTS + 1)
        self.replace_by(producer.outputs[_COUNTS])
        return True

    def replace_by(self, counts: ir.Value) -> None:
        """Let counts take the place of the node's own."""
        old = self.node.outputs[0]
        counts.name, counts.type, counts.shape = f"{old.name}/of_codes", old.type, old.shape
        ir.convenience.replace_all_uses_with(old, counts, replace_graph_outputs=True)
        graph = self.node.graph
        assert graph is not None
        graph.remove(self.node, safe=True)


def _channels_of(counting: ir.Node, code: Code) -> tuple[int, ir.Value]:
    """The axis of the channels, 0 where there are none, and the codes that it is one of."""
    axis, turning = counting.attributes["axis"].as_int(), code.value.producer()
    if axis == 1 and is_op(turning, "Transpose") and tuple(turning.attributes.get_ints("perm", ())) == TO_FIRST:
        return len(TO_FIRST) - 1, read(turning, 0)
    return axis, code.value


def _count_together(graph: ir.Graph, countings: list[_Counting]) -> None:
    """One operator in the place of several, for each its codes and numbers."""
    name = "pmsm/code_counts"
    sites = np.array([counting.numbers for counting in countings], np.int32)
    inputs = [add_constant(graph, f"{name}/sites", sites), *(counting.codes for counting in countings)]
    outputs = [ir.Value() for _ in countings]
    last = countings[-1].node
    graph.insert_after(last, ir.Node(DOMAIN, CODE_COUNTS, inputs, outputs=outputs, name=name))
    for counting, counts in zip(countings, outputs, strict=True):
        counting.replace_by(counts)
    graph.sort()  # what reads the first counts may come before what makes the last codes

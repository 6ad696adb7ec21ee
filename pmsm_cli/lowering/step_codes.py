"""Neurons whose running counts leave as unsigned 8-bit codes, for integer kernels, at one timestep or several.

With `refine` all that a neuron has emitted up to a step is a whole number of the last step's quanta: with few levels
and few steps it fits a byte, and a synapse can multiply it as it is. So later steps cost what the first one does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.synapse import Floats, synapse_of
from pmsm_cli.lowering.codes import LARGEST_CODE, add_code
from pmsm_cli.lowering.int8 import Int8Weights, weights_of
from pmsm_cli.lowering.neurons import never_negative
from pmsm_cli.lowering.parts import SpikingSite, constant, is_op, read, site_at
from pmsm_cli.lowering.products import is_plain
from pmsm_cli.lowering.resting import BEFORE, HORIZONS, NEURON_STEPS, QUANTA, STEP_CODES, lies_along
from pmsm_cli.lowering.windows import is_layer
from pmsm_cli.neuron.onnx_function import DOMAIN, LEVELS, NEURON

# Inputs of StepCodes.
THRESHOLD, REST, _, FINEST, ZERO, CODES_BEFORE = range(1, 7)


def steps_to_codes(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """PolarityNeuron, PolarityNeuronSteps after it, each with the Sub before -> StepCodes, DequantizeLinear.

    With one timestep there are no neurons of later ones. Sites of which some count would not fit a byte stay in floats,
    and so do those that no synapse with whole weights and no product of two tensors reads. Preconditions: one timestep,
    or `steps_side_by_side`; the native library.
    """
    changed = False
    for first in [node for node in graph if node.domain == DOMAIN and node.op_type == NEURON]:
        later = _later_of(first)
        counting = _counting_of(first)
        nodes = [first] if later is None else [first, later]
        if counting is None or not any(_multiplies(each, weights) for each in nodes):
            continue
        before = _replace(graph, first, counting, np.ones(1, np.float32), None)
        if later is not None:
            _replace(graph, later, counting, counting.quanta, before)
        changed = True
    return changed


def fits_codes(neuron: ir.Node) -> bool:
    """Whether all that the neurons of a node have emitted, up to any step, fits a byte: neurons of the last steps."""
    if neuron.op_type == NEURON_STEPS:
        return _counting_of(read(neuron, BEFORE).producer()) is not None
    return neuron.op_type == NEURON and _later_of(neuron) is None and _counting_of(neuron) is not None


def _later_of(first: ir.Node) -> ir.Node | None:
    """The neurons of the later steps, if there are such."""
    users = (user for user, index in first.outputs[0].uses() if index == BEFORE)
    return next((user for user in users if user.op_type == NEURON_STEPS), None)


def _counting_of(first: ir.Node | None) -> "_Counting | None":
    site = None if first is None else site_at(first)
    return None if first is None or site is None else _Counting.of(site, _later_of(first))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Counting:
    """The counts that a site's neurons can reach, in the unit of the last step."""

    quanta: Floats  # of the later steps
    finest: np.float32
    zero: int

    @staticmethod
    def of(site: SpikingSite, later: ir.Node | None) -> "_Counting | None":
        """None: they do not fit a byte, or the steps have no unit in common."""
        lowest, highest = float(site.negative_levels), float(site.positive_levels)
        finest, quanta = np.float32(1), np.zeros(0, np.float32)
        if later is not None:
            horizons, quanta = (constant(read(later, index)) for index in (HORIZONS, QUANTA))
            finest = np.float32(quanta.min())
            if (horizons != 1).any() or any(math.frexp(each)[0] != 0.5 for each in (*quanta, finest)):
                return None
            more = float(quanta.sum())
            lowest += more * later.attributes["negative_levels"].as_int()
            highest += more * later.attributes["positive_levels"].as_int()
        if never_negative(site.value):  # nor is what they stand for: a step takes off what was too much, and no more
            lowest = min(lowest, max(0, math.ceil(site.rest.max())))
        if lowest + highest > LARGEST_CODE * finest:
            return None
        return _Counting(quanta=quanta.reshape(-1), finest=finest, zero=round(lowest / float(finest)))


def _multiplies(neuron: ir.Node, weights: Mapping[str, Int8Weights]) -> bool:
    """Whether what neurons emit is multiplied by integers, or by what others emit."""
    return any(_takes_codes(reader, weights) for reader, _ in neuron.outputs[0].uses())


def _takes_codes(node: ir.Node, weights: Mapping[str, Int8Weights]) -> bool:
    own = weights_of(node, weights) if synapse_of(node) is not None else None
    if own is not None:
        if is_op(node, "Conv"):
            return is_layer(node, own)
        if own.slices > 1:
            return is_op(node, "MatMul")
        return own.values.ndim == 2 and (is_op(node, "MatMul") or (is_op(node, "Gemm") and is_plain(node)))
    return is_op(node, "MatMul") and all(each is not None and _is_emitted(each) for each in node.inputs)


def _is_emitted(value: ir.Value) -> bool:
    """Whether a value is what neurons emit, or what is read from their codes."""
    node = value.producer()
    return node is not None and (is_op(node, "DequantizeLinear") or node.op_type in (NEURON, NEURON_STEPS))


def _replace(graph: ir.Graph, node: ir.Node, counting: _Counting, quanta: Floats, before: ir.Value | None) -> ir.Value:
    """The codes of a node's neurons, which are read from them as floats where its spikes were."""
    spikes, above = node.outputs[0], read(node, 0).producer()
    name = f"{spikes.name}/steps"
    value, rest = read(node, 0), None
    if is_op(above, "Sub") and lies_along(read(above, 1), read(above, 0)):
        value, rest = read(above, 0), read(above, 1)
    numbers: dict[str, npt.NDArray[Any]] = {
        "rest": np.zeros((), np.float32),
        "quanta": np.asarray(quanta, np.float32),
        "finest": np.asarray(counting.finest, np.float32),
        "zero": np.asarray(counting.zero, np.uint8),
    }
    if rest is not None:
        del numbers["rest"]
    added = {kind: add_constant(graph, f"{name}/{kind}", array) for kind, array in numbers.items()}
    steps, finest, zero = (added[kind] for kind in ("quanta", "finest", "zero"))
    code = add_code(graph, name, spikes)
    levels = [node.attributes[kind] for kind in LEVELS]
    earlier = [] if before is None else [before]
    inputs = [value, read(node, THRESHOLD), rest or added["rest"], steps, finest, zero, *earlier]
    counts = ir.Value(name=f"{name}/counts", type=spikes.type, shape=spikes.shape)
    made = [
        ir.Node(DOMAIN, STEP_CODES, inputs, levels, outputs=[code], name=name),
        ir.Node("", "DequantizeLinear", [code, finest, zero], outputs=[counts], name=counts.name),
    ]
    graph.insert_before(node, made)
    ir.convenience.replace_all_uses_with(spikes, counts, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if above is not None and value is not above.outputs[0] and not above.outputs[0].uses():
        graph.remove(above, safe=True)
    return code

"""Neurons in one operator of the native library with what is beside them: what they rest at, and who counts them."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant, is_op, only_reader, read
from pmsm_cli.neuron.onnx_function import DOMAIN, LEVELS, NEURON

NEURON_STEPS, STEP_CODES = "PolarityNeuronSteps", "StepCodes"
SPIKE_COUNTS, COUNTED_NEURON = "SpikeCounts", "CountedNeuron"
# Which of its inputs hold what it rests at, what was emitted before, and two numbers for each step.
_REST, BEFORE, HORIZONS, QUANTA = 2, 3, 4, 5
STEP_QUANTA = 3  # of StepCodes


def steps_of(node: ir.Node) -> int:
    """How many timesteps a node's neurons emit at once."""
    quanta = {NEURON_STEPS: QUANTA, STEP_CODES: STEP_QUANTA}.get(node.op_type)
    return 1 if quanta is None else len(constant(read(node, quanta)))


def rests_to_neurons(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Sub of a constant, PolarityNeuron or PolarityNeuronSteps -> PolarityNeuronSteps.

    Precondition: the native library.
    """
    changed = False
    for node in list(graph):
        if node.domain != DOMAIN or node.op_type not in (NEURON, NEURON_STEPS):
            continue
        above = read(node, 0).producer()
        if not is_op(above, "Sub") or only_reader(read(node, 0)) is not node:
            continue
        value, rest = read(above, 0), read(above, 1)
        if not (lies_along(rest, value) and lies_along(read(node, 1), value)):
            continue
        if node.op_type == NEURON_STEPS:
            node.replace_input_with(0, value)
            node.replace_input_with(_REST, rest)
        else:
            _replace(graph, node, value, rest)
        graph.remove(above, safe=True)
        changed = True
    return changed


def lies_along(numbers: ir.Value, value: ir.Value) -> bool:
    """Whether a value is constant, and one number or one for each place of an axis of another value."""
    array, shape = constant(numbers), value.shape
    if array is None or shape is None or array.ndim > len(shape):
        return False
    apart = [axis - array.ndim for axis, size in enumerate(array.shape) if size > 1]
    return not apart or (len(apart) == 1 and shape[apart[0]] == array.shape[apart[0]])


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value, rest: ir.Value) -> None:
    spikes = node.outputs[0]
    once = [add_constant(graph, f"{node.name}/once_{kind}", np.ones(1, np.float32)) for kind in ("horizon", "quantum")]
    nothing = add_constant(graph, f"{node.name}/nothing_before", np.zeros((), np.float32))
    emitted = ir.Value(name=f"{spikes.name}/above_rest", type=spikes.type, shape=spikes.shape)
    inputs = [value, read(node, 1), rest, nothing, *once]
    attributes = list(node.attributes.values())
    graph.insert_before(node, ir.Node(DOMAIN, NEURON_STEPS, inputs, attributes, outputs=[emitted], name=emitted.name))
    ir.convenience.replace_all_uses_with(spikes, emitted, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def counts_to_neurons(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Neurons of a single timestep and the SpikeCounts that read them -> CountedNeuron.

    Precondition: the native library.
    """
    changed = False
    for counting in list(graph):
        if counting.domain != DOMAIN or counting.op_type != SPIKE_COUNTS:
            continue
        node = read(counting, 0).producer()
        if node is None or not _emits_once(node) or not lies_along(read(node, 1), read(node, 0)):
            continue
        name = f"{node.name}/counted"
        if node.op_type == NEURON:
            rest = add_constant(graph, f"{node.name}/no_rest", np.zeros((), np.float32))
        else:
            rest = read(node, _REST)
        levels = [node.attributes[kind] for kind in LEVELS]
        outputs = [
            ir.Value(name=f"{old.name}/counted", type=old.type, shape=old.shape)
            for old in (node.outputs[0], counting.outputs[0])
        ]
        inputs = [read(node, 0), read(node, 1), rest]
        attributes = [*levels, counting.attributes["axis"], counting.attributes["positions"]]
        graph.insert_before(node, ir.Node(DOMAIN, COUNTED_NEURON, inputs, attributes, outputs=outputs, name=name))
        for old, new in zip((node.outputs[0], counting.outputs[0]), outputs, strict=True):
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove([counting, node], safe=True)
        changed = True
    return changed


def _emits_once(node: ir.Node) -> bool:
    """Whether a node's neurons emit at the first timestep alone."""
    if node.domain != DOMAIN or node.op_type not in (NEURON, NEURON_STEPS):
        return False
    before = constant(node.inputs[BEFORE]) if node.op_type == NEURON_STEPS else None
    return node.op_type == NEURON or (before is not None and steps_of(node) == 1)

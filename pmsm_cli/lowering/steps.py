"""The later timesteps on the native library: membrane, what follows it and the neuron in one operator."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant, is_op, only_reader, read
from pmsm_cli.neuron.onnx_function import DOMAIN, NEURON_STEP

MEMBRANE_STEP = "MembraneStep"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Chain:
    """What leads from a synapse's current to its neuron, and the nodes that do."""

    arriving: ir.Value
    before: ir.Value
    membrane: ir.Value
    drive: ir.Value | None
    carried: ir.Value | None
    relu: bool
    value: ir.Value
    rest: ir.Value | None
    nodes: tuple[ir.Node, ...]  # from the neuron up


def membranes_with_neurons(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Mul by the quantum, Add to the membrane, Add of a constant, Add, Relu, Sub, PolarityNeuronStep -> MembraneStep.

    Precondition: a body of timesteps of the coding `refine` (`pmsm_cli.graph.unroll`). The Adds behind the membrane,
    the Relu and the Sub may be missing; whatever else reads the value before the Sub still finds it.
    """
    changed = False
    for node in list(graph):
        chain = _chain_of(node) if node.domain == DOMAIN and node.op_type == NEURON_STEP else None
        if chain is not None:
            _replace(graph, node, chain)
            changed = True
    return changed


def _chain_of(neuron: ir.Node) -> _Chain | None:
    value, rest, nodes = read(neuron, 0), None, [neuron]
    above = value.producer()
    if is_op(above, "Sub") and only_reader(value) is neuron and constant(read(above, 1)) is not None:
        value, rest = read(above, 0), read(above, 1)
        nodes.append(above)
    source, relu = value, is_op(value.producer(), "Relu")
    if relu:
        last = value.producer()
        assert last is not None
        nodes.append(last)
        source = read(last, 0)
        if any(user is not last for user, _ in source.uses()):
            return None
    for before_carried, carried, adding in _summands(source, value):
        for current, drive, driving in _driven(before_carried, value, adding or (nodes[-1] if relu else None)):
            own = [each for each in (adding, driving) if each is not None]
            membrane = _membrane_of(current, neuron, (own or nodes)[-1])
            if membrane is not None and _fits(value, drive, rest, read(neuron, 1)):
                arriving, before, further = membrane
                return _Chain(
                    arriving=arriving,
                    before=before,
                    membrane=current,
                    drive=drive,
                    carried=carried,
                    relu=relu,
                    value=value,
                    rest=rest,
                    nodes=(*nodes, *own, *further),
                )
    return None


def _summands(source: ir.Value, value: ir.Value) -> list[tuple[ir.Value, ir.Value | None, ir.Node | None]]:
    """The value as it is, and as sum of two tensors of its shape in either order."""
    node = source.producer()
    found: list[tuple[ir.Value, ir.Value | None, ir.Node | None]] = [(source, None, None)]
    if is_op(node, "Add") and all(constant(each) is None and _same_shape(each, value) for each in node.inputs):
        first, second = read(node, 0), read(node, 1)
        if first is not second:
            found += [(first, second, node), (second, first, node)]
    return found


def _driven(
    source: ir.Value, value: ir.Value, reader: ir.Node | None
) -> list[tuple[ir.Value, ir.Value | None, ir.Node | None]]:
    """The value as it is, and without the constant that an Add adds to it."""
    found: list[tuple[ir.Value, ir.Value | None, ir.Node | None]] = [(source, None, None)]
    node = source.producer()
    if is_op(node, "Add") and (source is value or only_reader(source) is reader):
        constants = [each for each in node.inputs if constant(each) is not None]
        others = [each for each in node.inputs if each is not None and constant(each) is None]
        if len(constants) == len(others) == 1:
            found.append((others[0], constants[0], node))
    return found


def _membrane_of(
    membrane: ir.Value, neuron: ir.Node, reader: ir.Node
) -> tuple[ir.Value, ir.Value, tuple[ir.Node, ...]] | None:
    """What arrives at a membrane and what it held before, by the neuron's quantum; None: it is no membrane."""
    adding = membrane.producer()
    if not is_op(adding, "Add") or not membrane.is_graph_output():
        return None
    if any(user is not reader for user, _ in membrane.uses()):
        return None
    before, weighted = read(adding, 0), read(adding, 1)
    scaling = weighted.producer()
    if not before.is_graph_input() or not is_op(scaling, "Mul") or only_reader(weighted) is not adding:
        return None
    arriving, quantum = read(scaling, 0), read(scaling, 1)
    if quantum is not read(neuron, 4) or not _same_shape(before, membrane):
        return None
    return arriving, before, (adding, scaling)


def _same_shape(one: ir.Value | None, other: ir.Value) -> bool:
    """Whether sizes are known to be the same, apart from the number of images."""
    if one is None or one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return False
    pairs = list(zip(one.shape, other.shape, strict=True))
    behind = all(isinstance(left, int) and left == right for left, right in pairs[1:])
    if not behind or not pairs:
        return False
    left, right = pairs[0]
    return left == right if isinstance(left, int) or isinstance(right, int) else True


def _fits(value: ir.Value, *numbers: ir.Value | None) -> bool:
    """Whether constants lie along neighbouring whole axes of the value, behind the images."""
    if value.shape is None:
        return False
    for each in numbers:
        if each is None:
            continue
        shape = constant(each).shape
        if len(shape) > len(value.shape):
            return False
        axes = [axis - len(shape) for axis, size in enumerate(shape) if size > 1]
        whole = all(value.shape[axis] == shape[axis] for axis in axes)
        if not whole or (axes and (axes[-1] - axes[0] != len(axes) - 1 or -axes[0] == len(value.shape))):
            return False
    return True


def _replace(graph: ir.Graph, neuron: ir.Node, chain: _Chain) -> None:
    name = f"{neuron.name}/with_membrane"
    zero = add_constant(graph, f"{name}/zero", np.zeros((), np.float32))
    inputs = [
        chain.arriving,
        chain.before,
        chain.drive or zero,
        chain.carried or zero,
        chain.rest or zero,
        *neuron.inputs[1:],
    ]
    old = (chain.membrane, *neuron.outputs, chain.value)
    kinds = ("membrane", "spikes", "emitted", "value")
    outputs = [
        ir.Value(name=f"{name}/{kind}", type=value.type, shape=value.shape)
        for kind, value in zip(kinds, old, strict=True)
    ]
    new = ir.Node(DOMAIN, MEMBRANE_STEP, inputs, [ir.AttrInt64("relu", int(chain.relu))], outputs=outputs, name=name)
    for levels in ("negative_levels", "positive_levels"):
        new.attributes[levels] = neuron.attributes[levels]
    # Where the value was made: what else reads it may come before the neuron.
    producer = chain.value.producer()
    assert producer is not None
    graph.insert_before(producer, new)
    asked_for = {user for user, _ in chain.value.uses()} - {*chain.nodes}
    if not asked_for and (chain.value is chain.membrane or not chain.value.is_graph_output()):
        new.resize_outputs(3)
    for before, after in list(zip(old, outputs, strict=True))[1 : len(new.outputs)]:
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    if chain.value is not chain.membrane or len(new.outputs) == 3:
        ir.convenience.replace_all_uses_with(chain.membrane, outputs[0], replace_graph_outputs=True)
    graph.remove(chain.nodes, safe=True)

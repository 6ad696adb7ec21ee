"""A layer's first timestep and its later ones in one operator: weights are read once, and kept once.

Neurons of the later steps begin with what those of the first one have emitted, and need nothing else of it.
"""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant, read
from pmsm_cli.lowering.side_by_side import LATER_STEPS
from pmsm_cli.lowering.step_convolutions import CONVOLUTION_STEPS, StepsInputs, StepsOutputs
from pmsm_cli.neuron.onnx_function import DOMAIN, LEVELS

_OF_A_PASS = ("maps", *LEVELS)  # attributes


def steps_together(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """ConvolutionSteps of a first step and of later ones, with the same weights -> one of both.

    Preconditions: `steps_side_by_side`, `convolutions_of_steps`; the native library.
    """
    layers = {node.name: node for node in graph if node.domain == DOMAIN and node.op_type == CONVOLUTION_STEPS}
    changed = False
    for name, later in layers.items():
        first = layers.get((name or "").replace(f"/{LATER_STEPS}", ""))
        if first is None or first is later or not _belong_together(first, later):
            continue
        _join(graph, first, later)
        changed = True
    if changed:
        graph.sort()  # the first step is computed where the later ones are
    return changed


def _belong_together(first: ir.Node, later: ir.Node) -> bool:
    same = [name for name in first.attributes if name not in _OF_A_PASS]
    if any(first.attributes[name].as_int() != later.attributes[name].as_int() for name in same):
        return False
    alike = read(first, StepsInputs.WEIGHTS) is read(later, StepsInputs.WEIGHTS)
    alike = alike and constant(read(first, StepsInputs.PADDING)) == constant(read(later, StepsInputs.PADDING))
    if not alike or not _are_rows(first.outputs[StepsOutputs.VALUES], later.outputs[StepsOutputs.VALUES]):
        return False
    if not first.attributes["fires"].as_int():
        return True
    before = later.inputs[StepsInputs.BEFORE] if len(later.inputs) > StepsInputs.BEFORE else None
    return constant(read(first, StepsInputs.QUANTA)).size == 1 and before is first.outputs[StepsOutputs.EMITTED]


def _are_rows(first: ir.Value, later: ir.Value) -> bool:
    """Whether later steps lie along the first axis, and differ in nothing else."""
    if first.shape is None or later.shape is None or first.shape[1:] != later.shape[1:]:
        return False
    rows = later.shape[0]
    return isinstance(rows, ir.SymbolicDim) and (rows.value or "").endswith(LATER_STEPS)


def _join(graph: ir.Graph, first: ir.Node, later: ir.Node) -> None:
    of_both = _up_to(StepsInputs.LATER_CODES, first.inputs[: StepsInputs.BEFORE])
    own = _up_to(StepsInputs.BEFORE - StepsInputs.FACTOR, later.inputs[StepsInputs.FACTOR : StepsInputs.BEFORE])
    inputs = [*of_both, read(later, StepsInputs.CODES), *own]
    attributes = [*first.attributes.values(), ir.AttrInt64("later", 1)]
    attributes += [ir.AttrInt64(f"later_{name}", later.attributes[name].as_int()) for name in _OF_A_PASS]
    old = [*first.outputs[: StepsOutputs.EMITTED + 1], None, *later.outputs[: StepsOutputs.EMITTED + 1]]
    outputs = [
        ir.Value(name="") if each is None else ir.Value(name=each.name, type=each.type, shape=each.shape)
        for each in old
    ]
    node = ir.Node(DOMAIN, CONVOLUTION_STEPS, inputs, attributes, outputs=outputs, name=first.name)
    graph.insert_after(later, node)
    for each, new in zip(old, outputs, strict=True):
        if each is not None:
            ir.convenience.replace_all_uses_with(each, new, replace_graph_outputs=True)
    graph.remove([later, first], safe=True)


def _up_to(count: int, inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """So many inputs, of which the last ones may be missing."""
    return [*inputs, *[None] * (count - len(inputs))]

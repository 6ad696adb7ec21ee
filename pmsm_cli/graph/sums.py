"""Finding what a synapse's output is added to: an error that is there already can be made good for on the way."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from pmsm_cli.graph.network import Shape

_NO_READER = -1


def settled_addends(graph: ir.Graph, readers: Sequence[str], shapes: Mapping[str, Shape]) -> dict[str, tuple[str, ...]]:
    """For each reader the tensors that are added to its output, one after the other, and settled before it is.

    Readers are named in the order in which they are settled, that of the graph; a tensor is settled once all readers
    are that it depends on. What depends on none is left out: without a reader in front nothing was refitted. The sums
    are followed as long as nothing else reads what the reader put out, and no tensor makes it larger.

    Precondition: no control flow, whose inner graphs may read more than their nodes say.
    """
    order = {name: number for number, name in enumerate(readers)}
    latest: dict[ir.Value, int] = {}  # the last reader that a tensor depends on
    for node in graph:
        own = order.get(node.name or "", _NO_READER)
        last = max([own, *(latest.get(value, _NO_READER) for value in node.inputs if value is not None)])
        latest.update(dict.fromkeys(node.outputs, last))
    nodes = {node.name or "": node for node in graph}
    found = {}
    for name, number in order.items():
        addends = _addends(nodes[name].outputs[0], number, latest, shapes)
        found[name] = tuple(value.name or "" for value in addends if latest.get(value, _NO_READER) != _NO_READER)
    return found


def _addends(
    output: ir.Value, number: int, latest: Mapping[ir.Value, int], shapes: Mapping[str, Shape]
) -> list[ir.Value]:
    shape = shapes.get(output.name or "")
    addends: list[ir.Value] = []
    while not output.is_graph_output() and len(readers := output.consumers()) == 1:
        (addition,) = readers
        others = [value for value in addition.inputs if value is not None and value is not output]
        total = addition.outputs[0]
        grows = shape is None or shapes.get(total.name or "") != shape
        if addition.op_type != "Add" or not others or grows or latest.get(others[0], _NO_READER) >= number:
            break
        addends += others
        output = total
    return addends

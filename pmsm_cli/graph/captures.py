"""What a node reads, control flow included."""

import onnx_ir as ir

SHAPE_ONLY = frozenset({"Shape", "Size"})  # what follows them depends on sizes, not on values


def inner_graphs(node: ir.Node) -> list[ir.Graph]:
    """The branches of an If, the body of a Loop or a Scan."""
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type is ir.AttributeType.GRAPHS:
            graphs.extend(attribute.as_graphs())
    return graphs


def values_read(node: ir.Node) -> set[ir.Value]:
    """The inputs of a node, and what its inner graphs take from the graph around them."""
    values = {value for value in node.inputs if value is not None}
    for graph in inner_graphs(node):
        values.update(graph.outputs)
        for inner in graph.all_nodes():
            values.update(value for value in inner.inputs if value is not None)
    return values

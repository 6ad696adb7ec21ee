"""Constants of a graph."""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def add_constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """A new initialiser; its name must be free."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def constant_input(node: ir.Node, index: int) -> npt.NDArray[np.float32]:
    """A node's constant input; 0 where it has none there."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return np.zeros((), np.float32) if value is None or value.const_value is None else value.const_value.numpy()


def put_constant(graph: ir.Graph, node: ir.Node, index: int, name: str, array: npt.NDArray[np.generic]) -> None:
    """A new initialiser as a node's input; one of the same name that nobody reads then gives way to it."""
    node.replace_input_with(index, None)
    old = graph.initializers.get(name)
    if old is not None and not old.uses():
        del graph.initializers[name]
    node.replace_input_with(index, add_constant(graph, name, array))

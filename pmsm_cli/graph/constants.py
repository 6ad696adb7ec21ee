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

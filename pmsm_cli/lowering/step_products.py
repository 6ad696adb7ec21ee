"""Matrix products of codes with constant weights on the native library: convolutions of one place each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.lowering.codes import code_of
from pmsm_cli.lowering.int8 import Int8Weights, weights_of
from pmsm_cli.lowering.parts import constant, is_op, only_reader, read
from pmsm_cli.lowering.pointwise import constant_term
from pmsm_cli.lowering.slices import has_rows
from pmsm_cli.lowering.step_convolutions import CONVOLUTION_STEPS, Following, numbers_of, whole_weights
from pmsm_cli.lowering.windows import ONE_PLACE, alike
from pmsm_cli.neuron.onnx_function import DOMAIN, LEVELS


def products_of_steps(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """DequantizeLinear, MatMul with weights in slices, Add of a bias, Add of a like tensor -> ConvolutionSteps."""
    changed = False
    for node in list(graph):
        own = weights_of(node, weights) if is_op(node, "MatMul") else None
        code = code_of(read(node, 0)) if own is not None and own.slices > 1 else None
        if own is None or code is None:
            continue
        replaced, output = [node], node.outputs[0]
        reader = only_reader(output)
        term = None if reader is None else constant_term(reader)
        bias = None if term is None else constant(term)
        following = Following(value=output, scale=np.ones_like(own.scale), bias=np.zeros_like(own.scale))
        if reader is not None and bias is not None and bias.shape == own.scale.shape:
            replaced, output, following.bias = [reader, node], reader.outputs[0], bias
        reader = only_reader(output)
        others = _added(reader, output)
        if reader is not None and others is not None:
            replaced, output = [reader, *replaced], reader.outputs[0]
        name = f"{node.name}/steps"
        numbers = numbers_of(graph, name, own, code, following)
        inputs = [code.value, whole_weights(graph, node, own), *numbers, None, others]  # no map
        _replace(graph, replaced, inputs, name=name, sliced=True)
        changed = True
    return changed


def products_to_native(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """MatMulIntegerToFloat of many rows with int8 weights, Add of a like tensor -> ConvolutionSteps.

    Precondition: the native library, on a processor where onnxruntime's exact products of bytes are slower.
    """
    changed = False
    for node in list(graph):
        numbers = _numbers_of_product(node)
        if numbers is None:
            continue
        reader = only_reader(node.outputs[0])
        others = _added(reader, node.outputs[0])
        replaced = [node] if reader is None or others is None else [reader, node]
        name = f"{node.name}/native"
        rows = np.ascontiguousarray(constant(read(node, 1)).T)[:, :, None, None]
        whole = add_constant(graph, f"{name}/weights", rows)
        constants = [add_constant(graph, f"{name}/{kind}", array) for kind, array in numbers.items()]
        _replace(graph, replaced, [read(node, 0), whole, *constants, None, others], name=name, sliced=False)
        changed = True
    return changed


def _numbers_of_product(node: ir.Node) -> dict[str, npt.NDArray[Any]] | None:
    """The constants of a product with constant weights as those of a layer; None where it is no such product."""
    if node.op_type != "MatMulIntegerToFloat" or not has_rows(read(node, 0)):
        return None
    right, step, scale, offset = (constant(read(node, index)) for index in range(1, 5))
    bias = constant(node.inputs[6]) if len(node.inputs) > 6 else None
    if right is None or right.ndim != 2 or right.dtype != np.int8:
        return None
    return {
        "padding": offset.reshape(1),
        "factor": (np.float32(step.item()) * scale).reshape(-1),
        "bias": np.zeros(1, np.float32) if bias is None else bias,
        "low": np.array([-np.inf], np.float32),
        "high": np.array([np.inf], np.float32),
    }


def _replace(
    graph: ir.Graph, replaced: Sequence[ir.Node], inputs: Sequence[ir.Value | None], *, name: str, sliced: bool
) -> None:
    """A layer that gives values in the place of some nodes, the last one first."""
    output = replaced[0].outputs[0]
    attributes = {
        **ONE_PLACE,
        "maps": 0,
        "fires": 0,
        "sliced": int(sliced),
        "counted": 0,
        **dict.fromkeys(LEVELS, 0),
    }
    result = ir.Value(name=name, type=output.type, shape=output.shape)
    product = ir.Node(
        DOMAIN,
        CONVOLUTION_STEPS,
        inputs,
        [ir.AttrInt64(kind, number) for kind, number in attributes.items()],
        outputs=[result, ir.Value(name="")],
        name=name,
    )
    graph.insert_before(replaced[0], product)
    ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
    graph.remove(replaced, safe=True)


def _added(node: ir.Node | None, value: ir.Value) -> ir.Value | None:
    """What a node adds to a value: another tensor, of the same shape."""
    if not is_op(node, "Add"):
        return None
    other = next((each for each in node.inputs if each is not value), None)
    if other is None or constant(other) is not None or value.shape is None or other.shape is None:
        return None
    return other if alike(value.shape, other.shape) and value.shape[0] == other.shape[0] else None

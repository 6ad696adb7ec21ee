"""Matrix products of spikes on integer kernels; what they give are floats."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.lowering.codes import code_of
from pmsm_cli.lowering.convolutions import CONTRIB
from pmsm_cli.lowering.int8 import Int8Weights, weights_of
from pmsm_cli.lowering.parts import constant, is_op, only_reader, rank_of
from pmsm_cli.lowering.pointwise import constant_term


def products_to_integers(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """DequantizeLinear, MatMul or Gemm with int8 weights, Add of a bias -> MatMulIntegerToFloat."""
    changed = False
    for node in list(graph):
        own = weights_of(node, weights) if is_op(node, "MatMul", "Gemm") else None
        code = code_of(node.inputs[0]) if own else None
        if own is None or code is None or own.values.ndim != 2 or (is_op(node, "Gemm") and not is_plain(node)):
            continue
        transposed = is_op(node, "Gemm") and node.attributes.get_int("transB", 0) == 1
        if own.axis not in (None, 0 if transposed else 1):
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        output, last = node.outputs[0], node
        reader = only_reader(output)
        term = constant_term(reader) if bias is None else None
        columns = own.values.shape[0 if transposed else 1]
        if reader is not None and term is not None and constant(term).shape == (columns,):
            bias, last, output = term, reader, reader.outputs[0]
        name = f"{node.name}/of_codes"
        constants: dict[str, npt.NDArray[Any]] = {
            "weights": np.ascontiguousarray(own.values.T) if transposed else own.values,
            "scale": np.array(own.scale),
            "zero": np.zeros((), np.int8),
        }
        w, scale, zero = (add_constant(graph, f"{name}/{kind}", array) for kind, array in constants.items())
        result = ir.Value(name=name, type=output.type, shape=output.shape)
        inputs = [code.value, w, code.scale, scale, code.zero, zero, bias]
        product = ir.Node(CONTRIB, "MatMulIntegerToFloat", inputs, outputs=[result], name=name)
        graph.insert_before(last, product)
        graph.opset_imports[CONTRIB] = 1
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        for each in dict.fromkeys((last, node)):
            graph.remove(each, safe=True)
        changed = True
    return changed


def products_of_codes_to_integers(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """MatMul of two DequantizeLinear (queries with keys, attention with values) -> MatMulIntegerToFloat."""
    changed = False
    for node in list(graph):
        codes = [code for value in node.inputs if is_op(node, "MatMul") and (code := code_of(value))]
        if len(codes) != 2:
            continue
        left, right = codes
        output = node.outputs[0]
        result = ir.Value(name=f"{node.name}/of_codes", type=output.type, shape=output.shape)
        inputs = [left.value, right.value, left.scale, right.scale, left.zero, right.zero]
        product = ir.Node(CONTRIB, "MatMulIntegerToFloat", inputs, outputs=[result], name=result.name)
        graph.insert_before(node, product)
        graph.opset_imports[CONTRIB] = 1
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        changed = True
    return changed


def factors_into_products(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """MatMulIntegerToFloat, Mul by constants, one number or one a column, Add of such -> MatMulIntegerToFloat."""
    changed = False
    for node in list(graph):
        if node.op_type != "MatMulIntegerToFloat":
            continue
        while (reader := only_reader(node.outputs[0])) is not None and _takes(graph, node, reader):
            ir.convenience.replace_all_uses_with(reader.outputs[0], node.outputs[0], replace_graph_outputs=True)
            graph.remove(reader, safe=True)
            changed = True
    return changed


def _takes(graph: ir.Graph, product: ir.Node, node: ir.Node) -> bool:
    """Let a product have the constants of the node behind it in its own scale and bias."""
    array = next((constant(each) for each in node.inputs if constant(each) is not None), None)
    if array is None or not is_op(node, "Add", "Mul") or len(node.inputs) != 2:
        return False
    right, scale = product.inputs[1], constant(product.inputs[3])
    bias = product.inputs[6] if len(product.inputs) > 6 else None
    columns = None if right is None or right.shape is None else right.shape[-1]
    by_column = array.size == 1 or (array.size == columns and array.shape[-1] == columns)
    if node.op_type == "Mul" and array.size > 1 and (constant(right) is None or constant(right).ndim != 2):
        return False  # onnxruntime multiplies the bias as well, where it has a scale for each column of many matrices
    old = constant(bias)
    widens = array.ndim > max(rank_of(product.outputs[0]) or 0, 2)  # no product has fewer axes
    if not by_column or widens or scale is None or (bias is not None and old is None):
        return False
    name, numbers = node.name, array.reshape(-1 if array.size > 1 else ())
    if node.op_type == "Mul":
        scaled = np.asarray(scale * numbers, np.float32)
        product.replace_input_with(3, add_constant(graph, f"{name}/scale_of_codes", scaled))
        total = None if old is None else old * numbers
    else:
        if not isinstance(columns, int):
            return False
        total = np.broadcast_to(numbers if old is None else old + numbers, (columns,))
    if total is not None:
        product.resize_inputs(7)
        product.replace_input_with(6, add_constant(graph, f"{name}/bias_of_codes", np.array(total, np.float32)))
    return True


def is_plain(node: ir.Node) -> bool:
    """Whether a product with constant weights is that and no more, but for a constant bias of one number an output."""
    attributes = node.attributes
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    columns = constant(node.inputs[1]).shape[0 if attributes.get_int("transB", 0) else 1]
    return (
        attributes.get_float("alpha", 1.0) == 1
        and attributes.get_float("beta", 1.0) == 1
        and attributes.get_int("transA", 0) == 0
        and (bias is None or (constant(bias) is not None and constant(bias).shape == (columns,)))
    )

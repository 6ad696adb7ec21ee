"""Products of few rows of spikes with many weights, driven by events, on the native library.

They win where few inputs spike: `benchmarks/events.py` says from when on.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.lowering.int8 import Int8Weights, Pattern
from pmsm_cli.lowering.parts import constant, is_op, rank_of, read
from pmsm_cli.lowering.products import is_plain
from pmsm_cli.lowering.resting import NEURON_STEPS, steps_of
from pmsm_cli.neuron.onnx_function import DOMAIN, NEURON_OPS

EVENT_PRODUCT = "EventProduct"
EVENT_PRODUCT_INTEGER = "EventProductInteger"
# A product of fewer weights is over before it has begun.
_FEWEST_WEIGHTS = 2**18
# The shares of inputs that spike, in percent, up to which reading only their weights is faster, with room to spare.
_SPARSE_FLOATS, _SPARSE_INTEGERS = 80.0, 40.0

_IsSparse = Callable[[ir.Value, float], bool]  # whether at most such a share of a tensor spikes


def products_by_events(firing: Mapping[str, float], *, batch: int) -> Pattern:
    """Products of floats and of codes by events, where that is faster.

    `firing` says of sites, by name, which share of their neurons fires, in percent. Each of the `batch` images, and of
    several timesteps side by side, reads weights of its own, where a dense product reads all of them once.
    """

    def sparse(value: ir.Value, most: float) -> bool:
        name, node = value.name or "", value.producer()
        shares = [share for site, share in firing.items() if name.startswith((f"{site}/spikes", f"{site}/code"))]
        steps = steps_of(node) if node is not None else 1
        return bool(shares) and batch * steps * max(shares) <= most

    return functools.partial(_by_events, is_sparse=sparse)


def later_products_by_events(batch: int) -> Pattern:
    """The same in the later timesteps, whose spikes only make good what the first one left: all count as sparse."""
    return functools.partial(_by_events, is_sparse=lambda value, most: batch == 1)


def _by_events(graph: ir.Graph, weights: Mapping[str, Int8Weights], *, is_sparse: _IsSparse) -> bool:
    floats = _floats_by_events(graph, is_sparse)
    return _integers_by_events(graph, is_sparse) or floats


def _floats_by_events(graph: ir.Graph, is_sparse: _IsSparse) -> bool:
    """Gemm, or MatMul, of spikes [images, inputs] with constant weights -> EventProduct.

    The weights are turned to [inputs, outputs] where they are not, once for all products that share them; and if one of
    these is to stay dense, all are, so that no weights are there twice.
    """
    changed = False
    found = [node for node in graph if _may_be_by_events(node) and is_sparse(read(node, 0), _SPARSE_FLOATS)]
    dense = {read(node, 1) for node in graph if len(node.inputs) > 1 and node.inputs[1] and node not in found}
    for node in found:
        if read(node, 1) in dense:
            continue
        array = constant(node.inputs[1])
        turned = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        outputs = array.shape[0 if turned else 1]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        by_input = _by_input(graph, read(node, 1)) if turned else read(node, 1)
        added = bias or add_constant(graph, f"{node.name}/no_bias", np.zeros(outputs, np.float32))
        _replace(graph, node, EVENT_PRODUCT, [read(node, 0), by_input, added])
        changed = True
    return changed


def _may_be_by_events(node: ir.Node) -> bool:
    if not is_op(node, "Gemm", "MatMul") or not _are_spikes(read(node, 0)) or rank_of(read(node, 0)) != 2:
        return False
    array = constant(node.inputs[1])
    return array is not None and array.ndim == 2 and array.size >= _FEWEST_WEIGHTS and is_plain(node)


def _integers_by_events(graph: ir.Graph, is_sparse: _IsSparse) -> bool:
    """MatMulIntegerToFloat of codes [images, inputs] -> EventProductInteger."""
    changed = False
    for node in list(graph):
        if node.op_type != "MatMulIntegerToFloat" or rank_of(read(node, 0)) != 2 or len(node.inputs) < 6:
            continue
        array, step, scale, zero, others = (constant(node.inputs[index]) for index in (1, 2, 3, 4, 5))
        if array is None or array.ndim != 2 or array.size < _FEWEST_WEIGHTS or array.dtype != np.int8:
            continue
        if not is_sparse(read(node, 0), _SPARSE_INTEGERS):
            continue
        if any(each is None for each in (step, scale, zero, others)) or others.any():
            continue
        outputs = array.shape[1]
        bias = node.inputs[6] if len(node.inputs) > 6 else None
        if bias is not None and constant(bias) is None:
            continue
        term = np.zeros(outputs, np.float32) if bias is None else constant(bias).astype(np.float32)
        arrays: dict[str, npt.NDArray[Any]] = {
            "zero": np.asarray(zero, np.uint8).reshape(1),
            "scale": np.asarray(np.float32(step) * scale, np.float32).reshape(-1),
            "bias": np.array(np.broadcast_to(term.reshape(-1), (outputs,))),
        }
        further = [add_constant(graph, f"{node.name}/by_events/{kind}", each) for kind, each in arrays.items()]
        _replace(graph, node, EVENT_PRODUCT_INTEGER, [read(node, 0), read(node, 1), *further])
        changed = True
    return changed


def _are_spikes(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.domain == DOMAIN and node.op_type in (*NEURON_OPS, NEURON_STEPS)


def _by_input(graph: ir.Graph, weights: ir.Value) -> ir.Value:
    """The weights turned, beside those that are turned."""
    owner = weights.graph or graph
    name = f"{weights.name}/by_input"
    known = owner.initializers.get(name)
    return known if known is not None else add_constant(owner, name, np.ascontiguousarray(constant(weights).T))


def _replace(graph: ir.Graph, node: ir.Node, op_type: str, inputs: list[ir.Value]) -> None:
    output = node.outputs[0]
    name = f"{node.name}/by_events"
    result = ir.Value(name=name, type=output.type, shape=output.shape)
    graph.insert_before(node, ir.Node(DOMAIN, op_type, inputs, outputs=[result], name=name))
    ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
    graph.remove(node, safe=True)

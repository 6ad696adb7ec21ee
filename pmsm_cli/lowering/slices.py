"""Float weights as three slices of bytes, for integer kernels: as exact as float32, and nothing else is rounded.

A weight is (a x 256 + b) x 256 + c units of its output channel, a whole number below 2^23: what float32 resolves of the
channel's largest weight. Codes times bytes are summed up exactly, slice by slice, and put together in float32.
"""

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.synapse import Floats, synapse_of
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant, is_op, read
from pmsm_cli.lowering.resting import NEURON_STEPS
from pmsm_cli.lowering.windows import has_kernels
from pmsm_cli.neuron.onnx_function import NEURON

SLICES = 3
_BASE = 256
_LARGEST = 127 * (_BASE**2 + _BASE + 1)  # what three signed digits make


def sliced_weights(graph: ir.Graph) -> dict[str, Int8Weights]:
    """The weights of convolutions of spikes, for all channels, that are floats: in slices, by their names."""
    found = {}
    for node in graph:
        if not is_op(node, "Conv") or synapse_of(node) is None or not _reads_spikes(node):
            continue
        name, array = read(node, 1).name or "", constant(read(node, 1))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        plain = array is not None and node.attributes.get_int("group", 1) == 1 and has_kernels(node, array.shape)
        if plain and name not in found and np.isfinite(array).all() and (bias is None or constant(bias) is not None):
            found[name] = in_slices(array)
    return found


def in_slices(weights: Floats) -> Int8Weights:
    """Weights [outputs, ...] as [3 x outputs, ...], the most significant slices first, with a scale for each output.

    >>> in_slices(np.array([[1.0, -0.5]], np.float32)).values.tolist()
    [[127, -64], [127, 64], [127, 65]]
    """
    rows = weights.reshape(len(weights), -1)
    largest = np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0)).astype(np.float64)
    scale = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    units = rows / scale[:, None].astype(np.float64)
    whole = np.clip(np.rint(units, out=units), -_LARGEST, _LARGEST, out=units).astype(np.int32)
    values = np.empty((SLICES, *rows.shape), np.int8)
    for digits in reversed(values):
        digits[...] = whole.astype(np.int8)  # the lowest byte, signed
        whole = (whole - digits) >> 8
    return Int8Weights(values=values.reshape(-1, *weights.shape[1:]), scale=scale, axis=0)


def _reads_spikes(node: ir.Node) -> bool:
    producer = read(node, 0).producer()
    return producer is not None and producer.op_type in (NEURON, NEURON_STEPS)

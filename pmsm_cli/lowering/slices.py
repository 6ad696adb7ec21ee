"""Float weights as three slices of bytes, for integer kernels: as exact as float32.

A weight is (a x 256 + b) x 256 + c units of its output channel, a whole number below 2^23: what float32 resolves of the
channel's largest weight. Codes times bytes are summed up exactly, slice by slice, and put together in float32.
"""

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.synapse import Floats
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant, is_op, read
from pmsm_cli.lowering.step_codes import fits_codes
from pmsm_cli.lowering.windows import may_be_layer

SLICES = 3
_BITS = 8  # of a slice
_MOST_INPUTS = 65_000  # whose largest codes times digits add up to what 32 bits hold
_FEWEST_ROWS = 16
_SMALLEST_UNIT = float(np.finfo(np.float32).tiny)
_LARGEST = 127 * (2 ** (2 * _BITS) + 2**_BITS + 1)  # what three signed digits make


def sliced_weights(graph: ir.Graph) -> dict[str, Int8Weights]:
    """The float weights by which codes can be multiplied, as `in_slices` makes them, by their names.

    Those of convolutions, and of matrix products of many rows, as if they were convolutions: [outputs, inputs, 1, 1].
    Precondition: one timestep, or `steps_side_by_side`.
    """
    found: dict[str, Int8Weights] = {}
    for node in graph:
        array = _weights_of_layer(node) if is_op(node, "Conv", "MatMul") and _reads_codes(node) else None
        if array is None or array[0].size > _MOST_INPUTS or not np.isfinite(array).all():
            continue
        name = read(node, 1).name or ""
        if name not in found:
            found[name] = in_slices(array)
    return found


def _weights_of_layer(node: ir.Node) -> Floats | None:
    array = constant(read(node, 1))
    if array is None:
        return None
    if node.op_type == "MatMul":
        return array.T[:, :, None, None] if array.ndim == 2 and has_rows(read(node, 0)) else None
    return array if may_be_layer(node, array.shape) else None


def has_rows(spikes: ir.Value) -> bool:
    """Whether a matrix product of spikes has so many rows an image that its weights are read for something."""
    sizes = [] if spikes.shape is None else list(spikes.shape)[1:-1]
    return bool(sizes) and (not isinstance(sizes[-1], int) or sizes[-1] >= _FEWEST_ROWS)


def in_slices(weights: Floats) -> Int8Weights:
    """Weights [outputs, ...] as [3 x outputs, ...], the most significant slices first, with a scale for each output.

    >>> in_slices(np.array([[1.0, -0.5]], np.float32)).values.tolist()
    [[127, -64], [127, 64], [127, 65]]
    """
    rows = weights.reshape(len(weights), -1)
    largest = np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0)).astype(np.float64)
    # In units that float32 does not hold whole, weights are next to nothing, and are nothing here.
    scale = np.where(largest >= _LARGEST * _SMALLEST_UNIT, largest / _LARGEST, 1).astype(np.float32)
    units = rows / scale[:, None].astype(np.float64)
    whole = np.clip(np.rint(units, out=units), -_LARGEST, _LARGEST, out=units).astype(np.int32)
    values = np.empty((SLICES, *rows.shape), np.int8)
    for digits in reversed(values):
        digits[...] = whole.astype(np.int8)  # the lowest byte, signed
        whole = (whole - digits) >> _BITS
    return Int8Weights(values=values.reshape(-1, *weights.shape[1:]), scale=scale, axis=0, slices=SLICES)


def _reads_codes(node: ir.Node) -> bool:
    producer = read(node, 0).producer()
    return producer is not None and fits_codes(producer)

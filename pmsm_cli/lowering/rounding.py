"""Rounding weights by what they do to a layer's output, and not each to its nearest integer.

What rounding one weight does to the output, the weights that are not rounded yet can make good in part, as far as their
inputs vary together: optimal brain quantisation, in the order and the form of Frantar, Ashkboos, Hoefler, Alistarh,
"GPTQ" (arXiv 2210.17323, section 3.3). It takes the second moments of a layer's inputs, here of spike counts.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.synapse import Floats, Synapse
from pmsm_cli.lowering.int8 import LARGEST, Int8Weights

LARGEST_ROW = 2304  # inputs of an output, 256 channels of a 3x3 kernel: beyond, it takes minutes
_DAMPING = 0.01  # of the mean second moment, added to all: moments of a few images are uncertain
_BLOCK = 64  # columns after which the rest of the weights is brought up to date

Moments = npt.NDArray[np.float32]  # [groups, inputs, inputs]


def groups_of(synapse: Synapse) -> int:
    """How many groups of inputs a synapse keeps apart."""
    return int(synapse.node.attributes.get_int("group", 1) or 1) if synapse.node.op_type == "Conv" else 1


def inputs_of(synapse: Synapse) -> int | None:
    """How many inputs each output sums up; None where rounding by moments is not for this operator."""
    shape = synapse.weights.shape
    if synapse.node.op_type == "Conv":
        return int(np.prod(shape[1:]))
    return synapse.channels if synapse.node.op_type in ("Gemm", "MatMul") and len(shape) == 2 else None


def round_by_moments(synapse: Synapse, nearest: Int8Weights, moments: Moments) -> Int8Weights:
    """The synapse's weights on the grid of `nearest`, rounded so that its outputs change least.

    Precondition: `inputs_of` is a number, and the grid has a scale for each output.
    """
    rows = _as_rows(synapse, synapse.weights)
    groups = moments.shape[0]
    scale = nearest.scale.reshape(groups, -1)
    parts = np.split(rows.astype(np.float64), groups)
    values = np.concatenate([_round(*each) for each in zip(parts, scale, moments, strict=True)])
    whole = np.ascontiguousarray(_from_rows(synapse, values), np.int8)
    return Int8Weights(values=whole, scale=np.array(nearest.scale), axis=nearest.axis)


def _round(weights: npt.NDArray[np.float64], scale: Floats, moments: Floats) -> npt.NDArray[np.float64]:
    """Weights [outputs, inputs] in whole steps."""
    power = np.diag(moments).astype(np.float64)
    order = np.argsort(-power, kind="stable")  # what matters most is rounded while others can still make up for it
    damping = _DAMPING * power.mean() or 1.0
    damped = moments[np.ix_(order, order)].astype(np.float64) + damping * np.eye(len(order))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, steps = weights[:, order], scale.astype(np.float64)
    rounded = np.empty_like(left)
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        errors = np.empty((len(left), stop - start))
        for column in range(start, stop):
            rounded[:, column] = np.clip(np.round(left[:, column] / steps), -LARGEST, LARGEST)
            error = (left[:, column] - rounded[:, column] * steps) / upper[column, column]
            left[:, column:stop] -= np.outer(error, upper[column, column:stop])
            errors[:, column - start] = error
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    result = np.empty_like(rounded)
    result[:, order] = rounded
    return result


def _as_rows(synapse: Synapse, weights: Floats) -> Floats:
    """Weights as [outputs, inputs of the group]."""
    return weights.reshape(len(weights), -1) if _outputs_first(synapse) else weights.T


def _from_rows(synapse: Synapse, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return rows.reshape(synapse.weights.shape) if _outputs_first(synapse) else rows.T


def _outputs_first(synapse: Synapse) -> bool:
    node: ir.Node = synapse.node
    if node.op_type == "Gemm":
        return (node.attributes.get_int("transB", 0) == 1) == (synapse.data_index == 0)
    return node.op_type == "Conv" or synapse.data_index == 1

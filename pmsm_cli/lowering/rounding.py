"""Rounding weights by what they do to a layer's output, and not each to its nearest integer.

What rounding one weight does to the output, the weights that are not rounded yet can make good in part, as far as their
inputs vary together: optimal brain quantisation, in the order and the form of Frantar, Ashkboos, Hoefler, Alistarh,
"GPTQ" (arXiv 2210.17323, section 3.3). It takes the second moments of a layer's inputs, here of spike counts.
"""

import numpy as np
import numpy.typing as npt

from pmsm_cli.graph.synapse import Floats, Synapse
from pmsm_cli.graph.weight_rows import from_rows, weight_rows
from pmsm_cli.lowering.int8 import LARGEST, Int8Weights

_DAMPING = 0.01  # of the mean second moment, added to all: moments of a few images are uncertain
_BLOCK = 64  # columns after which the rest of the weights is brought up to date

Moments = npt.NDArray[np.float32]  # [groups, inputs, inputs]


def round_by_moments(synapse: Synapse, nearest: Int8Weights, moments: Moments) -> Int8Weights:
    """The synapse's weights on the grid of `nearest`, rounded so that its outputs change least.

    Precondition: `inputs_of` is a number, and the grid has a scale for each output.
    """
    rows = weight_rows(synapse)
    groups = moments.shape[0]
    scale = nearest.scale.reshape(groups, -1)
    parts = np.split(rows.astype(np.float64), groups)
    values = np.concatenate([_round(*each) for each in zip(parts, scale, moments, strict=True)])
    whole = np.ascontiguousarray(from_rows(synapse, values), np.int8)
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

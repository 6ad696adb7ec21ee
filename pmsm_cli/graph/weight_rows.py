"""A synapse's weights as one row of inputs for each output, whatever the operator's own layout."""

import numpy as np
import numpy.typing as npt

from pmsm_cli.graph.synapse import Floats, Synapse, output_dimension


def groups_of(synapse: Synapse) -> int:
    """How many groups of inputs a synapse keeps apart."""
    return int(synapse.node.attributes.get_int("group", 1) or 1) if synapse.node.op_type == "Conv" else 1


def inputs_of(synapse: Synapse) -> int | None:
    """How many inputs each output sums up; None for operators whose weights are no rows."""
    shape = synapse.weights.shape
    if synapse.node.op_type == "Conv":
        return int(np.prod(shape[1:]))
    return synapse.channels if synapse.node.op_type in ("Gemm", "MatMul") and len(shape) == 2 else None


def weight_rows(synapse: Synapse) -> Floats:
    """The weights as [outputs, inputs of the group]. Precondition: `inputs_of` is a number."""
    weights = synapse.weights
    return weights.reshape(len(weights), -1) if output_dimension(synapse) == 0 else weights.T


def from_rows(synapse: Synapse, rows: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Rows like those of `weight_rows` in the operator's own layout."""
    return rows.reshape(synapse.weights.shape) if output_dimension(synapse) == 0 else rows.T

"""Changing the weights of a spiking synapse, and the constant part of what it puts out."""

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import constant_input, put_constant
from pmsm_cli.graph.matching import add_shift
from pmsm_cli.graph.rest import drive_node
from pmsm_cli.graph.synapse import Floats, Synapse, along_outputs
from pmsm_cli.graph.weight_rows import inputs_of

_WEIGHTS = "/refitted_weights"


def can_change(synapse: Synapse) -> bool:
    """Whether a synapse puts out the plain product of its input and its weights, and a constant."""
    factors = (synapse.node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    return inputs_of(synapse) is not None and all(factor == 1 for factor in factors)


def constant_part(synapse: Synapse) -> Floats:
    """What a synapse puts out without any spike, its constant drive included; it broadcasts against the output."""
    node, adding = synapse.node, drive_node(synapse.node)
    bias = constant_input(node, 2)
    total = along_outputs(synapse, np.zeros(1, np.float32)) + (
        along_outputs(synapse, bias) if node.op_type == "Conv" else bias
    )
    return total if adding is None else total + constant_input(adding, 1)


def change_synapse(graph: ir.Graph, synapse: Synapse, change: Floats, shift: Floats) -> None:
    """Add `change` to a synapse's weights, in their own layout, and `shift` [outputs] to its output channels.

    Other nodes that share the weights keep theirs; constants that nobody reads any more are left in the graph.
    Preconditions: `can_change`, and corrections are not in yet (`pmsm_cli.graph.matching`).
    """
    node = synapse.node
    weights = np.asarray(synapse.weights + change, np.float32)
    put_constant(graph, node, synapse.weight_index, f"{node.name}{_WEIGHTS}", weights)
    add_shift(graph, synapse, shift)

"""Changing the weights of a spiking synapse, and the constant part of what it puts out."""

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.matching import add_shift
from pmsm_cli.graph.rest import drive_node
from pmsm_cli.graph.synapse import Floats, Synapse
from pmsm_cli.graph.weight_rows import inputs_of

_WEIGHTS = "/refitted_weights"


def can_change(synapse: Synapse) -> bool:
    """Whether a synapse puts out the plain product of its input and its weights, and a constant."""
    factors = (synapse.node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    return inputs_of(synapse) is not None and all(factor == 1 for factor in factors)


def constant_part(synapse: Synapse) -> Floats:
    """What a synapse puts out without any spike, its constant drive included; it broadcasts against the output."""
    node, trailing = synapse.node, (1,) * (-synapse.output_axis - 1)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    total = np.zeros((1, *trailing), np.float32)
    if bias is not None and bias.const_value is not None:
        constant = bias.const_value.numpy()
        total = total + (constant.reshape(-1, *trailing) if node.op_type == "Conv" else constant)
    adding = drive_node(node)
    drive = None if adding is None or adding.inputs[1] is None else adding.inputs[1].const_value
    return total if drive is None else total + drive.numpy()


def change_synapse(graph: ir.Graph, synapse: Synapse, change: Floats, shift: Floats) -> None:
    """Add `change` to a synapse's weights, in their own layout, and `shift` [outputs] to its output channels.

    Other nodes that share the weights keep theirs; constants that nobody reads any more are left in the graph.
    Preconditions: `can_change`, and corrections are not in yet (`pmsm_cli.graph.matching`).
    """
    node = synapse.node
    weights = np.asarray(synapse.weights + change, np.float32)
    node.replace_input_with(synapse.weight_index, add_constant(graph, f"{node.name}{_WEIGHTS}", weights))
    add_shift(graph, synapse, shift)

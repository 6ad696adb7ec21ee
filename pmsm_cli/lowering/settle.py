"""What `--weights int8` makes of a spiking graph: values that integers hold exactly, still computed in floats.

The graph stays the definition: neurons of `ai.pmsm` and standard operators. Its weights are rounded to multiples of
their scale, its biases to those of the sum's unit, and what convolutions receive at rest follows from the rounded
weights. Then the integer graph (`pmsm_cli.lowering.lower`) computes the same numbers.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.rest import drive_node, resting_drive
from pmsm_cli.graph.synapse import Floats, Synapse, output_dimension
from pmsm_cli.lowering.int8 import Int8Weights, quantise, spiking_synapses
from pmsm_cli.lowering.parts import SpikingSite, constant, replace_constant, site_of


def settle_weights(model: ir.Model, shapes: Mapping[str, Shape]) -> tuple[ir.Model, dict[str, Int8Weights]]:
    """A copy whose synapses have weights that 8 bits hold, and these by the weights' names.

    `shapes` are those of one image, by name. Weights of layers that read no spikes stay as they are.
    """
    copy = model.clone()
    graph = copy.graph
    weights: dict[str, Int8Weights] = {}
    for synapse in spiking_synapses(graph):
        name = synapse.node.inputs[synapse.weight_index].name
        rounded = quantise(synapse.weights, output_dimension(synapse))
        replace_constant(graph, synapse.node.inputs[synapse.weight_index], rounded.floats())
        weights[name] = rounded
        _settle_drive(graph, synapse, shapes)
        if synapse.node.op_type == "Conv":
            _settle_bias(synapse, rounded)
    return copy, weights


def _settle_bias(synapse: Synapse, weights: Int8Weights) -> None:
    """A convolution's bias in whole units of its sums, which hold spikes times integers."""
    bias = synapse.node.inputs[2] if len(synapse.node.inputs) > 2 else None
    if bias is None:
        return
    limit = np.float32(2**31 - 2**8)  # of 32 bits, as float32 holds it
    units = np.clip(np.round(constant(bias) / weights.scale), -limit, limit)
    replace_constant(synapse.node.graph, bias, units * weights.scale)


def _settle_drive(graph: ir.Graph, synapse: Synapse, shapes: Mapping[str, Shape]) -> None:
    """What rests, seen through the rounded weights; what rounding takes from it inside the borders goes to the bias."""
    adding, site = drive_node(synapse.node), site_of(synapse)
    drive = None if adding is None else constant(adding.inputs[1])
    if synapse.node.op_type != "Conv" or drive is None or drive.ndim != 4 or site is None:
        return
    rounded = _map_at_rest(synapse, site, drive, shapes)
    row, column = drive.shape[2] // 2, drive.shape[3] // 2
    lost = (drive - rounded)[0, :, row, column]
    replace_constant(graph, adding.inputs[1], rounded)
    node = synapse.node
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    node.resize_inputs(3)
    old = np.float32(0) if bias is None else constant(bias)
    node.replace_input_with(2, add_constant(graph, f"{node.name}/int8_bias", np.asarray(old + lost, np.float32)))


def _map_at_rest(synapse: Synapse, site: SpikingSite, drive: Floats, shapes: Mapping[str, Shape]) -> Floats:
    seen = {
        synapse.data.name or "": shapes[site.tensor],
        synapse.node.outputs[0].name or "": (1, *drive.shape[1:]),
    }
    counts = np.broadcast_to(np.round(site.rest), (synapse.channels,)).astype(np.float32)
    return np.broadcast_to(resting_drive(replace(synapse), counts, seen), drive.shape).astype(np.float32)

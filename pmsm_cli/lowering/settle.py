"""What `--weights int8` makes of a spiking graph: values that integers hold exactly, still computed in floats.

The graph stays the definition: neurons of `ai.pmsm` and standard operators. Its weights are rounded to multiples of
their scale, its biases to those of the sum's unit, and what convolutions receive at rest follows from the rounded
weights. Then the integer graph (`pmsm_cli.lowering.lower`) computes the same numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.rest import drive_node, resting_drive
from pmsm_cli.graph.synapse import Floats, Synapse, output_dimension, synapse_of
from pmsm_cli.lowering.int8 import LARGEST_BIAS, Int8Weights, quantise, spiking_synapses, weights_of, with_room_for
from pmsm_cli.lowering.parts import SpikingSite, constant, read, replace_constant, site_of
from pmsm_cli.lowering.rounding import Moments, round_by_moments
from pmsm_cli.neuron.parameters import Correction


def settle_weights(
    model: ir.Model, shapes: Mapping[str, Shape], moments: Mapping[str, Moments] = MappingProxyType({})
) -> tuple[ir.Model, dict[str, Int8Weights]]:
    """A copy whose synapses have weights that 8 bits hold, and these by the weights' names.

    `shapes` are those of one image, by name. `moments` are those of the inputs of synapses, by node: with them weights
    are rounded by what they do to the output (`pmsm_cli.lowering.rounding`), without to the nearest. Weights of layers
    that read no spikes stay as they are.
    """
    copy = model.clone()
    graph = copy.graph
    weights: dict[str, Int8Weights] = {}
    for synapse in spiking_synapses(graph):
        name = read(synapse.node, synapse.weight_index).name or ""
        rounded = quantise(synapse.weights, output_dimension(synapse))
        seen = moments.get(synapse.node.name or "")
        if seen is not None and rounded.axis is not None:
            rounded = round_by_moments(synapse, rounded, seen)
        if (bias := _bias_of(synapse)) is not None:
            rounded = with_room_for(constant(bias), synapse.weights, rounded)
        replace_constant(graph, read(synapse.node, synapse.weight_index), rounded.floats())
        weights[name] = rounded
        _settle_drive(graph, synapse, shapes)
        _settle_bias(graph, synapse, rounded)
    return copy, weights


def _bias_of(synapse: Synapse) -> ir.Value | None:
    """A convolution's bias."""
    there = synapse.node.op_type == "Conv" and len(synapse.node.inputs) > 2
    return read(synapse.node, 2) if there else None


def _settle_bias(graph: ir.Graph, synapse: Synapse, weights: Int8Weights) -> None:
    """A convolution's bias in whole units of its sums, which hold spikes times integers."""
    if (bias := _bias_of(synapse)) is not None:
        units = np.clip(np.round(constant(bias) / weights.scale), -LARGEST_BIAS, LARGEST_BIAS)
        replace_constant(graph, bias, units * weights.scale)


def _settle_drive(graph: ir.Graph, synapse: Synapse, shapes: Mapping[str, Shape]) -> None:
    """What rests, seen through the rounded weights; what rounding takes from it inside the borders goes to the bias."""
    adding, site = drive_node(synapse.node), site_of(synapse)
    if adding is None or synapse.node.op_type != "Conv" or site is None:
        return
    drive = constant(read(adding, 1))
    if drive is None or drive.ndim != 4:
        return
    rounded = _map_at_rest(synapse, site, drive, shapes)
    row, column = drive.shape[2] // 2, drive.shape[3] // 2
    lost = (drive - rounded)[0, :, row, column]
    replace_constant(graph, read(adding, 1), rounded)
    node = synapse.node
    bias = read(node, 2) if len(node.inputs) > 2 else None
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


def correct_weights(
    model: ir.Model, weights: Mapping[str, Int8Weights], corrections: Sequence[Correction]
) -> tuple[ir.Model, dict[str, Int8Weights]]:
    """A settled graph whose convolutions have corrections in their scales and biases: no weight is rounded again."""
    copy = model.clone()
    nodes = {node.name: node for node in copy.graph}
    corrected = dict(weights)
    for correction in corrections:
        node = nodes[correction.node]
        name, own = read(node, 1).name or "", weights_of(node, corrected)
        if node.op_type != "Conv" or own is None:
            continue
        bias = np.float32(0) if len(node.inputs) < 3 else constant(read(node, 2))
        total = np.asarray(bias * correction.scale + correction.shift, np.float32)
        own = replace(own, scale=np.asarray(own.scale * correction.scale, np.float32))
        own = corrected[name] = with_room_for(total, own.floats(), own)
        replace_constant(copy.graph, read(node, 1), own.floats())
        if (adding := drive_node(node)) is not None:
            by_channel = correction.scale.reshape(-1, *(1,) * (len(own.values.shape) - 2))
            replace_constant(copy.graph, read(adding, 1), constant(read(adding, 1)) * by_channel)
        node.resize_inputs(3)
        node.replace_input_with(2, add_constant(copy.graph, f"{node.name}/int8_matched_bias", total))
        synapse = synapse_of(node)
        assert synapse is not None
        _settle_bias(copy.graph, synapse, own)
    common_passes.RemoveUnusedNodesPass()(copy)
    return copy, corrected

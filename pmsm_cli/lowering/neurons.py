"""Neurons as quantisers: spikes as unsigned 8-bit codes, with a zero point and bounds."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.rest import drive_node
from pmsm_cli.graph.synapse import Synapse, synapse_of
from pmsm_cli.lowering.codes import LARGEST_CODE, Whole, add_code, bound
from pmsm_cli.lowering.int8 import Int8Weights, weights_of
from pmsm_cli.lowering.parts import SpikingSite, constant, is_op, read, site_at


def neurons_to_codes(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Every neuron of up to 256 levels becomes QuantizeLinear, bounds on its codes, and DequantizeLinear.

    A code is the count plus N. Where neurons rest and convolutions receive a map for that, the code is the count plus
    what rests: the synapse then sees the whole value, and neither the map nor the subtraction is needed.
    """
    changed = False
    for node in list(graph):
        site = site_at(node)
        if site is None or _is_handed_out_before_moves(site.value):
            continue
        readers = [synapse_of(reader) for reader, _ in site.spikes.uses()]
        convolutions = [each for each in readers if each is not None and _takes_whole_values(each, weights)]
        unsuitable = any(map(_has_map, convolutions)) or (site.negative_levels - site.rest < 0).any()
        if site.rest.any() and unsuitable and len(convolutions) == len(readers) and not site.spikes.is_graph_output():
            changed |= _count_from_zero(graph, site, convolutions, weights)
        else:
            changed |= _count_from_rest(graph, site)
    return changed


def _is_handed_out_before_moves(value: ir.Value) -> bool:
    """Whether what a value is moved from leaves the graph too.

    onnxruntime 1.32 moves a QuantizeLinear up through a Transpose and hands out what it made of the value.
    """
    node = value.producer()
    while is_op(node, "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split"):
        value = read(node, 0)
        if value.is_graph_output():
            return True
        node = value.producer()
    return False


def _count_from_rest(graph: ir.Graph, site: SpikingSite) -> bool:
    """Codes are counts plus N; what rests is in the zero of each channel, where that is a whole code."""
    levels = site.negative_levels + site.positive_levels
    if levels > LARGEST_CODE:
        return False
    zero = site.negative_levels - np.round(site.rest).astype(np.int64)
    value = site.value
    # Along the last axis zeros cannot differ either.
    if (zero < 0).any() or (zero > LARGEST_CODE).any() or not _whole(site) or (site.axis == -1 and site.rest.any()):
        zero, value = np.full(site.rest.shape, site.negative_levels), read(site.neuron, 0)
    code = _quantise(graph, site, value, zero)
    _replace_spikes(graph, site, bound(graph, code, np.asarray(0), np.asarray(levels)), site.negative_levels)
    return True


def _count_from_zero(
    graph: ir.Graph, site: SpikingSite, readers: list[Synapse], weights: Mapping[str, Int8Weights]
) -> bool:
    """Codes are counts plus what rests; synapses lose what they received at rest.

    Precondition: what they receive was computed from the rounded weights (`pmsm_cli.lowering.settle`).
    """
    rest = np.round(site.rest).astype(np.int64)
    # What is never below 0 counts to no less.
    zero = 0 if never_negative(site.value) else max(0, int((site.negative_levels - rest).max()))
    lowest, highest = rest - site.negative_levels + zero, rest + site.positive_levels + zero
    if not _whole(site) or (highest > LARGEST_CODE).any():
        return _count_from_rest(graph, site)
    for synapse in readers:
        _without_drive(graph, synapse, rest, weights)
    code = _quantise(graph, site, site.value, np.full(rest.shape, zero))
    shape = (-1, *(1,) * (-site.axis - 1)) if site.axis is not None else ()
    _replace_spikes(graph, site, bound(graph, code, lowest.reshape(shape), highest.reshape(shape)), zero)
    return True


def never_negative(value: ir.Value) -> bool:
    """Whether a value is known to be 0 or more."""
    node = value.producer()
    if is_op(node, "MaxPool"):
        return never_negative(read(node, 0))
    if is_op(node, "Clip"):
        lowest = constant(read(node, 1)) if len(node.inputs) > 1 else None
        return lowest is not None and float(lowest) >= 0
    return is_op(node, "Relu")


def _whole(site: SpikingSite) -> bool:
    """Whether resting counts are whole numbers, as they are but for fine-tuning."""
    return bool(np.allclose(site.rest, np.round(site.rest), atol=1e-3))


def _takes_whole_values(synapse: Synapse, weights: Mapping[str, Int8Weights]) -> bool:
    node = synapse.node
    return (
        node.op_type == "Conv" and weights_of(node, weights) is not None and not any(map(_is_unknown, node.inputs[2:]))
    )


def _is_unknown(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is None


def _has_map(synapse: Synapse) -> bool:
    adding = drive_node(synapse.node)
    return adding is not None and constant(read(adding, 1)) is not None


def _without_drive(graph: ir.Graph, synapse: Synapse, rest: Whole, weights: Mapping[str, Int8Weights]) -> None:
    """Take what rests off a convolution: the map behind it, or else its part of the bias."""
    adding = drive_node(synapse.node)
    if adding is not None:
        ir.convenience.replace_all_uses_with(adding.outputs[0], read(adding, 0), replace_graph_outputs=True)
        graph.remove(adding, safe=True)
        return
    node, own = synapse.node, weights_of(synapse.node, weights)
    assert own is not None
    outputs = own.values.shape[0]
    groups = synapse.channels // own.values.shape[1]
    kernels = own.values.reshape(groups, outputs // groups, own.values.shape[1], -1).sum(axis=3, dtype=np.int64)
    counts = np.broadcast_to(rest, (synapse.channels,)).reshape(groups, 1, -1)
    received = (kernels * counts).sum(axis=2).reshape(outputs)
    bias = read(node, 2) if len(node.inputs) > 2 else None
    old = np.float64(0) if bias is None else constant(bias).astype(np.float64)
    node.resize_inputs(3)
    new = np.asarray(old - received * own.scale.astype(np.float64), np.float32)
    node.replace_input_with(2, add_constant(graph, f"{node.name}/whole_bias", new))


def _quantise(graph: ir.Graph, site: SpikingSite, value: ir.Value, zero: Whole) -> ir.Value:
    """Thresholds are the scales of a QuantizeLinear; those on the last axis, where it is slow, a product before it."""
    name = f"{site.tensor}/code"
    threshold, axis, zeros = site.threshold, site.axis, np.broadcast_to(zero, site.threshold.shape)
    if axis == -1:
        factor = add_constant(graph, f"{name}/per_threshold", np.float32(1) / threshold)
        counts = ir.Value(name=f"{name}/in_thresholds", type=site.spikes.type, shape=value.shape)
        graph.insert_before(site.neuron, ir.Node("", "Mul", [value, factor], outputs=[counts], name=counts.name))
        value, threshold, axis, zeros = counts, np.ones((), np.float32), None, zeros.reshape(-1)[0]
    code = add_code(graph, name, site.value)
    scale = add_constant(graph, f"{name}/threshold", np.asarray(threshold))
    node = ir.Node(
        "",
        "QuantizeLinear",
        [value, scale, add_constant(graph, f"{name}/zero", zeros.astype(np.uint8))],
        [] if axis is None else [ir.AttrInt64("axis", axis)],
        outputs=[code],
        name=name,
    )
    graph.insert_before(site.neuron, node)
    return code


def _replace_spikes(graph: ir.Graph, site: SpikingSite, code: ir.Value, zero: int) -> None:
    name = f"{site.tensor}/code_counts"  # a product's own counts have the shorter name
    one, offset = (
        add_constant(graph, f"{name}/{kind}", array)
        for kind, array in (("one", np.ones((), np.float32)), ("zero", np.asarray(zero, np.uint8)))
    )
    counts = ir.Value(name=name, type=site.spikes.type, shape=site.spikes.shape)
    graph.insert_before(site.neuron, ir.Node("", "DequantizeLinear", [code, one, offset], outputs=[counts], name=name))
    ir.convenience.replace_all_uses_with(site.spikes, counts, replace_graph_outputs=True)
    above = read(site.neuron, 0).producer()
    graph.remove(site.neuron, safe=True)
    if above is not None and not above.outputs[0].uses() and above.outputs[0] is not site.value:
        graph.remove(above, safe=True)  # it took off what rests

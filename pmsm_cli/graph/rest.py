"""Neurons that rest at another value than 0: what their synapses receive while no spike arrives.

A channel that is nearly always active (a batch norm's output far above 0, say) costs fewer spikes where silence stands
for its usual value m: its neurons then emit, with sign, what differs from m, and W x = W (x - m) + W m. The second term
is a constant: a bias, or, where a convolution pads with zeros that never rest, a map that differs at the borders.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant, constant_input, put_constant
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.operators import subtract_constant
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.synapse import Floats, Synapse, along_outputs, contracted_weights, kernel_reach, synapse_of

ABOVE_REST = "/above_rest"  # how the values that resting neurons read are named after their site
AT_REST = "/at_rest"  # how a constant that is added behind a synapse is named after it


def resting_sites(network: Network, plan: SitePlan, shapes: Mapping[str, Shape]) -> frozenset[str]:
    """The sites whose neurons can rest at another value than 0.

    All readers must have constant weights (what rests in a product of two activations would meet spikes), and padded
    convolutions a stated image size, since their constant is a map.
    """
    synapses = {synapse.node.name: synapse for node in network.model.graph if (synapse := synapse_of(node))}
    sized = network.image.height is not None and network.image.width is not None
    return frozenset(
        site.name
        for site in plan.sites
        if site.channel_axis is not None
        and all(
            reader.node in synapses and _can_rest(synapses[reader.node], shapes, sized=sized) for reader in site.readers
        )
    )


def resting_drive(synapse: Synapse, resting: Floats, shapes: Mapping[str, Shape]) -> Floats:
    """What a synapse receives from inputs at their resting values [channels]: [outputs] or [1, outputs, height, width].

    Precondition: its site is one of `resting_sites`, and its weights are still those of the source.
    """
    if synapse.node.op_type != "Conv":
        factor = synapse.node.attributes.get_float("alpha", 1.0)
        return np.asarray(factor * (resting @ contracted_weights(synapse)), np.float32)
    kernels = _kernel_sums(synapse, resting)
    rows, columns = _reached(synapse, shapes)
    if rows.all() and columns.all():
        return np.asarray(kernels.sum(axis=(1, 2)), np.float32)
    return np.asarray(np.einsum("mkl,ik,jl->mij", kernels, rows, columns, optimize=True), np.float32)[None]


def rest_name(site: str) -> str:
    """The name of the constant that holds a site's resting value."""
    return f"{site}/rest"


def subtract_rest(graph: ir.Graph, value: ir.Value, site: str, resting: Floats) -> ir.Value:
    """The value of a site above its resting one, for the neurons to read; `resting` broadcasts against it."""
    return subtract_constant(graph, value, resting, name=f"{site}{ABOVE_REST}", constant=rest_name(site))


def add_drive(graph: ir.Graph, synapse: Synapse, drive: Floats) -> None:
    """Add a constant drive to a synapse: to its bias where it has room for it, else in a node behind it."""
    node = synapse.node
    if node.op_type == "Conv" and drive.ndim == 1:
        node.resize_inputs(3)
        put_constant(graph, node, 2, f"{node.name}/resting_bias", np.asarray(constant_input(node, 2) + drive))
        return
    output, name = node.outputs[0], f"{node.name}{AT_REST}"
    shaped = along_outputs(synapse, drive) if drive.ndim == 1 else drive
    constant = add_constant(graph, f"{name}/drive", shaped)
    driven = ir.Value(name=output.name, type=output.type, shape=output.shape)
    output.name = f"{output.name}/by_spikes"
    ir.convenience.replace_all_uses_with(output, driven, replace_graph_outputs=True)
    graph.insert_after(node, ir.Node("", "Add", [output, constant], outputs=[driven], name=name))


def driven_output(synapse_node: ir.Node) -> ir.Value:
    """What a synapse puts out, its constant drive included."""
    output = synapse_node.outputs[0]
    adding = drive_node(synapse_node)
    return output if adding is None else adding.outputs[0]


def drive_node(synapse_node: ir.Node) -> ir.Node | None:
    """The node that adds a synapse's constant drive, where that is not in its bias."""
    users = (user for user, _ in synapse_node.outputs[0].uses())
    return next((user for user in users if user.name == f"{synapse_node.name}{AT_REST}"), None)


def _can_rest(synapse: Synapse, shapes: Mapping[str, Shape], *, sized: bool) -> bool:
    node = synapse.node
    if node.op_type == "ConvTranspose":
        return False
    if node.op_type != "Conv":
        return synapse.weights.ndim == 2
    if synapse.weights.ndim != 4 or not {synapse.data.name, node.outputs[0].name} <= set(shapes):
        return False
    return sized or _never_pads(node)


def _never_pads(node: ir.Node) -> bool:
    """Whether no size of the image has borders: what pads nothing at one size may pad at another."""
    automatic = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    padding = node.attributes["pads"].as_ints() if "pads" in node.attributes else ()
    return automatic == "VALID" or (automatic in ("NOTSET", "") and not any(padding))


def _reached(synapse: Synapse, shapes: Mapping[str, Shape]) -> tuple[Floats, Floats]:
    """Which kernel rows (and columns) meet data rather than padding, [rows of the output, rows of the kernel]."""
    node = synapse.node
    data, result = shapes[synapse.data.name or ""], shapes[node.outputs[0].name or ""]
    rows, columns = kernel_reach(node, synapse.weights.shape, data, result)
    return (
        ((rows >= 0) & (rows < data[2])).astype(np.float32),
        ((columns >= 0) & (columns < data[3])).astype(np.float32),
    )


def _kernel_sums(synapse: Synapse, resting: Floats) -> Floats:
    """The weights times the resting value of the channel that each reads, summed over inputs, [outputs, kh, kw]."""
    weights = synapse.weights
    groups = synapse.channels // weights.shape[1]
    by_group = weights.reshape(groups, -1, *weights.shape[1:])
    sums = np.einsum("gmckl,gc->gmkl", by_group, resting.reshape(groups, -1), optimize=True)
    return np.asarray(sums.reshape(weights.shape[0], *weights.shape[2:]), np.float32)

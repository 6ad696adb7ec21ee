"""Putting neurons into a network: the one-timestep spiking graph."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.rest import add_drive, resting_drive, subtract_rest
from pmsm_cli.graph.rows import add_average, add_relative, averaging_operands
from pmsm_cli.graph.sites import Site, SitePlan
from pmsm_cli.graph.synapse import Synapse, fold_threshold, product_of, synapse_of
from pmsm_cli.neuron.onnx_function import DOMAIN, DOMAIN_VERSION, NEURON, neuron_function
from pmsm_cli.neuron.parameters import NeuronParameters


def insert_neurons(
    network: Network, plan: SitePlan, parameters: Mapping[str, NeuronParameters], shapes: Mapping[str, Shape]
) -> ir.Model:
    """A copy of the network in which every site's tensor passes a neuron before its synaptic operators read it.

    Spikes are whole counts; the thresholds are folded into the weights that read them. Whatever else reads a site's
    tensor goes on reading the value itself. A product whose operand is a softmax is divided by the sums of what its
    spikes carry (`pmsm_cli.graph.rows`). Where neurons rest at another value than 0 they read what lies above it,
    and their synapses get what rests as a constant (`pmsm_cli.graph.rest`). `parameters` maps each site's name to its
    neurons; `shapes` are those of one image, by name, from which values of unknown shape get at least their rank (later
    timesteps need it).
    """
    model = network.model.clone()
    graph = model.graph
    _state_ranks(graph, shapes)
    values = {value.name: value for value in [*graph.inputs, *(out for node in graph for out in node.outputs)]}
    synapses = {synapse.node.name: synapse for node in graph if (synapse := synapse_of(node))}
    products = {product.node.name: product for node in graph if (product := product_of(node))}
    averaging = {name: averaging_operands(product, shapes) for name, product in products.items()}
    averages: list[tuple[ir.Node, int, ir.Value, NDArray[np.float32]]] = []
    factors: dict[str, NDArray[np.float32]] = defaultdict(lambda: np.ones((), np.float32))
    drives: list[tuple[Synapse, NDArray[np.float32]]] = []
    for site in plan.sites:
        neuron, value = parameters[site.name], values[site.name]
        resting = neuron.resting_value
        if not neuron.rests_at_zero:
            value = subtract_rest(graph, value, site.name, along_channels(site, resting))
        if site.relative_axis is not None:
            value = add_relative(graph, value, site.relative_axis)
        spikes = _add_neuron(graph, value, site, neuron)
        for reader in site.readers:
            if reader.node in synapses:
                synapse = synapses[reader.node]
                if not neuron.rests_at_zero:
                    drives.append((synapse, _drive(synapse, resting, shapes)))  # by weights that are not folded yet
                _read_spikes(graph, synapse, spikes, neuron)
            else:
                multiplying, threshold = products[reader.node].node, along_channels(site, neuron.threshold)
                multiplying.replace_input_with(reader.operand, spikes)
                if reader.operand in averaging[reader.node]:  # the sum that divides the product has it too
                    averages.append((multiplying, reader.operand, spikes, threshold))
                    threshold = np.ones((), np.float32)
                factors[reader.node] = factors[reader.node] * threshold
    # Last, when all neurons have their values: these put something between an operator and whoever reads it.
    for synapse, drive in drives:
        add_drive(graph, synapse, drive)
    for name, factor in factors.items():
        _scale_product(graph, products[name].node, factor)
    for average in averages:
        add_average(graph, *average)
    graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    function = neuron_function(network.opset)
    model.functions[function.identifier()] = function
    return model


def along_channels(site: Site, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values [] or [channels], shaped to broadcast against the site's tensor."""
    trailing = () if site.channel_axis is None or values.ndim == 0 else (1,) * (-site.channel_axis - 1)
    return values.reshape((*values.shape, *trailing))


def _drive(synapse: Synapse, resting: NDArray[np.float32], shapes: Mapping[str, Shape]) -> NDArray[np.float32]:
    return resting_drive(synapse, np.broadcast_to(resting, (synapse.channels,)), shapes)


def _state_ranks(graph: ir.Graph, shapes: Mapping[str, Shape]) -> None:
    for node in graph:
        for output in node.outputs:
            shape = shapes.get(output.name or "")
            if output.shape is None and shape is not None:
                output.shape = ir.Shape([None] * len(shape))


def spikes_name(site: str) -> str:
    """The name of the tensor that holds a site's spikes."""
    return f"{site}/spikes"


def neuron_name(site: str) -> str:
    """The name of the node that is a site's neurons."""
    return f"{site}/neuron"


def product_scale_name(product: str) -> str:
    """The name of the node that multiplies a product of counts by its thresholds (its second input)."""
    return f"{product}/scaled"


def _scale_product(graph: ir.Graph, product: ir.Node, factor: NDArray[np.float32]) -> None:
    """Counts times counts stand for values times values, but for the thresholds (of operands that no sum divides)."""
    output = product.outputs[0]
    scaled = ir.Value(name=output.name, type=output.type, shape=output.shape)
    output.name = f"{output.name}/counts"
    ir.convenience.replace_all_uses_with(output, scaled, replace_graph_outputs=True)
    threshold = add_constant(graph, f"{scaled.name}/thresholds", factor)
    graph.insert_after(
        product,
        ir.Node("", "Mul", [output, threshold], outputs=[scaled], name=product_scale_name(product.name or "")),
    )


def _add_neuron(graph: ir.Graph, value: ir.Value, site: Site, neuron: NeuronParameters) -> ir.Value:
    threshold = add_constant(graph, f"{site.name}/threshold", along_channels(site, neuron.threshold))
    spikes = ir.Value(name=spikes_name(site.name), type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
    node = ir.Node(
        DOMAIN,
        NEURON,
        [value, threshold],
        [
            ir.AttrInt64("negative_levels", neuron.negative_levels),
            ir.AttrInt64("positive_levels", neuron.positive_levels),
        ],
        outputs=[spikes],
        name=neuron_name(site.name),
    )
    producer = value.producer()
    if producer is None:  # the image itself
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return spikes


def _read_spikes(graph: ir.Graph, synapse: Synapse, spikes: ir.Value, neuron: NeuronParameters) -> None:
    weights = synapse.node.inputs[synapse.weight_index]
    assert weights is not None
    # A weight that several layers share gets one copy for each threshold that it is read through.
    folded = add_constant(graph, f"{weights.name}/{synapse.node.name}", fold_threshold(synapse, neuron.threshold))
    synapse.node.replace_input_with(synapse.data_index, spikes)
    synapse.node.replace_input_with(synapse.weight_index, folded)
    unread = not weights.uses() and not weights.is_graph_output()
    if unread and weights.name and weights.name in graph.initializers:
        del graph.initializers[weights.name]

"""A source network in which each site's neurons can be switched in and out, to see what each of them does alone."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.insert import along_channels
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.operators import reduction
from pmsm_cli.graph.rows import LEAST_SUM
from pmsm_cli.graph.sites import Site, SitePlan
from pmsm_cli.neuron.onnx_function import DOMAIN, DOMAIN_VERSION, NEURON, neuron_function
from pmsm_cli.neuron.parameters import NeuronParameters


def switch_name(site: str) -> str:
    """The input that switches a site's neurons in (1) or out (0)."""
    return f"{site}/switch"


def add_switches(
    network: Network,
    plan: SitePlan,
    parameters: Mapping[str, NeuronParameters],
    mean_errors: Mapping[str, NDArray[np.float32]],
) -> ir.Model:
    """A copy of the network whose synapses read v + switch (carried - v - mean error), with a scalar input a site.

    `mean_errors` are of any of the sites, [channels] or [1].
    """
    model = network.model.clone()
    graph = model.graph
    values = {value.name: value for value in [*graph.inputs, *(out for node in graph for out in node.outputs)]}
    for site in plan.sites:
        _switch(graph, values[site.name], site, parameters[site.name], mean_errors.get(site.name))
    graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    function = neuron_function(network.opset)
    model.functions[function.identifier()] = function
    return model


def _switch(
    graph: ir.Graph, value: ir.Value, site: Site, neuron: NeuronParameters, mean_error: NDArray[np.float32] | None
) -> None:
    readers = {(reader.node, reader.operand) for reader in site.readers}
    users = [(user, index) for user, index in value.uses() if (user.name, index) in readers]
    threshold = add_constant(graph, f"{site.name}/switched_threshold", along_channels(site, neuron.threshold))
    resting = add_constant(graph, f"{site.name}/switched_rest", along_channels(site, neuron.resting_value))
    switch = ir.Value(name=switch_name(site.name), type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
    graph.inputs.append(switch)
    nodes: list[ir.Node] = []

    def add(op_type: str, inputs: list[ir.Value], domain: str = "", attributes: tuple[ir.Attr, ...] = ()) -> ir.Value:
        name = f"{site.name}/switched_{len(nodes)}"
        output = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        nodes.append(ir.Node(domain, op_type, inputs, attributes, outputs=[output], name=name))
        return output

    levels = (
        ir.AttrInt64("negative_levels", neuron.negative_levels),
        ir.AttrInt64("positive_levels", neuron.positive_levels),
    )
    if site.relative_axis is None:
        above = add("Sub", [value, resting])
        spikes = add(NEURON, [above, threshold], DOMAIN, levels)
        error = add("Sub", [add("Mul", [spikes, threshold]), above])
    else:  # rows over their largest weight, carried over their sum
        peaks, sums = (
            ir.Value(name=f"{site.name}/switched_{kind}", type=ir.TensorType(ir.DataType.FLOAT))
            for kind in ("peaks", "sums")
        )
        least = add_constant(graph, f"{site.name}/switched_least", np.array(LEAST_SUM, np.float32))
        nodes.append(reduction(graph, "ReduceMax", value, [site.relative_axis], peaks))
        spikes = add(NEURON, [add("Div", [value, peaks]), threshold], DOMAIN, levels)
        carried = add("Mul", [spikes, threshold])
        nodes.append(reduction(graph, "ReduceSum", carried, [site.relative_axis], sums))
        error = add("Sub", [add("Div", [carried, add("Max", [sums, least])]), value])
    if mean_error is not None:
        mean = add_constant(graph, f"{site.name}/switched_mean", along_channels(site, mean_error))
        error = add("Sub", [error, mean])
    read = add("Add", [value, add("Mul", [error, switch])])
    for user, index in users:
        user.replace_input_with(index, read)
    producer = value.producer()
    if producer is None:
        for node in reversed(nodes):
            graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, nodes)


OFF, ON = np.float32(0), np.float32(1)

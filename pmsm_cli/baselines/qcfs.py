"""The activation that QCFS trains with, put into a network and taken out again.

Bu et al., ICLR 2022, section 4: h(z) = lambda / L clip(floor(z L / lambda + 1/2), 0, L). With lambda = L theta that is
what a polarity multi-spike neuron of threshold theta, no negative level and L positive ones carries, so that our own
training trains it: the weights, and lambda. The trained network then has its activations back, and
lambda is the threshold of the neurons that fire.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.baselines.neuron import BaselineNeurons
from pmsm_cli.baselines.plan import NeuronPlan
from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.insert import along_channels, neuron_name
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.neuron.onnx_function import DOMAIN, DOMAIN_VERSION, NEURON, neuron_function
from pmsm_cli.neuron.parameters import NeuronParameters


def quantised_for_training(
    network: Network, plan: NeuronPlan, parameters: Mapping[str, NeuronParameters]
) -> tuple[ir.Model, SitePlan]:
    """A copy of the network in which a quantiser follows every activation, and the plan that training needs of it.

    All that read an activation read what the quantiser puts out, shortcuts included. `parameters` are those of the
    quantisers, by the activation's name.
    """
    model = network.model.clone()
    graph = model.graph
    values = {output.name: output for node in graph for output in node.outputs}
    for site in plan.neurons:
        value, chosen = values[site.name], parameters[site.name]
        threshold = add_constant(graph, f"{site.name}/threshold", along_channels(site, chosen.threshold))
        levels = [
            ir.AttrInt64("negative_levels", chosen.negative_levels),
            ir.AttrInt64("positive_levels", chosen.positive_levels),
        ]
        carried = ir.Value(name=f"{site.name}/carried", type=value.type, shape=value.shape)
        node = ir.Node(DOMAIN, NEURON, [value, threshold], levels, outputs=[carried], name=neuron_name(site.name))
        ir.convenience.replace_all_uses_with(value, carried, replace_graph_outputs=True)
        node.replace_input_with(0, value)
        producer = value.producer()
        assert producer is not None
        graph.insert_after(producer, node)
    graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    function = neuron_function(network.opset)
    model.functions[function.identifier()] = function
    return model, SitePlan(sites=plan.neurons, analog_layers=(), other_ops={})


def without_quantisers(model: ir.Model, plan: NeuronPlan) -> ir.Model:
    """A copy of a trained model that has its activations as they were."""
    copy = model.clone()
    graph = copy.graph
    nodes = {node.name: node for node in graph}
    for site in plan.neurons:
        node = nodes[neuron_name(site.name)]
        value, threshold = node.inputs
        assert value is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if threshold is not None and threshold.name:
            del graph.initializers[threshold.name]
    copy.functions.clear()
    del graph.opset_imports[DOMAIN]
    return copy


def trained_neurons(plan: NeuronPlan, parameters: Mapping[str, NeuronParameters]) -> dict[str, BaselineNeurons]:
    """The firing neurons of trained quantisers: the threshold is lambda, the membrane starts at half of it."""
    neurons = {}
    for site in plan.neurons:
        chosen = parameters[site.name]
        widest = np.asarray(chosen.threshold * np.float32(chosen.positive_levels), np.float32)
        neurons[site.name] = BaselineNeurons(threshold=along_channels(site, widest), start=0.5)
    return neurons

"""Taking the thresholds out of the weights that they are folded into, and putting them back: for training them."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.insert import along_channels, neuron_name, product_scale_name
from pmsm_cli.graph.rows import guard_name, least_sum
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.synapse import Floats, fold_threshold, synapse_of

_ONE = np.ones((), np.float32)


def unfold_thresholds(model: ir.Model, plan: SitePlan, thresholds: Mapping[str, Floats]) -> ir.Model:
    """A copy of a one-timestep graph whose synapses read theta times spikes: the thresholds are out of the weights.

    `thresholds` are the sites' own, [] or [channels], by the site's name. The graph itself gives the source's values
    only where its neurons put out theta s instead of s (`pmsm_cli.neuron.torch_form.carried`).
    """
    return _with_factors(
        model, plan, {name: np.float32(1) / threshold for name, threshold in thresholds.items()}, scaled=False
    )


def refold_thresholds(model: ir.Model, plan: SitePlan, thresholds: Mapping[str, Floats]) -> ir.Model:
    """A copy of an unfolded graph with these thresholds in its neurons and weights: `unfold_thresholds` undone."""
    folded = _with_factors(model, plan, thresholds, scaled=True)
    nodes = {node.name: node for node in folded.graph}
    for site in plan.sites:
        value = nodes[neuron_name(site.name)].inputs[1]
        assert value is not None
        assert value.const_value is not None
        _set(value, thresholds[site.name].reshape(value.const_value.shape.numpy()))
    return folded


def _with_factors(model: ir.Model, plan: SitePlan, factors: Mapping[str, Floats], *, scaled: bool) -> ir.Model:
    """Weights times the factor of the site that they read; behind products the factors themselves, or 1.

    Where sums of spikes divide a product, spikes and sums are in the same unit, and only the least sum has to follow.
    """
    copy = model.clone()
    nodes = {node.name: node for node in copy.graph}
    behind: dict[str, Floats] = defaultdict(lambda: _ONE)
    for site in plan.sites:
        for reader in site.readers:
            node = nodes[reader.node]
            if synapse := synapse_of(node):
                weights = node.inputs[synapse.weight_index]
                assert weights is not None
                _set(weights, fold_threshold(synapse, factors[site.name]))
                continue
            factor = along_channels(site, np.asarray(factors[site.name], np.float32)) if scaled else _ONE
            if guard := nodes.get(guard_name(reader.node, reader.operand)):
                least = guard.inputs[1]
                assert least is not None
                _set(least, least_sum(factor))
                factor = _ONE
            behind[reader.node] = behind[reader.node] * factor
    for name, factor in behind.items():
        value = nodes[product_scale_name(name)].inputs[1]
        assert value is not None
        _set(value, factor)
    return copy


def _set(value: ir.Value, array: Floats) -> None:
    tensor = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)
    value.const_value = tensor
    value.shape = ir.Shape(tensor.shape.numpy())

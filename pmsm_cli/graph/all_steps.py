"""One timestep in the place of several: neurons that carry at once what they carry after all steps of a constant value.

What refits weights looks at a single pass through the network. With these neurons that pass is the last one, but for
values that still change from step to step.
"""

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant, put_constant
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.last_step import after_all_steps
from pmsm_cli.neuron.onnx_function import DOMAIN, LEVELS, NEURON
from pmsm_cli.neuron.parameters import NeuronParameters


def through_all_steps(spiking: ir.Model, *, timesteps: int, coding: Coding) -> ir.Model:
    """A copy of a one-timestep graph whose neurons emit the running count after `timesteps` steps, in thresholds."""
    model = spiking.clone()
    for node in _neurons(model):
        threshold = _constant(node, 1)
        negative, positive = (node.attributes[kind].as_int() for kind in LEVELS)
        own = NeuronParameters(
            threshold=np.asarray(threshold.reshape(-1)[:1], np.float32),
            negative_levels=negative,
            positive_levels=positive,
        )
        all_steps = after_all_steps(own, timesteps, coding)
        finer = own.threshold / all_steps.threshold
        _set(
            model.graph, node, "of_all_steps", threshold / finer, (all_steps.negative_levels, all_steps.positive_levels)
        )
        name, spikes = f"{node.name}/counts", node.outputs[0]
        unit = add_constant(model.graph, f"{name}/unit", np.asarray(1 / finer[0], np.float32))
        counts = ir.Value(name=name, type=spikes.type, shape=spikes.shape)
        ir.convenience.replace_all_uses_with(spikes, counts)
        model.graph.insert_after(node, ir.Node("", "Mul", [spikes, unit], outputs=[counts], name=name))
    return model


def back_to_first_step(model: ir.Model, spiking: ir.Model) -> ir.Model:
    """A copy of what became of `through_all_steps` of a graph, with that graph's own neurons again."""
    copy = model.clone()
    own = {node.name: node for node in _neurons(spiking)}
    for node in _neurons(copy):
        before = own[node.name]
        levels = tuple(before.attributes[kind].as_int() for kind in LEVELS)
        _set(copy.graph, node, "of_first_step", _constant(before, 1), (levels[0], levels[1]))
        (counting,) = (user for user, _ in node.outputs[0].uses() if user.name == f"{node.name}/counts")
        ir.convenience.replace_all_uses_with(counting.outputs[0], node.outputs[0])
        copy.graph.remove(counting, safe=True)
    return copy


def _neurons(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.domain == DOMAIN and node.op_type == NEURON]


def _constant(node: ir.Node, index: int) -> np.ndarray:
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _set(graph: ir.Graph, node: ir.Node, kind: str, threshold: np.ndarray, levels: tuple[int, int]) -> None:
    put_constant(graph, node, 1, f"{node.name}/threshold_{kind}", np.asarray(threshold, np.float32))
    for name, number in zip(LEVELS, levels, strict=True):
        node.attributes[name] = ir.AttrInt64(name, number)

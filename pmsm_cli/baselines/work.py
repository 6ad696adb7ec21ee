"""What a network of the baselines' neurons has to do for an image: its layers, its neurons, and what it keeps.

Read off the graph that runs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from pmsm_cli.baselines.onnx_function import DOMAIN, SIGNED_WITH_MEMORY
from pmsm_cli.baselines.plan import AVERAGING_OPS, MAXIMUM_OPS, NeuronPlan, carried_by_spikes
from pmsm_cli.baselines.spiking import TOTAL
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.operations import Operations
from pmsm_cli.graph.scan import SCAN_NAME
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.work import COUNT_BITS, SUM_BITS, Work, work_of

# A neuron at one step: the current added, compared with the threshold, the threshold subtracted.
_FIRING = Operations(add=2, compare=1)
# Compared with the negative threshold too, what was emitted compared with 0, and kept up.
_TAKING_BACK = Operations(add=3, compare=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineWork:
    """What there is to do for one image."""

    work: Work
    neuron: Operations  # of one neuron, at each step
    state_bits: int  # kept from step to step
    # By tensor that holds spikes: how many values an element can have at the first step, and at later ones.
    levels: Mapping[str, tuple[int, int]]


def baseline_work(
    model: ir.Model, plan: SitePlan, neurons: NeuronPlan, shapes: Mapping[str, Shape], *, batch: int = 1
) -> BaselineWork:
    """The work of a spiking graph without counts; `shapes`, of all that depends on the image, are of `batch` images.

    An average of spikes passes each of them on, and costs nothing.
    """
    graph = model.graph
    carried = carried_by_spikes(graph, neurons.names, shapes)
    firing = [node for node in graph if node.domain == DOMAIN]
    signed = any(node.op_type == SIGNED_WITH_MEMORY for node in firing)
    averaging = [node for node in graph if node.op_type in AVERAGING_OPS and node.outputs[0].name in carried]
    apart = {node.name or "" for node in (*firing, *averaging)}
    return BaselineWork(
        work=work_of(model, plan, shapes, batch=batch, apart=apart, spikes=carried),
        neuron=_TAKING_BACK if signed else _FIRING,
        state_bits=_state_bits(graph, carried, shapes) // batch,
        # Nothing has been emitted at the first step that could be taken back.
        levels={name: (most + 1, most + 1 + most * signed) for name, most in carried.items()},
    )


def _state_bits(graph: ir.Graph, carried: Mapping[str, int], shapes: Mapping[str, Shape]) -> int:
    """What the graph hands on from step to step: membranes and other sums; of spikes, how many there were so far."""
    scan = next((node for node in graph if node.name == SCAN_NAME), None)
    if scan is None:
        return 0
    bits = 0
    for first, before in zip(scan.inputs, scan.attributes["body"].as_graph().inputs, strict=False):
        node = first.producer() if first is not None else None
        if first is None or node is None:
            continue  # the numbers of the steps
        is_count = first.name in carried
        if node.domain == DOMAIN:
            is_count = node.outputs.index(first) != 2
        elif f"/{TOTAL}" in (before.name or "") and node.op_type in MAXIMUM_OPS and is_count:
            continue  # the largest of the counts
        bits += math.prod(shapes[first.name or ""]) * (COUNT_BITS if is_count else SUM_BITS)
    return bits

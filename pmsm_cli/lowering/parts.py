"""Reading a spiking graph: constants, who reads a value, and what a synapse's spikes are."""

from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.operators import is_standard
from pmsm_cli.graph.rest import ABOVE_REST
from pmsm_cli.graph.synapse import Floats, Synapse
from pmsm_cli.neuron.onnx_function import DOMAIN, NEURON


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpikingSite:
    """The neurons of one tensor at the first timestep, as the graph holds them."""

    neuron: ir.Node
    value: ir.Value  # what is read, the resting value not yet taken off
    threshold: Floats  # [] or [channels]
    axis: int | None  # of the channels, counted from the right; None: one threshold
    rest: Floats  # counts, [] or [channels]
    negative_levels: int
    positive_levels: int

    @property
    def tensor(self) -> str:
        """The name of the site."""
        return self.value.name or ""

    @property
    def spikes(self) -> ir.Value:
        """The counts."""
        return self.neuron.outputs[0]


def site_at(neuron: ir.Node) -> SpikingSite | None:
    """The site that a neuron belongs to; None where its thresholds are on several axes."""
    if neuron.domain != DOMAIN or neuron.op_type != NEURON:
        return None
    value, threshold = read(neuron, 0), constant(read(neuron, 1))
    sizes = [axis - threshold.ndim for axis, size in enumerate(threshold.shape) if size > 1]
    if len(sizes) > 1:
        return None
    rest = np.zeros((), np.float32)
    producer = value.producer()
    if producer is not None and producer.op_type == "Sub" and (value.name or "").endswith(ABOVE_REST):
        resting = constant(read(producer, 1))
        if resting is not None and (resting.size == 1 or resting.shape == threshold.shape):
            rest, value = resting / threshold, read(producer, 0)
    return SpikingSite(
        neuron=neuron,
        value=value,
        threshold=threshold.reshape(-1 if sizes else ()),
        axis=sizes[0] if sizes else None,
        rest=rest.reshape(-1 if rest.size > 1 else ()),
        negative_levels=neuron.attributes["negative_levels"].as_int(),
        positive_levels=neuron.attributes["positive_levels"].as_int(),
    )


def site_of(synapse: Synapse) -> SpikingSite | None:
    """The site that a synapse reads."""
    producer = synapse.data.producer()
    return None if producer is None else site_at(producer)


def read(node: ir.Node, index: int) -> ir.Value:
    """An input of a node, which must be there."""
    value = node.inputs[index]
    assert value is not None, node.name
    return value


def constant(value: ir.Value | None) -> Any:
    """A constant's array; None for anything else."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def replace_constant(graph: ir.Graph, value: ir.Value, array: npt.NDArray[np.generic]) -> None:
    """Another content for a constant."""
    tensor = ir.tensor(np.ascontiguousarray(array, constant(value).dtype), name=value.name)
    value.const_value = tensor
    value.shape = ir.Shape(tensor.shape.numpy())


def only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads a value; None where there are more or none, or the graph hands the value out."""
    users = list(value.uses())
    return users[0].node if len(users) == 1 and not value.is_graph_output() else None


def rank_of(value: ir.Value) -> int | None:
    """How many axes a value has; None where that is not known."""
    return None if value.shape is None else len(value.shape)


def is_op(node: ir.Node | None, *op_types: str) -> TypeGuard[ir.Node]:
    """Whether a node is one of these standard operators."""
    return node is not None and is_standard(node, *op_types)

"""Which activations become neurons, and whether a network is of the kind that the baselines can represent.

The baselines know networks of weights, ReLU and pooling: a neuron takes the place of each ReLU (of each Clip from 0 on
likewise: no neuron carries more than its threshold), and whoever read the activation receives spikes. Everything
between neurons is linear and passes on this step's currents; what is not linear (max pooling, softmax at the end) is
evaluated on averages over the steps so far.
"""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from pmsm_cli.graph.captures import SHAPE_ONLY, inner_graphs, values_read
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.scan import FIRST_STEP
from pmsm_cli.graph.sites import Site, SitePlan
from pmsm_cli.graph.synapse import SYNAPTIC_OPS, synapse_of

# Operators through which spikes reach a synapse as spikes, or as the shares of them that pooling averages.
MOVING_OPS = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
AVERAGING_OPS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
MAXIMUM_OPS = frozenset({"GlobalMaxPool", "MaxPool"})

# Linear in all their inputs together, or in the first one while the others stay the same from step to step.
_LINEAR_IN_ALL = frozenset({"Add", "Concat", "Identity", "Mean", "Neg", "Sub", "Sum"})
_LINEAR_IN_FIRST = (MOVING_OPS | AVERAGING_OPS) - _LINEAR_IN_ALL | {
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "Div",
    "Expand",
    "Gemm",
    "ReduceSum",
    "Resize",
    "Tile",
}
_LINEAR_IN_ONE = frozenset({"MatMul", "Mul"})

# Where one of them stands between a synapse and an activation, channels are still on the synapse's output axis.
_KEEPS_CHANNELS = (
    frozenset({"Add", "BatchNormalization", "Div", "Identity", "Mul", "Sub"}) | AVERAGING_OPS | MAXIMUM_OPS
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuronPlan:
    """Where neurons go, and what they cannot carry."""

    neurons: tuple[Site, ...]  # by the name of the activation's result; without readers
    uncovered: tuple[str, ...]  # sites to which no neuron's spikes lead
    obstacles: tuple[str, ...]  # operators that have no meaning over timesteps

    @property
    def count(self) -> int:
        """How many neurons there are, for one image."""
        return sum(site.neurons or 0 for site in self.neurons)

    @property
    def names(self) -> frozenset[str]:
        """The tensors that spikes carry."""
        return frozenset(site.name for site in self.neurons)


def plan_neurons(network: Network, plan: SitePlan, shapes: Mapping[str, Shape]) -> NeuronPlan:
    """The activations of a network that some synapse depends on, and the sites that are left without.

    `plan` holds the tensors that synapses read; `shapes` are those of one image (or fixed batch).
    """
    graph = network.model.graph
    sites = {site.name for site in plan.sites}
    needed = _before_synapses(graph)
    after_synapse: set[ir.Value] = set()
    changing: set[ir.Value] = set()
    neurons = []
    obstacles = [
        f"{site.name} (of unknown size)" for site in plan.sites if any(each.macs is None for each in site.readers)
    ]
    for node in graph:
        reads = values_read(node)
        if synapse_of(node) or node.op_type in SYNAPTIC_OPS or reads & after_synapse:
            after_synapse.update(node.outputs)
        if is_rectifier(node) and reads & after_synapse and node.outputs[0] in needed:
            neurons.append(_site(node, shapes, network.image.batch or 1))
            changing.update(node.outputs)
        elif reads & changing and node.op_type not in SHAPE_ONLY:
            changing.update(node.outputs)
            if not _can_run_per_step(node, changing):
                obstacles.append(f"{node.name} ({node.op_type})")
    carried = carried_by_spikes(graph, {neuron.name for neuron in neurons}, shapes)
    return NeuronPlan(
        neurons=tuple(neurons),
        uncovered=tuple(site.name for site in plan.sites if site.name in sites - carried.keys()),
        obstacles=tuple(obstacles),
    )


def is_rectifier(node: ir.Node) -> bool:
    """Whether a node is a ReLU, with or without a largest value."""
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip" or len(node.inputs) < 2 or node.inputs[1] is None:
        return False
    lowest = node.inputs[1].const_value
    return lowest is not None and not lowest.numpy().any()


def is_linear(node: ir.Node, changing: "set[ir.Value] | Mapping[ir.Value, ir.Value]") -> bool:
    """Whether a node of this step's currents gives this step's currents: its average is that of the averages."""
    inputs = [value in changing for value in node.inputs if value is not None]
    if node.op_type in _LINEAR_IN_ALL:
        return True
    if node.op_type in _LINEAR_IN_FIRST:
        return not any(inputs[1:])
    return node.op_type in _LINEAR_IN_ONE and sum(inputs) == 1


def _can_run_per_step(node: ir.Node, changing: set[ir.Value]) -> bool:
    """Control flow cannot, nor can what turns values into indices, in between or at the end."""
    floats = (None, ir.DataType.FLOAT)
    touched = [*node.outputs, *(value for value in node.inputs if value in changing)]
    return not inner_graphs(node) and all(value is None or value.dtype in floats for value in touched)


def _before_synapses(graph: ir.Graph) -> set[ir.Value]:
    """The values that some synaptic operator depends on."""
    needed: set[ir.Value] = set()
    for node in reversed(list(graph)):
        if node.op_type in SYNAPTIC_OPS or any(output in needed for output in node.outputs):
            needed.update(values_read(node))
    return needed


def carried_by_spikes(graph: ir.Graph, neurons: Container[str], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The tensors that consist of spikes, as they are or pooled, and how many one element has at most.

    What leaves as an output too goes by its own name and by that of its first step.
    """
    carried: dict[str, int] = {}
    for node in graph:
        names = [output.name or "" for output in node.outputs]
        names += [name.removesuffix(FIRST_STEP) for name in names if name.endswith(FIRST_STEP)]
        if any(name in neurons for name in names):
            carried.update(dict.fromkeys(names, 1))
        elif node.op_type in MOVING_OPS | AVERAGING_OPS | MAXIMUM_OPS:
            data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            read = [value.name or "" if value is not None else "" for value in data]
            if all(name in carried for name in read):
                most = 1 if node.op_type in MAXIMUM_OPS else max(carried[name] for name in read)
                most *= _window(node, shapes) if node.op_type in AVERAGING_OPS else 1
                carried.update(dict.fromkeys(names, most))
    return carried


def _window(node: ir.Node, shapes: Mapping[str, Shape]) -> int:
    """How many elements an average is over."""
    if node.op_type == "AveragePool":
        return math.prod(node.attributes["kernel_shape"].as_ints())
    (read, *_), (written, *_) = node.inputs, node.outputs
    before, after = (shapes.get(value.name or "", ()) if value is not None else () for value in (read, written))
    return math.prod(before) // math.prod(after)


def _site(node: ir.Node, shapes: Mapping[str, Shape], batch: int) -> Site:
    result = node.outputs[0]
    name = result.name or ""
    shape = shapes.get(name)
    axis = _channel_axis(node, shape)
    return Site(
        name=name,
        channel_axis=axis,
        channels=shape[axis] if shape is not None and axis is not None else 1,
        neurons=math.prod(shape) // batch if shape is not None else None,
        readers=(),
    )


def _channel_axis(node: ir.Node, shape: Shape | None) -> int | None:
    """That of the output channels of the synapse whose currents the activation reads; None: not known."""
    value = node.inputs[0]
    while value is not None and shape is not None:
        producer = value.producer()
        if producer is None:
            return None
        if synapse := synapse_of(producer):
            return synapse.output_axis
        if producer.op_type not in _KEEPS_CHANNELS:
            return None
        value = next((each for each in producer.inputs if each is not None and each.const_value is None), None)
    return None

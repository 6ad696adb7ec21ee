"""Matching moments: after the neurons are in, each channel gets back the mean and deviation that it had in the source.

Spikes distort what a synapse sums up, and the distortions add up along the network. For every output channel of every
spiking synapse a scale and a shift bring the first step's sum U back: scale U + shift has the source's moments. They
are found in one pass: a graph that normalises each synapse's output, batch by batch, to the moments that the source
shows on the same batch, so that every layer is corrected behind layers that are corrected already.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from pmsm_cli.graph.constants import add_constant, constant_input, put_constant
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.operators import reduction
from pmsm_cli.graph.rest import add_drive, drive_node, driven_output
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.synapse import Synapse, along_outputs, scale_outputs, synapse_of
from pmsm_cli.neuron.parameters import Correction

Floats = npt.NDArray[np.float32]

# A correction is no repair: a channel that would need more than this has lost its signal, and what is left of it is
# no better for being made larger. Such a channel gets its mean back and no scale.
SMALLEST_SCALE, LARGEST_SCALE = 0.5, 2.0
SMALLEST_DEVIATION = 1e-6  # of a silent channel, so that its scale is 1 and not a matter of rounding
_SCALE, _SHIFT = "/matched_scale", "/matched_shift"  # how the correcting nodes are named after their synapse
_CONSTANT = "/shifted_constant"


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedReader:
    """A synapse whose output can be matched, and the names that the measuring graph uses for it."""

    node: str
    rank: int  # of its output
    axis: int  # of the output channels, counted from the left

    @property
    def inputs(self) -> tuple[str, str]:
        """Mean and deviation in the source, [1, ..., channels, ..., 1]."""
        return f"{self.node}/source_mean", f"{self.node}/source_deviation"

    @property
    def outputs(self) -> tuple[str, str]:
        """Mean and deviation before the correction, of the same shape."""
        return f"{self.node}/mean", f"{self.node}/deviation"

    @property
    def other_axes(self) -> tuple[int, ...]:
        """All axes but that of the channels."""
        return tuple(axis for axis in range(self.rank) if axis != self.axis)

    def along_channels(self, values: npt.NDArray[np.floating]) -> Floats:
        """One value a channel, shaped to broadcast against the output."""
        shape = [-1 if axis == self.axis else 1 for axis in range(self.rank)]
        return np.asarray(values, np.float32).reshape(shape)


def matched_readers(model: ir.Model, plan: SitePlan, shapes: Mapping[str, Shape]) -> list[MatchedReader]:
    """The spiking synapses of a plan, in the order of the graph; those of unknown rank are left out."""
    wanted = {reader.node for site in plan.sites for reader in site.readers}
    readers = []
    for node in model.graph:
        synapse = synapse_of(node) if node.name in wanted else None
        shape = shapes.get(node.outputs[0].name or "")
        if synapse and shape:
            axis = len(shape) + synapse.output_axis
            readers.append(MatchedReader(node=node.name or "", rank=len(shape), axis=axis))
    return readers


def add_measuring(spiking: ir.Model, readers: list[MatchedReader]) -> ir.Model:
    """A copy of a one-timestep graph that matches every batch to moments handed in, and puts out what that took."""
    model = spiking.clone()
    graph = model.graph
    nodes = {node.name: node for node in graph}
    graph.outputs.clear()
    for reader in readers:
        _add_normalisation(graph, nodes[reader.node], reader)
    return model


def with_moments(source: ir.Model, readers: Sequence[MatchedReader]) -> ir.Model:
    """A copy of the source network that puts out the moments which the measuring graph reads, and nothing else."""
    model = source.clone()
    model.graph.outputs.clear()
    add_moments(model.graph, readers)
    common_passes.RemoveUnusedNodesPass()(model)  # what is behind the last of them
    return model


def add_moments(graph: ir.Graph, readers: Iterable[MatchedReader]) -> None:
    """Let the source network put out, beside what it does, the moments which the measuring graph reads."""
    nodes = {node.name: node for node in graph}
    for reader in readers:
        moments = _Moments(graph, nodes[reader.node].outputs[0], reader, reader.inputs)
        graph.insert_after(nodes[reader.node], moments.nodes)
        graph.outputs.extend((moments.mean, moments.deviation))


def apply_corrections(spiking: ir.Model, corrections: tuple[Correction, ...], *, fold: bool) -> ir.Model:
    """A copy of a one-timestep graph with the corrections in.

    With `fold` they go into weights and biases and cost nothing; without, they are nodes of their own behind each
    synapse, so that later timesteps can go without them (there the spikes themselves correct).
    """
    model = spiking.clone()
    graph = model.graph
    nodes = {node.name: node for node in graph}
    for correction in corrections:
        synapse = synapse_of(nodes[correction.node])
        assert synapse is not None, correction.node
        if fold:
            _fold(graph, synapse, correction)
        else:
            _add_correcting_nodes(graph, synapse, correction)
    common_passes.RemoveUnusedNodesPass()(model)  # the weights and biases that folding left behind
    return model


def is_correcting(node: ir.Node) -> bool:
    """Whether a node was added by `apply_corrections`."""
    return (node.name or "").endswith((_SCALE, _SHIFT))


def settle_corrections(model: ir.Model) -> None:
    """Make the corrections of a graph part of it: with several timesteps they hold at every step, not at one alone."""
    for node in model.graph:
        if is_correcting(node):
            name = node.name = f"{node.name}/settled"
            for value in node.inputs:
                if value is not None and value.is_initializer():
                    value.name = f"{name}/{'factor' if node.op_type == 'Mul' else 'term'}"
            if not node.outputs[0].is_graph_output():
                node.outputs[0].name = name


def takes_bias(synapse: Synapse) -> bool:
    """Whether the operator itself has room for a constant a channel."""
    node = synapse.node
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    has_room = node.op_type in ("Conv", "ConvTranspose") or (
        node.op_type == "Gemm" and synapse.output_axis == -1 and node.attributes.get_float("beta", 1.0) == 1
    )
    return has_room and (bias is None or bias.const_value is not None)


def add_shift(graph: ir.Graph, synapse: Synapse, shift: Floats) -> None:
    """Add a constant to each output channel of a synapse, [outputs], where it already adds one, if it does."""
    node = synapse.node
    adding = drive_node(node)
    if takes_bias(synapse):
        node.resize_inputs(3)
        _add_to(graph, node, 2, shift)
    elif adding is not None:
        _add_to(graph, adding, 1, along_outputs(synapse, shift))
    else:
        add_drive(graph, synapse, np.asarray(shift, np.float32))


def _add_to(graph: ir.Graph, node: ir.Node, index: int, term: Floats) -> None:
    total = np.asarray(constant_input(node, index) + term, np.float32)
    put_constant(graph, node, index, f"{node.name}{_CONSTANT}", total)


def _fold(graph: ir.Graph, synapse: Synapse, correction: Correction) -> None:
    node, name, scale = synapse.node, correction.node, correction.scale
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and bias.const_value is None:
        _add_correcting_nodes(graph, synapse, correction)
        return
    put_constant(graph, node, synapse.weight_index, f"{name}/matched_weights", scale_outputs(synapse, scale))
    if bias is not None:
        factor = along_outputs(synapse, scale) if node.op_type == "Gemm" else scale
        put_constant(graph, node, 2, f"{name}/matched_bias", constant_input(node, 2) * factor)
    if (adding := drive_node(node)) is not None:
        drive = constant_input(adding, 1) * along_outputs(synapse, scale)
        put_constant(graph, adding, 1, f"{adding.name}/matched_drive", drive)
    add_shift(graph, synapse, correction.shift)


def _add_correcting_nodes(graph: ir.Graph, synapse: Synapse, correction: Correction) -> None:
    name = correction.node
    output = driven_output(synapse.node)
    shifted = _like(output, f"{name}{_SHIFT}")
    if output.is_graph_output():  # which keeps its name
        output.name, shifted.name = f"{output.name}/unmatched", output.name
    ir.convenience.replace_all_uses_with(output, shifted, replace_graph_outputs=True)
    nodes, scaled = [], output
    if (correction.scale != 1).any():
        scale = add_constant(graph, f"{name}{_SCALE}/factor", along_outputs(synapse, correction.scale))
        scaled = _like(output, f"{name}{_SCALE}")
        nodes.append(ir.Node("", "Mul", [output, scale], outputs=[scaled], name=f"{name}{_SCALE}"))
    shift = add_constant(graph, f"{name}{_SHIFT}/term", along_outputs(synapse, correction.shift))
    nodes.append(ir.Node("", "Add", [scaled, shift], outputs=[shifted], name=f"{name}{_SHIFT}"))
    graph.insert_after(drive_node(synapse.node) or synapse.node, nodes)


def _add_normalisation(graph: ir.Graph, node: ir.Node, reader: MatchedReader) -> None:
    """(U - mean) scale + source mean, with scale = source deviation / deviation, both of this batch, or 1."""
    output, name = driven_output(node), reader.node
    source = [ir.Value(name=key, type=ir.TensorType(ir.DataType.FLOAT)) for key in reader.inputs]
    for value in source:
        value.shape = ir.Shape([None if axis == reader.axis else 1 for axis in range(reader.rank)])
    graph.inputs.extend(source)
    users = list(output.uses())
    own = _Moments(graph, output, reader, reader.outputs)
    low = add_constant(graph, f"{name}/smallest", np.array(SMALLEST_SCALE, np.float32))
    high = add_constant(graph, f"{name}/largest", np.array(LARGEST_SCALE, np.float32))
    wanted = own.add("Div", [source[1], own.deviation], "wanted", reduced=True)
    trusted = own.add("Equal", [wanted, own.add("Clip", [wanted, low, high], "clipped", reduced=True)], "trusted")
    trusted.type = ir.TensorType(ir.DataType.BOOL)
    one = add_constant(graph, f"{name}/one", np.array(1, np.float32))
    scale = own.add("Where", [trusted, wanted, one], "scale", reduced=True)
    matched = own.add("Add", [own.add("Mul", [own.centred, scale], "scaled"), source[0]], "matched")
    for user, index in users:
        user.replace_input_with(index, matched)
    graph.insert_after(drive_node(node) or node, own.nodes)
    graph.outputs.extend((own.mean, own.deviation))


class _Moments:
    """Nodes that take a tensor's mean and deviation over a batch, channel by channel, and what is built on them."""

    def __init__(self, graph: ir.Graph, output: ir.Value, reader: MatchedReader, names: tuple[str, str]) -> None:
        """`names` are those of mean and deviation; the nodes are yet to be put into the graph, constants are."""
        self.nodes: list[ir.Node] = []
        self._graph, self._output, self._reader = graph, output, reader
        self.mean = self._mean_of(output, names[0])
        self.centred = self.add("Sub", [output, self.mean], "centred")
        variance = self._mean_of(self.add("Mul", [self.centred, self.centred], "squares"), f"{reader.node}/variance")
        tiny = add_constant(graph, f"{reader.node}/tiny", np.array(SMALLEST_DEVIATION**2, np.float32))
        guarded = self.add("Add", [variance, tiny], "guarded", reduced=True)
        self.deviation = ir.Value(name=names[1], type=ir.TensorType(ir.DataType.FLOAT))
        self.nodes.append(ir.Node("", "Sqrt", [guarded], outputs=[self.deviation], name=f"{names[1]}/Sqrt"))

    def add(self, op_type: str, inputs: list[ir.Value], result: str, *, reduced: bool = False) -> ir.Value:
        """One more operator; `reduced` where its result has one value a channel, else it is like the tensor."""
        value = _like(self._output, f"{self._reader.node}/{result}")
        if reduced:
            value.shape = None
        self.nodes.append(ir.Node("", op_type, inputs, outputs=[value], name=f"{value.name}/{op_type}"))
        return value

    def _mean_of(self, value: ir.Value, name: str) -> ir.Value:
        mean = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        self.nodes.append(reduction(self._graph, "ReduceMean", value, self._reader.other_axes, mean))
        return mean


def _like(value: ir.Value, name: str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)

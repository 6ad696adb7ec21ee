"""Finding the sites: which tensors become spikes, which operators stay analog, and why."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from pmsm_cli.errors import UnsupportedGraphError, shorten
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.synapse import SYNAPTIC_OPS, Synapse, multiply_accumulates, synapse_of

_READS_IMAGE = "reads the image (direct coding)"
_NO_CONSTANT_WEIGHTS = "its weights are computed from the image"
_PRODUCT = "product of two activations: no spiking form yet"
_NO_SPIKING_FORM = "no spiking form yet"
_CONTROL_FLOW = "control flow: its inner graph is not converted"
_SHAPE_ONLY = frozenset({"Shape", "Size"})
_MULTIPLYING_OPS = frozenset({"Attention", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A synaptic operator that reads a site's spikes."""

    node: str
    op_type: str
    macs: int | None  # multiply-accumulates of one image, products with padding left out; None: shapes not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A tensor that becomes spikes."""

    name: str
    channel_axis: int | None  # counted from the right; None where its readers disagree: one threshold for all
    channels: int  # how many channels there are on that axis (1 if there is none)
    neurons: int | None  # of one image
    readers: tuple[Reader, ...]
    analog_readers: tuple[str, ...] = ()  # types of the operators that read the value itself (residual additions)

    @property
    def macs(self) -> int:
        """The multiply-accumulates that its spikes drive."""
        return sum(reader.macs or 0 for reader in self.readers)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalogLayer:
    """An operator that multiplies and accumulates, but is not driven by spikes."""

    node: str
    op_type: str
    reason: str
    macs: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SitePlan:
    """What becomes spikes and what stays analog."""

    sites: tuple[Site, ...]
    analog_layers: tuple[AnalogLayer, ...]
    other_ops: Mapping[str, int]  # op type -> how many; evaluated on running values

    @property
    def spiking_macs(self) -> int:
        """Multiply-accumulates driven by spikes, for one image."""
        return sum(site.macs for site in self.sites)

    @property
    def total_macs(self) -> int:
        """All multiply-accumulates of synaptic operators, for one image."""
        return self.spiking_macs + sum(layer.macs or 0 for layer in self.analog_layers)

    @property
    def spiking_share(self) -> float:
        """Share of the multiply-accumulates driven by spikes, in percent."""
        return 100.0 * self.spiking_macs / self.total_macs if self.total_macs else 0.0


def find_sites(network: Network, shapes: Mapping[str, Shape], *, spiking_input: bool = False) -> SitePlan:
    """Every synaptic operator of a network, by the tensor that it reads.

    The layers that read the image itself stay analog (direct coding) unless `spiking_input` is set. `shapes` come from
    `infer_shapes` and serve the multiply-accumulates only.

    Raises:
        UnsupportedGraphError: nothing would spike.
    """
    read: dict[str, list[Synapse]] = defaultdict(list)
    analog: list[AnalogLayer] = []
    others: Counter[str] = Counter()
    after_synapse = _values_after_synapses(network.model.graph)
    for node in network.model.graph:
        synapse = synapse_of(node)
        reason = _why_analog(node, synapse, after_synapse, spiking_input=spiking_input)
        if reason:
            macs = _analog_macs(node, synapse, shapes)
            analog.append(AnalogLayer(node=node.name or "", op_type=node.op_type, reason=reason, macs=macs))
        elif synapse:
            read[synapse.data.name or ""].append(synapse)
        else:
            others[node.op_type] += 1
    if not read:
        raise UnsupportedGraphError(
            "has no synaptic operator that could be driven by spikes",
            subject=network.subject,
            details=shorten([f"{layer.node}: {layer.op_type}, {layer.reason}" for layer in analog]),
            hint="--spiking-input turns the image itself into spikes"
            if any(layer.reason == _READS_IMAGE for layer in analog)
            else f"synaptic operators are {', '.join(sorted(SYNAPTIC_OPS))} with constant weights",
        )
    return SitePlan(
        sites=tuple(_site(name, synapses, shapes) for name, synapses in read.items()),
        analog_layers=tuple(analog),
        other_ops=dict(sorted(others.items())),
    )


def _site(name: str, synapses: list[Synapse], shapes: Mapping[str, Shape]) -> Site:
    axes = {(synapse.channel_axis, synapse.channels) for synapse in synapses}
    axis, channels = axes.pop() if len(axes) == 1 else (None, 1)
    shape = shapes.get(name)
    neurons = math.prod(shape[1:]) if shape else None
    readers = tuple(
        Reader(
            node=synapse.node.name or "",
            op_type=synapse.node.op_type,
            macs=multiply_accumulates(synapse, shapes),
        )
        for synapse in synapses
    )
    spiking = {synapse.node for synapse in synapses}
    return Site(
        name=name,
        channel_axis=axis,
        channels=channels,
        neurons=neurons,
        readers=readers,
        analog_readers=tuple(
            user.op_type
            for user, _ in synapses[0].data.uses()
            if user not in spiking and user.op_type not in _SHAPE_ONLY
        ),
    )


def _why_analog(node: ir.Node, synapse: Synapse | None, after_synapse: set[str], *, spiking_input: bool) -> str | None:
    if synapse:
        reads_image = (synapse.data.name or "") not in after_synapse
        return _READS_IMAGE if reads_image and not spiking_input else None
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        return _CONTROL_FLOW
    if node.op_type in SYNAPTIC_OPS:
        return _PRODUCT if node.op_type in ("Gemm", "MatMul") else _NO_CONSTANT_WEIGHTS
    return _NO_SPIKING_FORM if node.op_type in _MULTIPLYING_OPS else None


def _values_after_synapses(graph: ir.Graph) -> set[str]:
    """The names of the values that depend on some synaptic operator's result."""
    after: set[str] = set()
    for node in graph:
        reads = {value.name for value in node.inputs if value is not None}
        if node.op_type in SYNAPTIC_OPS or node.op_type in _MULTIPLYING_OPS or reads & after:
            after.update(output.name or "" for output in node.outputs)
    return after


def _analog_macs(node: ir.Node, synapse: Synapse | None, shapes: Mapping[str, Shape]) -> int | None:
    if synapse:
        return multiply_accumulates(synapse, shapes)
    if node.op_type != "MatMul":
        return None
    data, result = shapes.get(_name(node.inputs[0])), shapes.get(_name(node.outputs[0]))
    if not data or not result:
        return None
    return math.prod(result) * data[-1]


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""

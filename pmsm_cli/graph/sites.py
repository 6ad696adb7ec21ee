"""Finding the sites: which tensors become spikes, which operators stay analog, and why."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from pmsm_cli.errors import UnsupportedGraphError, shorten
from pmsm_cli.graph.captures import SHAPE_ONLY, inner_graphs, values_read
from pmsm_cli.graph.fused import fused_macs, multiplies_inside
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.rows import CONTRACTED, averaging_operands
from pmsm_cli.graph.synapse import (
    SYNAPTIC_OPS,
    changes_basis,
    computed_macs,
    multiply_accumulates,
    product_heads,
    product_macs,
    product_of,
    synapse_of,
)

_READS_IMAGE = "reads the image (direct coding)"
_READS_CONSTANT = "what it reads does not depend on the image"
_IMAGES_ELSEWHERE = "it sums over the first axis, along which images should lie"
_NO_CONSTANT_WEIGHTS = "its weights are computed from the image"
_NO_SPIKING_FORM = "no spiking form yet"
_CONTROL_FLOW = "control flow: its inner graph is not converted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A synaptic operator that reads a site's spikes."""

    node: str
    op_type: str
    macs: int | None  # multiply-accumulates of one image, products with padding left out; None: shapes not known
    operand: int = 0  # which of its inputs the spikes are; a product of two activations counts its work at the first


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A tensor that becomes spikes."""

    name: str
    channel_axis: int | None  # counted from the right; None where its readers disagree: one threshold for all
    channels: int  # how many channels there are on that axis (1 if there is none)
    neurons: int | None  # of one image
    readers: tuple[Reader, ...]
    analog_readers: tuple[str, ...] = ()  # types of the operators that read the value itself (residual additions)
    # Counted from the right: neurons read the tensor over its largest value along this axis. None: the tensor itself.
    relative_axis: int | None = None

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
    macs: int | None  # of one image, once
    every_step: bool = False  # it follows a spiking layer, so that each timestep computes it again


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

    The layers that read the image itself stay analog (direct coding) unless `spiking_input` is set. `shapes` are those
    of one image (or the fixed batch), by name.

    Raises:
        UnsupportedGraphError: nothing would spike.
    """
    read: dict[ir.Value, list[_Reading]] = defaultdict(list)
    analog: list[AnalogLayer] = []
    others: Counter[str] = Counter()
    batch = network.image.batch or 1
    origins = _Origins.of(network.model.graph)
    after_spikes: set[ir.Value] = set()
    for node in network.model.graph:
        readings = _readings(node, shapes, batch)
        reason = _why_analog(node, readings, origins, spiking_input=spiking_input)
        if network.image.batch != 1 and synapse_of(node) and _sums_over_first_axis(readings, shapes):
            reason = reason or _IMAGES_ELSEWHERE
        every_step = not values_read(node).isdisjoint(after_spikes)
        if every_step or (readings and not reason):
            after_spikes.update(node.outputs)
        if reason:
            analog.append(
                AnalogLayer(
                    node=node.name or "",
                    op_type=node.op_type,
                    reason=reason,
                    macs=readings[0].reader.macs if readings else _analog_macs(node, shapes, batch),
                    every_step=every_step,
                )
            )
        elif readings:
            for reading in readings:
                read[reading.data].append(reading)
        else:
            others[node.op_type] += 1
    if not read:
        raise UnsupportedGraphError(
            "has no synaptic operator that could be driven by spikes",
            subject=network.subject,
            details=shorten([f"{layer.node}: {layer.op_type}, {layer.reason}" for layer in analog]),
            hint="--spiking-input turns the image itself into spikes"
            if any(layer.reason == _READS_IMAGE for layer in analog)
            else f"synaptic operators are {', '.join(sorted(SYNAPTIC_OPS))}",
        )
    return SitePlan(
        sites=tuple(_site(data, readings, shapes, batch) for data, readings in read.items()),
        analog_layers=tuple(analog),
        other_ops=dict(sorted(others.items())),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Reading:
    """One input of one operator that could be spikes."""

    data: ir.Value
    node: ir.Node
    channels: tuple[int, int] | None  # the axis that a threshold may differ along, and how long it is
    reader: Reader
    averaging_axis: int | None = None  # along which it weights an average, so that its scale does not matter


def _readings(node: ir.Node, shapes: Mapping[str, Shape], batch: int) -> list[_Reading]:
    """The inputs of a node that could be spikes: one of a synapse, both of a product of activations."""
    name, op_type = node.name or "", node.op_type
    if synapse := synapse_of(node):
        macs = _of_one_image(multiply_accumulates(synapse, shapes), batch)
        reader = Reader(node=name, op_type=op_type, macs=macs, operand=synapse.data_index)
        channels = (synapse.channel_axis, synapse.channels)
        return [_Reading(data=synapse.data, node=node, channels=channels, reader=reader)]
    if product := product_of(node):
        # At the first step the left operand's spikes do the work; the right one's add theirs from the second step on.
        work = (_of_one_image(product_macs(product, shapes), batch), 0)
        averaging = averaging_operands(product, shapes)
        return [
            _Reading(
                data=data,
                node=node,
                channels=product_heads(product, shapes),
                reader=Reader(node=name, op_type=op_type, macs=work[operand], operand=operand),
                averaging_axis=CONTRACTED[operand] if operand in averaging else None,
            )
            for operand, data in enumerate(product.operands)
        ]
    return []


def _site(data: ir.Value, readings: list[_Reading], shapes: Mapping[str, Shape], batch: int) -> Site:
    agreed = {reading.channels for reading in readings}
    channels = agreed.pop() if len(agreed) == 1 else None
    shape = shapes.get(data.name or "")
    spiking = {reading.node for reading in readings}
    averaging = {reading.averaging_axis for reading in readings}
    return Site(
        name=data.name or "",
        channel_axis=channels[0] if channels else None,
        channels=channels[1] if channels else 1,
        neurons=_of_one_image(math.prod(shape), batch) if shape else None,
        readers=tuple(reading.reader for reading in readings),
        analog_readers=tuple(
            user.op_type for user, _ in data.uses() if user not in spiking and user.op_type not in SHAPE_ONLY
        ),
        relative_axis=averaging.pop() if len(averaging) == 1 else None,
    )


def _why_analog(node: ir.Node, readings: list[_Reading], origins: "_Origins", *, spiking_input: bool) -> str | None:
    if readings:
        seen = [reading.data for reading in readings if reading.data in origins.of_image]
        if not seen:
            return _READS_CONSTANT
        reads_image = any(data not in origins.after_synapse for data in seen)
        return _READS_IMAGE if reads_image and not spiking_input else None
    if inner_graphs(node):
        return _CONTROL_FLOW
    if node.op_type in SYNAPTIC_OPS:
        return _NO_CONSTANT_WEIGHTS
    return _NO_SPIKING_FORM if multiplies_inside(node) else None


def _sums_over_first_axis(readings: list[_Reading], shapes: Mapping[str, Shape]) -> bool:
    ranks = [(len(shapes.get(reading.data.name or "", ())), reading.channels) for reading in readings]
    return any(channels is not None and rank > 1 and rank + channels[0] == 0 for rank, channels in ranks)


def _analog_macs(node: ir.Node, shapes: Mapping[str, Shape], batch: int) -> int | None:
    macs = computed_macs(node, shapes) if node.op_type in SYNAPTIC_OPS else fused_macs(node, shapes)
    return _of_one_image(macs, batch)


def _of_one_image(count: int | None, batch: int) -> int | None:
    """Where the graph fixes the batch, shapes are those of all of it; windows may be folded into it besides."""
    return None if count is None else count // batch


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Origins:
    """What values come from."""

    of_image: set[ir.Value]  # they depend on the image
    # And these on the result of some operator that multiplies and accumulates, other than the image in another basis.
    after_synapse: set[ir.Value]

    @classmethod
    def of(cls, graph: ir.Graph) -> "_Origins":
        of_image, after_synapse = set(graph.inputs), set[ir.Value]()
        for node in graph:
            reads = values_read(node)
            if reads & of_image and node.op_type not in SHAPE_ONLY:
                of_image.update(node.outputs)
            if (
                reads & after_synapse
                or multiplies_inside(node)
                or (node.op_type in SYNAPTIC_OPS and not changes_basis(node))
            ):
                after_synapse.update(node.outputs)
        return cls(of_image=of_image, after_synapse=after_synapse)

"""What a spiking graph has to do for one image, whatever it costs: its layers' sizes, and the arithmetic beside them.

Everything is a function of the graph and of measured shapes. Numbers are those of one image and one timestep.
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from pmsm_cli.graph.captures import SHAPE_ONLY, values_read
from pmsm_cli.graph.insert import product_scale_name
from pmsm_cli.graph.keys import centring_name
from pmsm_cli.graph.matching import is_correcting
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.operations import ELEMENTWISE, MOVING, Operations, operations_of
from pmsm_cli.graph.rest import ABOVE_REST, AT_REST
from pmsm_cli.graph.rows import average_name, guard_name, peaks_name, relative_name, row_sum_name
from pmsm_cli.graph.scan import SCAN_NAME
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.synapse import SYNAPTIC_OPS, product_of, synapse_of
from pmsm_cli.neuron.onnx_function import DOMAIN

_KINDS = {
    "layer norm": {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"},
    "other norms": {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LpNormalization"},
    "softmax": {"Softmax", "LogSoftmax"},
    "GELU": {"Gelu", "QuickGelu"},
    "ReLU and clips": {"Relu", "LeakyRelu", "PRelu", "Clip", "ThresholdedRelu", "HardSwish", "HardSigmoid"},
    "means and pooling": {"ReduceMean", "GlobalAveragePool", "AveragePool", "MaxPool", "GlobalMaxPool"},
    "additions": {"Add", "Sub", "Sum"},
    "products and quotients": {"Mul", "Div"},
    "resizing": {"Resize", "Upsample"},
}
_KIND_OF = {op_type: kind for kind, op_types in _KINDS.items() for op_type in op_types}
RESTING, AVERAGES, THRESHOLDS, MOMENTS = (
    "resting values",
    "attention's averages",
    "thresholds of products",
    "matched moments",
)

SUM_BITS = 32  # sums of products, and membranes
COUNT_BITS = 16  # what a neuron has emitted so far


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWork:
    """One operand of an operator that multiplies and accumulates, or the only one."""

    weights: int  # that the operand is multiplied with: constants, or the values of the other operand
    constant: bool  # whether they are constants
    inputs: int
    outputs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RestWork:
    """Arithmetic beside the synaptic layers, of one kind."""

    kind: str
    added: bool  # by the conversion: the source does without
    operators: int
    first: Operations  # at the first timestep, and of the source
    later: Operations  # at each later one
    waiting_first: tuple[int, ...]  # the sizes, in values, of tensors that are written and read for it alone
    waiting_later: tuple[int, ...]
    constants_first: int  # that it reads beside values
    constants_later: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What there is to do for one image."""

    layers: Mapping[tuple[str, int], LayerWork]  # by the operator's name and operand
    rest: tuple[RestWork, ...]
    uncounted: tuple[str, ...]  # operators whose arithmetic is not known

    def constants(self, *, added: bool) -> int:
        """The weights of all layers and the constants of the rest, with or without what the conversion `added`."""
        weights = sum(layer.weights for layer in self.layers.values() if layer.constant)
        return weights + sum(rest.constants_first for rest in self.rest if added or not rest.added)


def image_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of the first timestep whose values depend on the image, and not on its size alone."""
    carrying = set(model.graph.inputs)
    for node in model.graph:
        if node.name == SCAN_NAME:
            return
        if node.op_type not in SHAPE_ONLY and not carrying.isdisjoint(values_read(node)):
            carrying.update(node.outputs)
            yield node


def work_of(
    model: ir.Model,
    plan: SitePlan,
    shapes: Mapping[str, Shape],
    *,
    batch: int = 1,
    apart: Container[str] = (),
    spikes: Container[str] = (),
) -> Work:
    """The work of a spiking graph; `shapes`, of all that `image_nodes` touch, are those of `batch` images.

    The operators `apart` are counted with the spikes; the tensors `spikes` hold spikes, which wait where synapses read
    them, and not a second time as values.
    """
    again = _names_of_later_steps(model.graph)
    added, gelu = _added_by_conversion(model, plan), _gelu_nodes(model.graph)
    layers: dict[tuple[str, int], LayerWork] = {}
    gathered: dict[tuple[bool, str], list[tuple[ir.Node, Operations]]] = {}
    uncounted = []
    analog = {layer.node for layer in plan.analog_layers}
    # Counted with the spikes that they sum up.
    row_sums = {row_sum_name(reader.node, reader.operand) for site in plan.sites for reader in site.readers}
    for node in image_nodes(model):
        name = node.name or ""
        if name in analog or (node.op_type in SYNAPTIC_OPS and node.domain in ("", "ai.onnx")):
            layers.update({(name, operand): each for operand, each in _layers(node, shapes, batch)})
        elif node.domain == DOMAIN or name in row_sums or name in apart or node.op_type in MOVING:
            continue
        elif (operations := operations_of(node, shapes)) is None:
            uncounted.append(f"{name} ({node.op_type})")
        elif operations.total:
            kind = added.get(name) or ("GELU" if name in gelu else _KIND_OF.get(node.op_type, node.op_type))
            gathered.setdefault((name in added, kind), []).append((node, operations * (1 / batch)))
    stored = {name: shape for name, shape in shapes.items() if name not in spikes}
    rest = [
        _gather(kind, is_added, nodes, again, stored, batch) for (is_added, kind), nodes in sorted(gathered.items())
    ]
    return Work(layers=layers, rest=tuple(rest), uncounted=tuple(uncounted))


def _gather(
    kind: str,
    added: bool,
    nodes: list[tuple[ir.Node, Operations]],
    again: set[str],
    shapes: Mapping[str, Shape],
    batch: int,
) -> RestWork:
    later = [(node, operations) for node, operations in nodes if node.name in again]
    return RestWork(
        kind=kind,
        added=added,
        operators=len(nodes),
        first=sum((operations for _, operations in nodes), Operations()),
        later=sum((operations for _, operations in later), Operations()),
        waiting_first=_waiting([node for node, _ in nodes], shapes, batch),
        waiting_later=_waiting([node for node, _ in later], shapes, batch),
        constants_first=_constants(node for node, _ in nodes),
        constants_later=_constants(node for node, _ in later),
    )


def _waiting(nodes: list[ir.Node], shapes: Mapping[str, Shape], batch: int) -> tuple[int, ...]:
    """The sizes of the tensors that wait in memory for a node.

    Element by element, a value is worked on as it comes; what it meets there has been waiting. Rows and windows wait
    until they are complete.
    """
    sizes = []
    for node in nodes:
        read = [value for value in node.inputs if value is not None and value.const_value is None]
        known = sorted((math.prod(shapes[value.name or ""]) for value in read if value.name in shapes), reverse=True)
        sizes += known[1:] if node.op_type in ELEMENTWISE else known
    return tuple(size // batch for size in sizes)


def _constants(nodes: Iterable[ir.Node]) -> int:
    values = (value.const_value for node in nodes for value in node.inputs if value is not None)
    return sum(constant.size for constant in values if constant is not None)


def _layers(node: ir.Node, shapes: Mapping[str, Shape], batch: int) -> Iterator[tuple[int, LayerWork]]:
    """The operands of a layer that can be spikes, with what each of them meets."""

    def size(index: int) -> int:
        value = node.inputs[index] if index < len(node.inputs) else None
        shape = shapes.get(value.name or "") if value is not None else None
        return math.prod(shape or ()) // batch

    outputs = math.prod(shapes.get(node.outputs[0].name or "", ())) // batch
    if synapse := synapse_of(node):
        weights = math.prod(synapse.weights.shape)
        index = synapse.data_index
        yield index, LayerWork(weights=weights, constant=True, inputs=size(index), outputs=outputs)
    elif product_of(node):
        for index in (0, 1):
            yield index, LayerWork(weights=size(1 - index), constant=False, inputs=size(index), outputs=outputs)
    else:  # weights that are computed, or an operator of another kind
        yield 0, LayerWork(weights=size(1), constant=False, inputs=size(0), outputs=outputs)


def _names_of_later_steps(graph: ir.Graph) -> set[str]:
    """The nodes of the first timestep that every later one repeats."""
    scan = next((node for node in graph if node.name == SCAN_NAME), None)
    body = scan.attributes["body"].as_graph() if scan is not None else ()
    return {(node.name or "").removesuffix("/later") for node in body if (node.name or "").endswith("/later")}


def _added_by_conversion(model: ir.Model, plan: SitePlan) -> dict[str, str]:
    """The nodes that serve the spikes and that the source does without, with what they are for."""
    added = {node.name or "": MOMENTS for node in model.graph if is_correcting(node)}
    for site in plan.sites:
        added |= {f"{site.name}{ABOVE_REST}": RESTING, centring_name(site.name): RESTING}
        added |= {name(site.name): AVERAGES for name in (peaks_name, relative_name)}
        for reader in site.readers:
            added[f"{reader.node}{AT_REST}"] = RESTING
            added[product_scale_name(reader.node)] = THRESHOLDS
            added |= {name(reader.node, reader.operand): AVERAGES for name in (average_name, guard_name)}
    return added


def _gelu_nodes(graph: ir.Graph) -> set[str]:
    """GELU spelled out, x / 2 (1 + erf(x / sqrt 2)), in whatever order its factors come."""
    found: set[str] = set()
    for erf in (node for node in graph if node.op_type == "Erf"):
        before = erf.inputs[0].producer() if erf.inputs[0] is not None else None
        chain = [erf] + ([before] if before is not None and before.op_type in ("Div", "Mul") else [])
        node, wanted = erf, ["Add", "Mul", "Mul"]
        while wanted:
            users = [user for user, _ in node.outputs[0].uses()]
            if len(users) != 1 or users[0].op_type != wanted.pop(0):
                break
            node = users[0]
            chain.append(node)
        found |= {node.name or "" for node in chain}
    return found

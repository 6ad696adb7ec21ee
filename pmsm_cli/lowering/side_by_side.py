"""Later timesteps side by side: rows of one larger batch, layer by layer, instead of one after the other.

A neuron stands for its running count, which is all that it has emitted so far. What a synapse has summed up over the
steps is what it makes of that count, and everything behind it is a function of such sums; so a step needs nothing of
those before it but what the neurons themselves have emitted. All steps of a layer can therefore be computed before the
next layer: synapses and whatever lies between them take the later steps as rows of a batch T - 1 times as large, and
only neurons go through the steps. Weights are read once for all of them, and no state is kept but within a neuron.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.captures import SHAPE_ONLY, values_read
from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.matching import is_correcting
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.scan import SCAN_NAME
from pmsm_cli.graph.shapes import infer_shapes
from pmsm_cli.lowering.parts import constant, is_op, read
from pmsm_cli.lowering.resting import NEURON_STEPS
from pmsm_cli.lowering.rows_apart import Rows
from pmsm_cli.neuron.coding import later_negative_levels
from pmsm_cli.neuron.onnx_function import DOMAIN, NEURON

LATER_STEPS = "later_steps"  # how what is there for all of them is named after what there is for the first step
REPEATED = "/repeated_0"  # how a value that is there once for each step, along the first axis, is named after it
_MOST_STEPS = 8  # memory for the activations grows with them
# Where the number of images is left open, shapes are looked at for so many: a prime, which is in the sizes of rows.
# Where it is in another size, too, nothing is concluded.
_IMAGES = 251


def steps_side_by_side(model: ir.Model, image: Shape) -> bool:
    """Scan over the later timesteps -> one further pass through the network, with all of them in its batch.

    The graph stays as it is where an operator does not keep the rows of its batch apart. `image` is the shape of one.
    Preconditions: several timesteps, as `pmsm_cli.graph.unroll` writes them; the native library.
    """
    graph = model.graph
    scan = next((node for node in graph if node.name == SCAN_NAME and is_op(node, "Scan")), None)
    horizons, quanta = (None, None) if scan is None else (constant(value) for value in scan.inputs[-2:])
    if scan is None or horizons is None or quanta is None or len(horizons) >= _MOST_STEPS:
        return False
    images = graph.inputs[0].shape[0] if graph.inputs[0].shape else None
    batch = images if isinstance(images, int) else _IMAGES
    shapes = infer_shapes(model, (batch, *image))
    rows = Rows(batch=batch, shapes=shapes, open_batch=not isinstance(images, int))
    later = _LaterSteps(graph, rows, horizons, quanta)
    if not all(later.add(node) for node in itertools.takewhile(lambda node: node is not scan, graph)):
        return False
    joining = [(stacked, user) for stacked in scan.outputs for user, _ in stacked.uses()]  # to the first step's
    firsts = [read(_producer(read(user, 0)), 0) for _, user in joining]
    if any(later.rows.axes.get(first) != 0 for first in firsts):
        return False
    for (stacked, _), first in zip(joining, firsts, strict=True):
        ir.convenience.replace_all_uses_with(stacked, later.stacked(first))
    graph.insert_before(scan, later.nodes)
    body = scan.attributes["body"].as_graph()
    graph.remove(scan, safe=True)
    body.outputs.clear()
    body.remove(list(body), safe=True)  # else what it read would count as read
    return True


class _LaterSteps:
    """The further pass, while it is put together."""

    def __init__(
        self, graph: ir.Graph, rows: Rows, horizons: npt.NDArray[np.float32], quanta: npt.NDArray[np.float32]
    ) -> None:
        self.graph, self.steps = graph, len(horizons)
        self.nodes: list[ir.Node] = []
        self.later: dict[ir.Value, ir.Value] = {}  # a value of the first step -> of all later ones
        # Of values of the first step that depend on the image: the axis that images, and later the steps, lie along.
        self.rows = rows
        self.rows.axes[graph.inputs[0]] = 0
        self._unclear: set[ir.Value] = set()  # they depend on the image, but their rows are not known
        self._repeated: dict[tuple[ir.Value, int], ir.Value] = {}
        self._numbers = [
            add_constant(graph, f"pmsm/later_{kind}", np.asarray(array, np.float32))
            for kind, array in (("horizons", horizons), ("quanta", quanta))
        ]

    def add(self, node: ir.Node) -> bool:
        """What a node does in the later steps; False: it cannot be done side by side."""
        reads = values_read(node)
        if node.domain == DOMAIN and node.op_type == NEURON:
            return self._add_neuron(node)
        if node.op_type in SHAPE_ONLY or not any(value in self.rows.axes or value in self._unclear for value in reads):
            return True
        unclear = any(value in self._unclear for value in reads)
        axis = None if unclear else self.rows.of_output(node)
        if not any(value in self.later for value in reads):  # the image alone decides
            known = {} if axis is None else dict.fromkeys(node.outputs, axis)
            self.rows.axes.update(known)
            self._unclear.update(output for output in node.outputs if output not in known)
            return True
        if is_correcting(node):  # later steps correct by spikes
            self._know(node.outputs[0], self.later[read(node, 0)], self.rows.axes[read(node, 0)])
            return True
        inputs = [] if axis is None else [self._input(node, value, axis) for value in node.inputs]
        if axis is None or any(new is None and old is not None for new, old in zip(inputs, node.inputs, strict=False)):
            return False
        if node.op_type in ("Reshape", "Flatten", "Expand"):
            inputs = [inputs[0], self._shape(node, axis)]
        op_type = "Reshape" if node.op_type == "Flatten" else node.op_type
        attributes = [each for name, each in node.attributes.items() if op_type != "Reshape"]
        self._append(node, op_type, inputs, attributes, axis)
        return True

    def _add_neuron(self, node: ir.Node) -> bool:
        value, threshold = read(node, 0), read(node, 1)
        known = value.name in self.rows.shapes and self.rows.axes.get(value) == 0
        if not known or threshold.shape is None or len(threshold.shape) >= max(self.rows.rank(value), 1):
            return False
        positive = node.attributes["positive_levels"].as_int()
        negative = later_negative_levels(node.attributes["negative_levels"].as_int(), positive)
        levels = [ir.AttrInt64("negative_levels", negative), ir.AttrInt64("positive_levels", positive)]
        zero = add_constant(self.graph, f"{node.name}/no_rest", np.zeros((), np.float32))
        # A value that the image alone decides is the same at every step.
        inputs = [self.later.get(value, value), threshold, zero, node.outputs[0], *self._numbers]
        self._append(node, NEURON_STEPS, inputs, levels, 0, domain=DOMAIN)
        return True

    def _input(self, node: ir.Node, value: ir.Value | None, axis: int) -> ir.Value | None:
        """What a node reads in the later steps; None: nothing, or rows that cannot be repeated."""
        if value is None or value in self.later or self.rows.serve(node, value, axis):
            return None if value is None else self.later.get(value, value)
        if self.rows.rank(value) != self.rows.rank(node.outputs[0]):
            return None
        if (value, axis) not in self._repeated:
            repeated = _many_rows(value, axis, f"repeated_{axis}")
            along = ir.AttrInt64("axis", axis)
            parts = [value] * self.steps
            self.nodes.append(ir.Node("", "Concat", parts, [along], outputs=[repeated], name=repeated.name))
            self._repeated[value, axis] = repeated
        return self._repeated[value, axis]

    def _shape(self, node: ir.Node, axis: int) -> ir.Value:
        """What a node makes of its input's shape, for any number of rows."""
        any_number = 1 if node.op_type == "Expand" else -1
        sizes = self.rows.shape(node.outputs[0])
        wanted = [any_number if place == axis else size for place, size in enumerate(sizes)]
        return add_constant(self.graph, f"{node.name}/later_shape", np.array(wanted, np.int64))

    def stacked(self, first: ir.Value) -> ir.Value:
        """All later steps of a value, [T - 1, images, ...]."""
        rows = self.later[first]
        names = [f"{rows.name}/{kind}" for kind in ("shape", "row", "stacked_shape", "stacked")]
        whole, row, shape, stacked = (ir.Value(name=name) for name in names)
        numbers = {"start": [1], "end": [np.iinfo(np.int64).max], "steps": [self.steps, -1]}
        start, end, steps = (
            add_constant(self.graph, f"{rows.name}/{kind}", np.array(array, np.int64))
            for kind, array in numbers.items()
        )
        for op_type, inputs, output in (
            ("Shape", [rows], whole),
            ("Slice", [whole, start, end], row),
            ("Concat", [steps, row], shape),
            ("Reshape", [rows, shape], stacked),
        ):
            axis = [ir.AttrInt64("axis", 0)] if op_type == "Concat" else []
            self.nodes.append(ir.Node("", op_type, inputs, axis, outputs=[output], name=output.name))
        stacked.type = first.type
        return stacked

    def _append(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Sequence[ir.Attr],
        axis: int,
        domain: str = "",
    ) -> None:
        outputs = [_many_rows(output, axis, LATER_STEPS) for output in node.outputs]
        for output, later in zip(node.outputs, outputs, strict=True):
            self._know(output, later, axis)
        name = f"{node.name}/{LATER_STEPS}"
        self.nodes.append(ir.Node(domain, op_type, inputs, attributes, outputs=outputs, name=name))

    def _know(self, value: ir.Value, later: ir.Value, axis: int) -> None:
        self.later[value], self.rows.axes[value] = later, axis


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None, value.name
    return node


def _many_rows(value: ir.Value, axis: int, suffix: str) -> ir.Value:
    """A value like this one with more rows, which onnxruntime must not take for as many."""
    if not value.name:
        return ir.Value(name=value.name)  # an output that nobody asks for
    sizes = list(value.shape or ())
    if sizes:
        size = sizes[axis]
        name = str(size) if isinstance(size, int) else size.value
        sizes[axis] = ir.SymbolicDim(f"{name}/{LATER_STEPS}" if name else None)
    shape = None if value.shape is None else ir.Shape(sizes)
    return ir.Value(name=f"{value.name}/{suffix}", type=value.type, shape=shape)

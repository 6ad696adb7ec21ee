"""Neurons before what only moves values: bytes are moved instead of floats, and several neurons become one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.synapse import Floats
from pmsm_cli.lowering.codes import add_code
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.native import SPIKE_CODES
from pmsm_cli.lowering.parts import constant, is_op, read
from pmsm_cli.lowering.resting import STEP_CODES, STEP_QUANTA
from pmsm_cli.lowering.step_codes import CODES_BEFORE, FINEST, ZERO
from pmsm_cli.neuron.onnx_function import DOMAIN, LEVELS

_RESHAPING = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
_MOVING = (*_RESHAPING, "Transpose", "Slice", "Split")
# What neurons may have for each column, by operator; of StepCodes the rest of the inputs must be the same for all.
_PARAMETERS = {
    SPIKE_CODES: ("rest", "threshold", "zero", "lowest", "highest"),
    STEP_CODES: ("threshold", "rest"),
}

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Moved:
    """A tensor that holds columns of the one that everything starts from, times a factor and less an offset."""

    columns: Places  # of each element, for one image
    factor: Floats  # broadcasts against it, as the offset does
    offset: Floats

    @property
    def is_uniform(self) -> bool:
        """Whether all columns have the same factor and offset, so that nothing of these has to be moved as well."""
        return self.factor.ndim == 0 and self.offset.ndim == 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tree:
    """All that becomes of a tensor until neurons read it."""

    moves: list[ir.Node]
    neurons: list[ir.Node]
    moved: dict[ir.Value, _Moved]

    def columns_of(self, neuron: ir.Node) -> Places:
        """Of what neurons read."""
        return self.moved[read(neuron, 0)].columns


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Early:
    """Codes of neurons that come before the moves now, and the columns of them that others had."""

    code: ir.Value
    columns: Places


def neurons_before_moves(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Reshape, Split ..., Mul by constants and Sub of constants, then SpikeCodes -> SpikeCodes, then moves of codes.

    The same for StepCodes; those of later steps where those of the first have been moved alike. Preconditions: nothing
    else reads what is moved, and each entry of the first tensor's last axis ends with neurons of one kind.
    """
    changed = False
    early: dict[ir.Value, _Early] = {}
    for node in list(graph):
        start = node.outputs[0]
        moves = [each for each, _ in start.uses()]
        if node.op_type in _MOVING or not any(is_op(each, *_MOVING) for each in moves) or not _is_whole(start):
            continue
        tree = _tree_of(start)
        if tree is None or not tree.moves or not tree.neurons:
            continue
        parameters = _parameters_of(tree, tree.moved[start].columns.shape[-1])
        shared = _shared_by(tree, early)
        if parameters is not None and shared is not None:
            _move_neurons(graph, start, tree, parameters, shared, early)
            changed = True
    return changed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Shared:
    """What all neurons of a tree have in common: the operator, inputs behind those of columns, attributes."""

    op_type: str
    inputs: tuple[ir.Value, ...]
    attributes: tuple[ir.Attr, ...]


def _shared_by(tree: _Tree, early: Mapping[ir.Value, _Early]) -> _Shared | None:
    """None: there is nothing that they all have in common."""
    op_types = {neuron.op_type for neuron in tree.neurons}
    if op_types == {SPIKE_CODES}:
        return _Shared(op_type=SPIKE_CODES, inputs=(), attributes=(ir.AttrInt64("axis", -1),))
    if op_types != {STEP_CODES}:
        return None
    first = tree.neurons[0]
    levels = tuple(first.attributes[kind] for kind in LEVELS)
    for neuron in tree.neurons:
        alike = [
            np.array_equal(constant(read(neuron, at)), constant(read(first, at))) for at in (STEP_QUANTA, FINEST, ZERO)
        ]
        same = [neuron.attributes[each.name].as_int() == each.as_int() for each in levels]
        if not all(alike) or not all(same):
            return None
    inputs = [read(first, at) for at in (STEP_QUANTA, FINEST, ZERO)]
    if len(first.inputs) > CODES_BEFORE:
        before = [early.get(read(neuron, CODES_BEFORE)) for neuron in tree.neurons]
        code = None if before[0] is None else before[0].code
        for neuron, each in zip(tree.neurons, before, strict=True):
            if each is None or each.code is not code or not np.array_equal(each.columns, tree.columns_of(neuron)):
                return None
        assert code is not None
        inputs.append(code)
    return _Shared(op_type=STEP_CODES, inputs=tuple(inputs), attributes=levels)


def _is_whole(value: ir.Value) -> bool:
    """Whether a tensor of floats has a last axis of known size and stays inside the graph."""
    known = value.shape is not None and len(value.shape) > 1 and all(isinstance(size, int) for size in value.shape[1:])
    return known and value.dtype == ir.DataType.FLOAT and not value.is_graph_output()


def _tree_of(start: ir.Value) -> _Tree | None:
    """What reads a tensor, down to neurons; None where something else does too."""
    assert start.shape is not None
    shape = tuple(size if isinstance(size, int) else 1 for size in start.shape)
    columns = np.broadcast_to(np.arange(shape[-1]), shape)
    whole = _Moved(columns=columns, factor=np.ones((), np.float32), offset=np.zeros((), np.float32))
    tree = _Tree(moves=[], neurons=[], moved={start: whole})
    waiting = [start]
    while waiting:
        value = waiting.pop(0)
        if value.is_graph_output():
            return None
        for reader, index in value.uses():
            if is_op(reader, "Shape"):
                continue
            if reader.domain == DOMAIN and reader.op_type in _PARAMETERS and index == 0:
                tree.neurons.append(reader)
                continue
            outputs = _moved_by(reader, index, tree.moved[value])
            if outputs is None:
                return None
            tree.moved.update(outputs)
            tree.moves.append(reader)
            waiting += list(outputs)
    return tree


def _moved_by(node: ir.Node, index: int, given: _Moved) -> dict[ir.Value, _Moved] | None:
    """What a node makes of moved columns; None where it does more than move and scale them."""
    columns, output = given.columns, node.outputs[0]
    if is_op(node, "Mul") or (is_op(node, "Sub") and index == 0):
        known = constant(node.inputs[1 - index])
        if known is None or known.ndim > columns.ndim:
            return None
        if np.broadcast_shapes(known.shape, columns.shape) != columns.shape:
            return None
        if node.op_type == "Sub":
            return {output: replace(given, offset=given.offset + known)}
        factor, offset = given.factor * known, given.offset * known
        return {output: _Moved(columns=columns, factor=factor, offset=offset)} if (known > 0).all() else None
    if index != 0 or not is_op(node, *_MOVING) or not given.is_uniform:
        return None
    parts = _split(node, columns) if node.op_type == "Split" else [_rearranged(node, columns)]
    if any(part is None or part.size == 0 for part in parts):
        return None
    pairs = zip(node.outputs, parts, strict=True)
    return {value: replace(given, columns=part) for value, part in pairs if part is not None}


def _rearranged(node: ir.Node, columns: Places) -> Places | None:
    if node.op_type in _RESHAPING:
        shape = node.outputs[0].shape
        sizes = [] if shape is None else [size if isinstance(size, int) else -1 for size in shape]
        known = math.prod(size for size in sizes if size != -1)
        if not sizes or sizes.count(-1) > 1 or (columns.size % known if -1 in sizes else columns.size != known):
            return None
        return columns.reshape(sizes)
    if node.op_type == "Transpose":
        return columns.transpose(node.attributes.get_ints("perm", tuple(reversed(range(columns.ndim)))))
    return _sliced(node, columns)


def _sliced(node: ir.Node, columns: Places) -> Places | None:
    arrays = [constant(value) for value in node.inputs[1:]]
    if any(array is None for array in arrays) or len(arrays) < 2:
        return None
    starts, ends = arrays[:2]
    axes = arrays[2] if len(arrays) > 2 else np.arange(len(starts))
    steps = arrays[3] if len(arrays) > 3 else np.ones(len(starts), np.int64)
    cut = [slice(None)] * columns.ndim
    for axis, start, end, step in zip(axes.tolist(), starts.tolist(), ends.tolist(), steps.tolist(), strict=True):
        if columns.shape[axis] == 1 or step < 1:
            return None  # it may be the axis of the images, however many there are
        cut[axis] = slice(start, end, step)
    return columns[tuple(cut)]


def _split(node: ir.Node, columns: Places) -> list[Places | None]:
    sizes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axis = node.attributes.get_int("axis", 0)
    if sizes is None or columns.shape[axis] == 1:
        return [None]
    return list(np.split(columns, np.cumsum(sizes)[:-1], axis=axis))


def _parameters_of(tree: _Tree, columns: int) -> dict[str, npt.NDArray[np.generic]] | None:
    """What neurons have for each column; None where neurons of a column differ or a column has none."""
    found: dict[str, npt.NDArray[np.generic]] = {}
    taken = np.zeros(columns, bool)
    for neuron in tree.neurons:
        moved = tree.moved[read(neuron, 0)]
        kinds = _PARAMETERS[neuron.op_type]
        for kind, value in zip(kinds, neuron.inputs[1 : 1 + len(kinds)], strict=True):
            array = constant(value)
            if neuron.op_type == SPIKE_CODES and array.size > 1:
                array = array.reshape(-1, *(1,) * (-neuron.attributes["axis"].as_int() - 1))
            if kind == "rest":
                array = np.asarray((array + moved.offset) / moved.factor, np.float32)
            elif kind == "threshold":
                array = np.asarray(array / moved.factor, np.float32)
            each = np.broadcast_to(array, moved.columns.shape)
            of_columns = found.setdefault(kind, np.ones(columns, each.dtype))
            fresh = of_columns.copy()
            fresh[moved.columns] = each
            if (fresh[moved.columns] != each).any() or (taken & (fresh != of_columns)).any():
                return None
            found[kind] = fresh
        taken[moved.columns] = True
    return found if taken.all() else None


def _move_neurons(
    graph: ir.Graph,
    start: ir.Value,
    tree: _Tree,
    parameters: Mapping[str, npt.NDArray[np.generic]],
    shared: _Shared,
    early: dict[ir.Value, _Early],
) -> None:
    name = f"{start.name}/code_before_moves"
    inputs = [add_constant(graph, f"{name}/{kind}", parameters[kind]) for kind in _PARAMETERS[shared.op_type]]
    code = add_code(graph, name, start)
    neuron = ir.Node(
        DOMAIN, shared.op_type, [start, *inputs, *shared.inputs], shared.attributes, outputs=[code], name=name
    )
    producer = start.producer()
    assert producer is not None
    graph.insert_after(producer, neuron)
    codes = {start: code}
    for node in tree.moves:
        if is_op(node, "Mul", "Sub"):
            data = next(value for value in node.inputs if value in codes)
            codes[node.outputs[0]] = codes[data]  # the neurons have the factor and the offset
            continue
        outputs = [add_code(graph, f"{value.name}/codes", value) for value in node.outputs]
        data = codes[read(node, 0)]
        moved = ir.Node("", node.op_type, [data, *node.inputs[1:]], outputs=outputs, name=f"{node.name}/codes")
        moved.attributes.update(node.attributes)
        graph.insert_before(node, moved)
        codes.update(zip(node.outputs, outputs, strict=True))
    for old, new in codes.items():
        for reader, index in list(old.uses()):
            if is_op(reader, "Shape"):
                reader.replace_input_with(index, new)
    for neuron in tree.neurons:
        late = codes[read(neuron, 0)]
        early[late] = _Early(code=code, columns=tree.columns_of(neuron))
        ir.convenience.replace_all_uses_with(neuron.outputs[0], late, replace_graph_outputs=True)

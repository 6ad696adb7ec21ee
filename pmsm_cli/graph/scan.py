"""A network over timesteps: the first as it stands in the graph, the later ones in a `Scan` whose body is one of them.

The body holds a copy of every node whose value can change from step to step, and reads everything else (weights, the
layers that see only the image, shape arithmetic) from the graph around it, so that nothing constant is computed or
stored twice. The first timestep provides the state that the Scan starts from, for any batch and image size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.errors import UnsupportedGraphError
from pmsm_cli.graph.captures import inner_graphs
from pmsm_cli.graph.constants import add_constant

PER_STEP = "_per_step"
FIRST_STEP = "/first_step"  # in the names of an output's first values, where the output is all steps'
SCAN_NAME = "pmsm/timesteps"
_LAST = "pmsm/last"  # the constant that picks the last step


@dataclass(kw_only=True)
class State:
    """One loop-carried tensor: where it starts, and its names inside the body."""

    initial: ir.Value
    before: ir.Value
    after: ir.Value | None = None


@dataclass
class Timestep:
    """The body of the Scan while it is put together."""

    graph: ir.Graph  # around it: the first timestep
    nodes: list[ir.Node] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    inner: dict[ir.Value, ir.Value] = field(default_factory=dict)  # a value of the first step -> of a later one

    def running(self, value: ir.Value | None) -> ir.Value:
        """What a changing value of the first step is at a later one."""
        assert value is not None
        return self.inner[value]

    def read(self, value: ir.Value | None) -> ir.Value | None:
        """The same for any value: what does not change is read from the graph around."""
        return None if value is None else self.inner.get(value, value)

    def add_state(self, initial: ir.Value, kind: str = "") -> State:
        """A tensor carried from step to step, from its value at the first one on; `after` is still to be set.

        `kind` tells apart states that start from the same value.
        """
        state = State(initial=initial, before=like(initial, f"{kind}before"))
        self.states.append(state)
        return state

    def copy(self, node: ir.Node) -> ir.Node:
        """The same operator on the values of a later step.

        Raises:
            UnsupportedGraphError: it is control flow.
        """
        if inner_graphs(node):
            raise UnsupportedGraphError(
                "control flow after a spiking layer cannot run for more than one timestep",
                details=[f"{node.name}: {node.op_type}"],
                hint="convert with --timesteps 1",
            )
        inputs = [self.read(value) for value in node.inputs]
        outputs = [like(output, "later") for output in node.outputs]
        self.inner.update(zip(node.outputs, outputs, strict=True))
        return self.append(
            node.op_type,
            inputs,
            outputs,
            domain=node.domain,
            attributes=list(node.attributes.values()),
            name=f"{node.name}/later",
        )

    def append(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        outputs: list[ir.Value],
        *,
        name: str,
        domain: str = "",
        attributes: list[ir.Attr] | None = None,
    ) -> ir.Node:
        """A new operator of the body."""
        node = ir.Node(domain, op_type, inputs, attributes or [], outputs=outputs, name=name)
        self.nodes.append(node)
        return node


def add_scan(
    body: Timestep, *, timesteps: int, scanned: Mapping[str, tuple[ir.Value, npt.NDArray[np.float32]]]
) -> None:
    """Run the body for steps 2 to `timesteps` after the graph around it.

    `scanned` holds, by name, a scalar of the body and its values at these steps. The outputs keep their names and hold
    the last step; beside each, `<name>_per_step` holds all of them, [timesteps, ...].
    """
    graph = body.graph
    arrays = [add_constant(graph, name, array) for name, (_, array) in scanned.items()]
    firsts = list(graph.outputs)
    changing = [first for first in firsts if first in body.inner]
    # An output of the body must be made in the body, and no value may leave it twice.
    leaving = []
    for first in changing:
        copy = like(first, "step")
        body.nodes.append(ir.Node("", "Identity", [body.inner[first]], outputs=[copy], name=f"{copy.name}/Identity"))
        leaving.append(copy)
    ends = [state.after for state in body.states]
    inside = ir.Graph(
        [*(state.before for state in body.states), *(number for number, _ in scanned.values())],
        [*(end for end in ends if end is not None), *leaving],
        nodes=body.nodes,
        name="timestep",
    )
    stacked = [ir.Value(name=f"{first.name}/later_steps", type=first.type) for first in changing]
    scan = ir.Node(
        "",
        "Scan",
        [*(state.initial for state in body.states), *arrays],
        [ir.AttrGraph("body", inside), ir.AttrInt64("num_scan_inputs", len(arrays))],
        outputs=[*(ir.Value(name=f"{state.before.name}/end") for state in body.states), *stacked],
        name=SCAN_NAME,
    )
    graph.append(scan)
    _replace_outputs(graph, firsts, dict(zip(changing, stacked, strict=True)), timesteps)


def _replace_outputs(
    graph: ir.Graph, firsts: list[ir.Value], stacked: dict[ir.Value, ir.Value], timesteps: int
) -> None:
    names = {value.name or "" for value in firsts}
    if taken := sorted(name for name in names if f"{name}{PER_STEP}" in names):
        raise UnsupportedGraphError(
            f"there is an output {taken[0]}{PER_STEP}, as all timesteps of its output {taken[0]} would be called",
            hint="give the output another name, or convert it for a single timestep",
        )
    axes = add_constant(graph, "pmsm/axis", np.array([0], np.int64))
    last_index = add_constant(graph, _LAST, np.array(timesteps - 1, np.int64))
    lasts, all_steps = [], []
    for first in firsts:
        name, shape, dtype = first.name, first.shape, first.dtype
        given = first.is_graph_input() or first.is_initializer()  # leaves as it came, under its own name
        if not given:
            first.name = f"{name}{FIRST_STEP}"
        unsqueezed = ir.Value(name=f"{name}{FIRST_STEP}/unsqueezed")
        per_step = ir.Value(name=f"{name}{PER_STEP}", type=first.type)
        if shape is not None:
            per_step.shape = ir.Shape([timesteps, *shape])
        parts = [unsqueezed, stacked[first]] if first in stacked else [unsqueezed] * timesteps
        graph.extend(
            [
                ir.Node("", "Unsqueeze", [first, axes], outputs=[unsqueezed], name=f"{name}/unsqueeze"),
                ir.Node("", "Concat", parts, [ir.AttrInt64("axis", 0)], outputs=[per_step], name=f"{name}/per_step"),
            ]
        )
        all_steps.append(per_step)
        if given:
            lasts.append(first)
            continue
        last = ir.Value(name=name, type=ir.TensorType(dtype) if dtype else None, shape=shape)
        axis = ir.AttrInt64("axis", 0)
        graph.append(ir.Node("", "Gather", [per_step, last_index], [axis], outputs=[last], name=f"{name}/last"))
        lasts.append(last)
    graph.outputs.clear()
    graph.outputs.extend([*lasts, *all_steps])


def like(value: ir.Value, suffix: str) -> ir.Value:
    """A new value of the same type and shape."""
    return ir.Value(name=f"{value.name}/{suffix}", type=value.type, shape=value.shape)


def scalar(name: str) -> ir.Value:
    """A new value that holds one number."""
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))


def timesteps_of(graph: ir.Graph) -> int | None:
    """How many timesteps a graph runs; None where that is not to be seen any more."""
    last = graph.initializers.get(_LAST)
    return None if last is None or last.const_value is None else int(last.const_value.numpy()) + 1

"""More than one timestep: the first as it stands, the later ones in a `Scan` whose body is one timestep.

The body holds a copy of every node whose value can change from step to step, and reads everything else (weights, the
layers that see only the image, shape arithmetic) from the graph around it, so that nothing constant is computed or
stored twice. By the rule of running values:

    a neuron       emits what its running value still lacks; its state is the count emitted so far
    a synapse      adds the current of this step's spikes to its membrane, C_t = C_{t-1} + r_t W s_t; U_t = C_t / m_t
    a product      of two spiking tensors is kept up likewise: A_t B_t = A_{t-1} B_{t-1} + dA_t B_t + A_{t-1} dB_t
    a row sum      of spikes, which divides such a product, is that of the counts emitted so far
    anything else  is evaluated on running values

with the coding's two numbers m_t and r_t (`pmsm_cli.neuron.coding`). At the first step C_1 is the synapse's own output
and the emitted count is the spikes themselves, so that the first timestep provides the state that the Scan starts from,
for any batch and image size.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from pmsm_cli.errors import UnsupportedGraphError
from pmsm_cli.graph.captures import SHAPE_ONLY, inner_graphs, values_read
from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.insert import spikes_name
from pmsm_cli.graph.matching import is_correcting
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.synapse import SYNAPTIC_OPS
from pmsm_cli.neuron.coding import Coding, later_negative_levels
from pmsm_cli.neuron.onnx_function import DOMAIN, NEURON, NEURON_STEP, neuron_step_function

PER_STEP = "_per_step"
SCAN_NAME = "pmsm/timesteps"


def unroll_timesteps(spiking: ir.Model, plan: SitePlan, *, timesteps: int, coding: Coding) -> ir.Model:
    """A copy of a one-timestep spiking graph that runs `timesteps` (2 or more) steps.

    The outputs keep their names and hold the last step; beside each, `<name>_per_step` holds all of them,
    [timesteps, ...].
    """
    if timesteps < 2:
        raise ValueError(f"one timestep needs no Scan: {timesteps}")
    model = spiking.clone()
    later = _LaterSteps(model.graph, {spikes_name(site.name) for site in plan.sites}, coding)
    later.add_nodes()
    _add_scan(model.graph, later, timesteps, coding)
    function = neuron_step_function(model.graph.opset_imports[""])
    model.functions[function.identifier()] = function
    return model


@dataclass(kw_only=True)
class _State:
    """One loop-carried tensor: where it starts, and its names inside the body."""

    initial: ir.Value
    before: ir.Value
    after: ir.Value | None = None


@dataclass
class _LaterSteps:
    """The body of the Scan while it is put together."""

    graph: ir.Graph
    spikes: set[str]
    coding: Coding
    nodes: list[ir.Node] = field(default_factory=list)
    states: list[_State] = field(default_factory=list)
    inner: dict[ir.Value, ir.Value] = field(default_factory=dict)  # a value of the first step -> of a later one

    neurons: dict[ir.Value, _State] = field(default_factory=dict)  # spikes of the first step -> their neurons' state

    def __post_init__(self) -> None:
        self.horizon = _scalar("pmsm/horizon")
        self.quantum = _scalar("pmsm/quantum")

    def add_nodes(self) -> None:
        """Copy every node downstream of a neuron, in order."""
        for node in self.graph:
            is_neuron = node.domain == DOMAIN and node.op_type == NEURON
            reads_changing = any(value in self.inner for value in values_read(node))
            if is_neuron:
                self._add_neuron(node)
            elif reads_changing and is_correcting(node):
                self.inner[node.outputs[0]] = self._running(node.inputs[0])  # later steps correct by spikes
            elif reads_changing and self._is_spiking_product(node):
                self._add_product(node)
            elif node.op_type == "ReduceSum" and node.inputs[0] in self.neurons:
                self._add_row_sum(node)
            elif reads_changing and node.op_type not in SHAPE_ONLY:
                copy = self._copy(node)
                if any(value is not None and value.name in self.spikes for value in node.inputs):
                    self._add_membrane(node, copy)

    def _is_spiking_product(self, node: ir.Node) -> bool:
        return node.op_type == "MatMul" and all(value in self.neurons for value in node.inputs)

    def _running(self, value: ir.Value | None) -> ir.Value:
        assert value is not None
        return self.inner[value]

    def _read(self, value: ir.Value | None) -> ir.Value | None:
        return None if value is None else self.inner.get(value, value)

    def _add_neuron(self, node: ir.Node) -> None:
        (spikes,) = node.outputs
        value, threshold = node.inputs
        positive = int(node.attributes["positive_levels"].as_int())
        negative = later_negative_levels(int(node.attributes["negative_levels"].as_int()), positive)
        state = self._add_state(spikes)  # k_1 = r_1 s_1 = s_1
        now = _like(spikes, "later")
        state.after = _like(spikes, "emitted")
        self.neurons[spikes] = state
        self.inner[spikes] = now
        self._append(
            NEURON_STEP,
            [self._read(value), threshold, state.before, self.horizon, self.quantum],
            [now, state.after],
            domain=DOMAIN,
            attributes=[ir.AttrInt64("negative_levels", negative), ir.AttrInt64("positive_levels", positive)],
            name=f"{node.name}/later",
        )

    def _copy(self, node: ir.Node) -> ir.Node:
        if inner_graphs(node):
            raise UnsupportedGraphError(
                "control flow after a spiking layer cannot run for more than one timestep",
                details=[f"{node.name}: {node.op_type}"],
                hint="convert with --timesteps 1",
            )
        inputs = [self._read(value) for value in node.inputs]
        outputs = [_like(output, "later") for output in node.outputs]
        self.inner.update(zip(node.outputs, outputs, strict=True))
        return self._append(
            node.op_type,
            inputs,
            outputs,
            domain=node.domain,
            attributes=list(node.attributes.values()),
            name=f"{node.name}/later",
        )

    def _add_membrane(self, node: ir.Node, copy: ir.Node) -> None:
        assert node.op_type in SYNAPTIC_OPS, node.op_type
        (first,), (current,) = node.outputs, copy.outputs
        state = self._add_state(first)
        weighted = current
        if self.coding is Coding.REFINE:
            # m_t - m_{t-1} = 0: the bias was added once, in the first step, and stays in the membrane.
            if len(copy.inputs) > 2:
                copy.replace_input_with(2, None)
                copy.resize_inputs(2)
            weighted = _like(first, "weighted")
            self._append("Mul", [current, self.quantum], [weighted], name=f"{node.name}/weighted")
        # In `rate` the bias is a current of every step: m_t - m_{t-1} = 1, and the quantum is 1.
        state.after = _like(first, "membrane")
        self._append("Add", [state.before, weighted], [state.after], name=f"{node.name}/membrane")
        running = state.after
        if self.coding is Coding.RATE:
            running = _like(first, "running")
            self._append("Div", [state.after, self.horizon], [running], name=f"{node.name}/running")
        self.inner[first] = running

    def _add_product(self, node: ir.Node) -> None:
        """k_A k_B, kept up by this step's spikes: + r (s_A k_B, after the step) + r (k_A, before it, s_B)."""
        left, right = node.inputs
        assert left is not None
        assert right is not None
        (first,) = node.outputs
        state = self._add_state(first)
        by_left, by_right, both = (_like(first, suffix) for suffix in ("by_left", "by_right", "by_both"))
        weighted, state.after = _like(first, "weighted"), _like(first, "kept_up")
        name = node.name
        self._append("MatMul", [self.inner[left], self.neurons[right].after], [by_left], name=f"{name}/by_left")
        self._append("MatMul", [self.neurons[left].before, self.inner[right]], [by_right], name=f"{name}/by_right")
        self._append("Add", [by_left, by_right], [both], name=f"{name}/by_both")
        self._append("Mul", [both, self.quantum], [weighted], name=f"{name}/weighted")
        self._append("Add", [state.before, weighted], [state.after], name=f"{name}/kept_up")
        running = state.after
        if self.coding is Coding.RATE:  # A_t B_t = theta_A theta_B k_A k_B / m_t^2
            once, running = _like(first, "over_horizon"), _like(first, "running")
            self._append("Div", [state.after, self.horizon], [once], name=f"{name}/over_horizon")
            self._append("Div", [once, self.horizon], [running], name=f"{name}/running")
        self.inner[first] = running

    def _add_row_sum(self, node: ir.Node) -> None:
        """The sum of the running counts, k_t / m_t: what a product of running counts is divided by."""
        spikes, axes = node.inputs
        (first,) = node.outputs
        assert spikes is not None
        emitted = sums = _like(first, "emitted")
        name, attributes = node.name, list(node.attributes.values())
        inputs = [self.neurons[spikes].after, axes]
        self._append("ReduceSum", inputs, [emitted], name=f"{name}/emitted", attributes=attributes)
        if self.coding is Coding.RATE:
            sums = _like(first, "running")
            self._append("Div", [emitted, self.horizon], [sums], name=f"{name}/running")
        self.inner[first] = sums

    def _add_state(self, initial: ir.Value) -> _State:
        state = _State(initial=initial, before=_like(initial, "before"))
        self.states.append(state)
        return state

    def _append(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        outputs: list[ir.Value],
        *,
        name: str,
        domain: str = "",
        attributes: list[ir.Attr] | None = None,
    ) -> ir.Node:
        node = ir.Node(domain, op_type, inputs, attributes or [], outputs=outputs, name=name)
        self.nodes.append(node)
        return node


def _add_scan(graph: ir.Graph, later: _LaterSteps, timesteps: int, coding: Coding) -> None:
    steps = [coding.at(step) for step in range(2, timesteps + 1)]
    numbers = {
        "pmsm/horizons": np.array([step.horizon for step in steps], np.float32),
        "pmsm/quanta": np.array([step.quantum for step in steps], np.float32),
    }
    scanned = [add_constant(graph, name, array) for name, array in numbers.items()]

    firsts = list(graph.outputs)
    changing = [first for first in firsts if first in later.inner]
    # An output of the body must be made in the body, and no value may leave it twice.
    leaving = []
    for first in changing:
        copy = _like(first, "step")
        later.nodes.append(ir.Node("", "Identity", [later.inner[first]], outputs=[copy], name=f"{copy.name}/Identity"))
        leaving.append(copy)
    ends = [state.after for state in later.states]
    body = ir.Graph(
        [*(state.before for state in later.states), later.horizon, later.quantum],
        [*(end for end in ends if end is not None), *leaving],
        nodes=later.nodes,
        name="timestep",
    )
    stacked = [ir.Value(name=f"{first.name}/later_steps", type=first.type) for first in changing]
    scan = ir.Node(
        "",
        "Scan",
        [*(state.initial for state in later.states), *scanned],
        [ir.AttrGraph("body", body), ir.AttrInt64("num_scan_inputs", len(scanned))],
        outputs=[*(ir.Value(name=f"{state.initial.name}/end") for state in later.states), *stacked],
        name=SCAN_NAME,
    )
    graph.append(scan)
    _replace_outputs(graph, firsts, dict(zip(changing, stacked, strict=True)), timesteps)


def _replace_outputs(
    graph: ir.Graph, firsts: list[ir.Value], stacked: dict[ir.Value, ir.Value], timesteps: int
) -> None:
    axes = add_constant(graph, "pmsm/axis", np.array([0], np.int64))
    last_index = add_constant(graph, "pmsm/last", np.array(timesteps - 1, np.int64))
    lasts, all_steps = [], []
    for first in firsts:
        name, shape, dtype = first.name, first.shape, first.dtype
        given = first.is_graph_input() or first.is_initializer()  # leaves as it came, under its own name
        if not given:
            first.name = f"{name}/first_step"
        unsqueezed = ir.Value(name=f"{name}/first_step/unsqueezed")
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


def _like(value: ir.Value, suffix: str) -> ir.Value:
    return ir.Value(name=f"{value.name}/{suffix}", type=value.type, shape=value.shape)


def _scalar(name: str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))

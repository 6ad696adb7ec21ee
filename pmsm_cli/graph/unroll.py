"""More than one timestep: the first as it stands, the later ones in a `Scan` whose body is one timestep.

What changes from step to step is in the body (`pmsm_cli.graph.scan`), by the rule of running values:

    a neuron       emits what its running value still lacks; its state is the count emitted so far
    a synapse      adds the current of this step's spikes to its membrane, C_t = C_{t-1} + r_t W s_t; U_t = C_t / m_t
    a product      of two spiking tensors is kept up likewise: A_t B_t = A_{t-1} B_{t-1} + dA_t B_t + A_{t-1} dB_t
    a row sum      of spikes, which divides such a product, is that of the counts emitted so far
    anything else  is evaluated on running values

with the coding's two numbers m_t and r_t (`pmsm_cli.neuron.coding`). At the first step C_1 is the synapse's own output
and the emitted count is the spikes themselves, which is the state that the Scan starts from.
"""

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.captures import SHAPE_ONLY, values_read
from pmsm_cli.graph.insert import spikes_name
from pmsm_cli.graph.matching import is_correcting
from pmsm_cli.graph.scan import State, Timestep, add_scan, like, scalar
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.synapse import SYNAPTIC_OPS
from pmsm_cli.neuron.coding import Coding, later_negative_levels
from pmsm_cli.neuron.onnx_function import DOMAIN, NEURON, NEURON_STEP, neuron_step_function


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
    steps = [coding.at(step) for step in range(2, timesteps + 1)]
    scanned = {
        "pmsm/horizons": (later.horizon, np.array([step.horizon for step in steps], np.float32)),
        "pmsm/quanta": (later.quantum, np.array([step.quantum for step in steps], np.float32)),
    }
    add_scan(later, timesteps=timesteps, scanned=scanned)
    function = neuron_step_function(model.graph.opset_imports[""])
    model.functions[function.identifier()] = function
    return model


class _LaterSteps(Timestep):
    """One of the later timesteps, while it is put together."""

    def __init__(self, graph: ir.Graph, spikes: set[str], coding: Coding) -> None:
        super().__init__(graph)
        self.spikes, self.coding = spikes, coding
        self.neurons: dict[ir.Value, State] = {}  # spikes of the first step -> their neurons' state
        self.horizon = scalar("pmsm/horizon")
        self.quantum = scalar("pmsm/quantum")

    def add_nodes(self) -> None:
        """Copy every node downstream of a neuron, in order."""
        for node in self.graph:
            is_neuron = node.domain == DOMAIN and node.op_type == NEURON
            reads_changing = any(value in self.inner for value in values_read(node))
            if is_neuron:
                self._add_neuron(node)
            elif reads_changing and is_correcting(node):
                self.inner[node.outputs[0]] = self.running(node.inputs[0])  # later steps correct by spikes
            elif reads_changing and self._is_spiking_product(node):
                self._add_product(node)
            elif node.op_type == "ReduceSum" and node.inputs[0] in self.neurons:
                self._add_row_sum(node)
            elif reads_changing and node.op_type not in SHAPE_ONLY:
                copy = self.copy(node)
                if any(value is not None and value.name in self.spikes for value in node.inputs):
                    self._add_membrane(node, copy)

    def _is_spiking_product(self, node: ir.Node) -> bool:
        return node.op_type == "MatMul" and all(value in self.neurons for value in node.inputs)

    def _add_neuron(self, node: ir.Node) -> None:
        (spikes,) = node.outputs
        value, threshold = node.inputs
        positive = int(node.attributes["positive_levels"].as_int())
        negative = later_negative_levels(int(node.attributes["negative_levels"].as_int()), positive)
        state = self.add_state(spikes)  # k_1 = r_1 s_1 = s_1
        now = like(spikes, "later")
        state.after = like(spikes, "emitted")
        self.neurons[spikes] = state
        self.inner[spikes] = now
        self.append(
            NEURON_STEP,
            [self.read(value), threshold, state.before, self.horizon, self.quantum],
            [now, state.after],
            domain=DOMAIN,
            attributes=[ir.AttrInt64("negative_levels", negative), ir.AttrInt64("positive_levels", positive)],
            name=f"{node.name}/later",
        )

    def _add_membrane(self, node: ir.Node, copy: ir.Node) -> None:
        assert node.op_type in SYNAPTIC_OPS, node.op_type
        (first,), (current,) = node.outputs, copy.outputs
        state = self.add_state(first)
        weighted = current
        if self.coding is Coding.REFINE:
            # m_t - m_{t-1} = 0: the bias was added once, in the first step, and stays in the membrane.
            if len(copy.inputs) > 2:
                copy.replace_input_with(2, None)
                copy.resize_inputs(2)
            weighted = like(first, "weighted")
            self.append("Mul", [current, self.quantum], [weighted], name=f"{node.name}/weighted")
        # In `rate` the bias is a current of every step: m_t - m_{t-1} = 1, and the quantum is 1.
        state.after = like(first, "membrane")
        self.append("Add", [state.before, weighted], [state.after], name=f"{node.name}/membrane")
        running = state.after
        if self.coding is Coding.RATE:
            running = like(first, "running")
            self.append("Div", [state.after, self.horizon], [running], name=f"{node.name}/running")
        self.inner[first] = running

    def _add_product(self, node: ir.Node) -> None:
        """k_A k_B, kept up by this step's spikes: + r (s_A k_B, after the step) + r (k_A, before it, s_B)."""
        left, right = node.inputs
        assert left is not None
        assert right is not None
        (first,) = node.outputs
        state = self.add_state(first)
        by_left, by_right, both = (like(first, suffix) for suffix in ("by_left", "by_right", "by_both"))
        weighted, state.after = like(first, "weighted"), like(first, "kept_up")
        name = node.name
        self.append("MatMul", [self.inner[left], self.neurons[right].after], [by_left], name=f"{name}/by_left")
        self.append("MatMul", [self.neurons[left].before, self.inner[right]], [by_right], name=f"{name}/by_right")
        self.append("Add", [by_left, by_right], [both], name=f"{name}/by_both")
        self.append("Mul", [both, self.quantum], [weighted], name=f"{name}/weighted")
        self.append("Add", [state.before, weighted], [state.after], name=f"{name}/kept_up")
        running = state.after
        if self.coding is Coding.RATE:  # A_t B_t = theta_A theta_B k_A k_B / m_t^2
            once, running = like(first, "over_horizon"), like(first, "running")
            self.append("Div", [state.after, self.horizon], [once], name=f"{name}/over_horizon")
            self.append("Div", [once, self.horizon], [running], name=f"{name}/running")
        self.inner[first] = running

    def _add_row_sum(self, node: ir.Node) -> None:
        """The sum of the running counts, k_t / m_t: what a product of running counts is divided by."""
        spikes, axes = node.inputs
        (first,) = node.outputs
        assert spikes is not None
        emitted = sums = like(first, "emitted")
        name, attributes = node.name, list(node.attributes.values())
        inputs = [self.neurons[spikes].after, axes]
        self.append("ReduceSum", inputs, [emitted], name=f"{name}/emitted", attributes=attributes)
        if self.coding is Coding.RATE:
            sums = like(first, "running")
            self.append("Div", [emitted, self.horizon], [sums], name=f"{name}/running")
        self.inner[first] = sums

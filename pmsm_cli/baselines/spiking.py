"""A network of the baselines' neurons as a graph over timesteps, with the counts of what it spends.

Each node of the source has one of three forms at a later timestep:

    an activation   is its neurons: this step's current and the membrane in, theta times the spikes out
    linear          is itself: it makes this step's currents of this step's currents; a bias is a current of each step
    anything else   is evaluated on averages: with X_t the sum of its inputs over the steps so far, F_t = t f(X_t / t),
                    and what it passes on at this step is F_t - F_{t-1}

so that every tensor's average over the steps is what the source's operators make of the averages of what neurons emit;
outputs are these averages. For max pooling this passes on the spikes of the neuron that has emitted most so far
(Rueckauer et al., Front. Neurosci. 11 (2017): gates that follow the neuron of the highest rate so far).
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.baselines.counting import add_counts
from pmsm_cli.baselines.neuron import BaselineNeurons
from pmsm_cli.baselines.onnx_function import (
    DOMAIN,
    DOMAIN_VERSION,
    INTEGRATE_AND_FIRE,
    SIGNED_WITH_MEMORY,
    baseline_functions,
)
from pmsm_cli.baselines.plan import MAXIMUM_OPS, NeuronPlan, is_linear
from pmsm_cli.graph.captures import SHAPE_ONLY, values_read
from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.scan import Timestep, add_scan, like, scalar
from pmsm_cli.graph.sites import SitePlan

TOTAL = "total/"  # in the names of states that hold what an operator on averages has passed on so far


def spiking_model(
    network: Network,
    plan: SitePlan,
    neuron_plan: NeuronPlan,
    neurons: Mapping[str, BaselineNeurons],
    shapes: Mapping[str, Shape],
    *,
    timesteps: int,
    counting: bool = True,
) -> ir.Model:
    """A copy of the network with the named neurons, over `timesteps` steps.

    Outputs: the source's, averaged over the steps so far, then, with `counting`, the counts of
    `pmsm_cli.baselines.counting`; with more than one step also `<name>_per_step` of each. `plan` and `shapes` (of one
    image, or the fixed batch) are the source's; the counts need them.
    """
    model = network.model.clone()
    graph = model.graph
    step = _LaterStep(graph)
    for node in list(graph):
        changes = any(value in step.inner for value in values_read(node))
        name = node.outputs[0].name or ""
        if name in neuron_plan.names:
            step.add_neurons(node, neurons[name])
        elif changes and node.op_type not in SHAPE_ONLY:
            if is_linear(node, step.inner):
                step.copy(node)
            else:
                step.add_average(node)
    sources = list(graph.outputs)
    if counting:
        add_counts(step, plan, step.spikes, shapes)
    for output in sources:
        step.average_output(output)
    if timesteps > 1:
        numbers = np.arange(2, timesteps + 1, dtype=np.float32)
        add_scan(step, timesteps=timesteps, scanned={"pmsm/steps": (step.number, numbers)})
    graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    for function in baseline_functions(network.opset):
        model.functions[function.identifier()] = function
    return model


class _LaterStep(Timestep):
    """One of the later timesteps while it is put together; the graph around it becomes the first one."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__(graph)
        self.number = scalar("pmsm/step")  # t
        self.spikes: dict[str, ir.Value] = {}  # activation -> its neurons' spikes at the first step
        # A value of the first step -> its sum and its average over the steps so far
        self._sums: dict[ir.Value, ir.Value] = {}
        self._averages: dict[ir.Value, ir.Value] = {}

    def add_neurons(self, node: ir.Node, neurons: BaselineNeurons) -> None:
        """Put neurons in the place of an activation."""
        current, (activation,) = node.inputs[0], node.outputs
        name = activation.name
        activation.name = f"{name}/of_the_source"
        carried = ir.Value(name=name, type=activation.type, shape=activation.shape)
        threshold = add_constant(self.graph, f"{name}/threshold", neurons.threshold)
        before = add_constant(self.graph, f"{name}/start", neurons.initial_membrane)
        results = [like(carried, "spikes"), carried, like(carried, "membrane")]
        inputs = [current, threshold, before]
        if neurons.signed:
            inputs.append(add_constant(self.graph, f"{name}/nothing", np.zeros((), np.float32)))
            results.append(like(carried, "emitted"))
        op_type = SIGNED_WITH_MEMORY if neurons.signed else INTEGRATE_AND_FIRE
        first = ir.Node(DOMAIN, op_type, inputs, outputs=results, name=f"{name}/neurons")
        self.graph.insert_before(node, first)
        ir.convenience.replace_all_uses_with(activation, carried, replace_graph_outputs=True)
        self.graph.remove(node)
        states = [self.add_state(result) for result in results[2:]]
        later = [like(result, "later") for result in results]
        self.append(
            op_type,
            [self.read(current), threshold, *(state.before for state in states)],
            later,
            domain=DOMAIN,
            name=f"{name}/neurons/later",
        )
        for state, after in zip(states, later[2:], strict=True):
            state.after = after
        self.inner[results[0]], self.inner[results[1]] = later[:2]
        self.spikes[name or ""] = results[0]

    def add_average(self, node: ir.Node) -> None:
        """Evaluate an operator on the averages over the steps so far, and pass on by how much its sum grew."""
        scales = node.op_type not in MAXIMUM_OPS  # the maximum of sums is the sum that belongs to the maximal average
        averages: dict[ir.Value, ir.Value] = {}
        for value in values_read(node):
            if value in self.inner:
                averages[value] = self._average_of(value) if scales else self._sum_of(value)
        outputs = [like(output, "of_averages") for output in node.outputs]
        self.append(
            node.op_type,
            [None if value is None else averages.get(value, value) for value in node.inputs],
            outputs,
            domain=node.domain,
            attributes=list(node.attributes.values()),
            name=f"{node.name}/later",
        )
        for output, average in zip(node.outputs, outputs, strict=True):
            total = average
            if scales:
                total = like(output, "total")
                self.append("Mul", [average, self.number], [total], name=f"{node.name}/total")
            state = self.add_state(output, TOTAL)
            state.after = total
            growth = like(output, "later")
            self.append("Sub", [total, state.before], [growth], name=f"{node.name}/growth")
            self.inner[output] = growth

    def average_output(self, output: ir.Value) -> None:
        """Have a source's output leave as the average of its currents so far."""
        if output in self.inner:
            self.inner[output] = self._average_of(output)

    def _sum_of(self, value: ir.Value) -> ir.Value:
        if value not in self._sums:
            state = self.add_state(value, "sum/")
            state.after = self._sums[value] = like(value, "sum")
            self.append("Add", [state.before, self.inner[value]], [state.after], name=f"{value.name}/sum")
        return self._sums[value]

    def _average_of(self, value: ir.Value) -> ir.Value:
        if value not in self._averages:
            self._averages[value] = like(value, "average")
            inputs: list[ir.Value | None] = [self._sum_of(value), self.number]
            self.append("Div", inputs, [self._averages[value]], name=f"{value.name}/average")
        return self._averages[value]

"""The networks that a report sets side by side, and what one of their layers costs by a profile.

All of them run layer by layer on the same machine, so that only what sets them apart makes a difference. Numbers are pJ
for one image. docs/energy.md has the formulas.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pmsm_cli.energy.constants import EnergyProfile, MemoryLevel
from pmsm_cli.graph.operations import Operations
from pmsm_cli.graph.work import RESTING, SUM_BITS, LayerWork, RestWork, Work

_WORD = 64  # bits that a memory's energy is stated for
QUANTISING = Operations(multiply=1, compare=3)  # over a threshold, rounded, within two bounds


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One network of the comparison."""

    name: str
    label: str
    weight_bits: int
    value_bits: int  # of activations, where they are no spikes
    integer: bool  # whether it computes in whole numbers
    converted: bool = False  # whether it has what conversion adds to the source: at one step these are one network
    spiking: bool = False


ANN = Column(name="ann", label="source, fp32", weight_bits=32, value_bits=32, integer=False)
ANN_INT8 = Column(name="ann_int8", label="source, int8", weight_bits=8, value_bits=8, integer=True)
QUANTISED = Column(
    name="quantised", label="quantised, zeros skipped", weight_bits=8, value_bits=8, integer=True, converted=True
)
SNN = Column(
    name="snn",
    label="spiking, fp32 weights",
    weight_bits=32,
    value_bits=32,
    integer=False,
    converted=True,
    spiking=True,
)
SNN_INT8 = Column(
    name="snn_int8",
    label="spiking, int8 weights",
    weight_bits=8,
    value_bits=8,
    integer=True,
    converted=True,
    spiking=True,
)
COLUMNS = (ANN, ANN_INT8, QUANTISED, SNN, SNN_INT8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Energy in pJ; `variable` is the part of it that grows with the spikes."""

    compute: float = 0.0
    memory: float = 0.0
    variable: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Both."""
        return Cost(
            compute=self.compute + other.compute,
            memory=self.memory + other.memory,
            variable=self.variable + other.variable,
        )

    @property
    def total(self) -> float:
        """Compute and memory."""
        return self.compute + self.memory


def total_of(costs: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    return sum(costs, Cost())


@dataclass(frozen=True, kw_only=True, slots=True)
class Map:
    """A tensor that layers read, as one pass finds it."""

    neurons: int
    firing: float  # how many of them are not 0
    events: float  # times their synapses: what there is to do for those that are not 0
    macs: float  # what there is to do for all
    bits: int  # of a value, or of a spike's size and sign
    layers: tuple[LayerWork, ...]  # that read it in this pass


class Bill:
    """What work costs by one profile."""

    def __init__(self, profile: EnergyProfile, work: Work | None, *, state_bits: float) -> None:
        """`work` is that of the whole network, `state_bits` what it keeps from step to step."""
        self.profile = profile
        self._constants = {column.name: work.constants(added=column.converted) if work else 0 for column in COLUMNS}
        self._state_bits = state_bits

    # Synapses

    def dense(self, values: Map, column: Column) -> Cost:
        """A layer of the source: every product, whatever its value."""
        cost = self.profile.picojoule
        mac = cost.mac_int8 if column.integer else cost.mac_fp32
        memory = self._dense_order(values, column) + self._move(values.neurons * values.bits, self._home_of(values))
        return Cost(compute=values.macs * mac, memory=memory) + self._quantising(values.neurons, column)

    def quantised(self, values: Map, column: Column) -> Cost:
        """The same layer on few levels: products of values that are not 0; an integer product by its width."""
        cost = self.profile.picojoule
        product = (cost.mac_int8 - cost.accumulate_int8) * values.bits / 8 + cost.accumulate_int8
        memory, _ = self._sparse(values, column)
        return Cost(compute=values.events * product, memory=memory) + self._quantising(values.neurons, column)

    def spiking(self, values: Map, column: Column, accumulates: float) -> Cost:
        """The same layer driven by the spikes of one step."""
        cost = self.profile.picojoule
        if cost.graded_event is not None:
            drive, memory, moved = values.events * cost.graded_event, 0.0, 0.0
        else:
            drive = accumulates * (cost.accumulate_int8 if column.integer else cost.accumulate_fp32)
            memory, moved = self._sparse(values, column)
        return Cost(compute=drive, memory=memory, variable=drive + moved)

    def neurons(self, neurons: int, firing: float, arithmetic: Operations) -> Cost:
        """Neurons at one step, of which so many fire, each with its arithmetic or as the machine has them."""
        machine = self.profile.neuron
        if machine is None:
            return Cost(compute=self.arithmetic(arithmetic, integer=False) * neurons)
        sent = firing * machine.spike
        return Cost(compute=firing * machine.active + (neurons - firing) * machine.idle + sent)

    def kept(self, bits: float, *, step: int, timesteps: int) -> Cost:
        """Membranes and counts, written for the next step and read from the one before."""
        times = 0 if self.profile.picojoule.graded_event is not None else (step > 0) + (step < timesteps - 1)
        return Cost(memory=times * self._move(bits, self._home(self._state_bits)))

    # What is no synapse of spikes

    def arithmetic(self, operations: Operations, *, integer: bool) -> float:
        """What operations cost; in whole numbers where the network has them and nothing else is needed."""
        cost, rest = self.profile.picojoule, self.profile.rest
        if rest is None:
            return 0.0
        if integer and operations.is_linear:
            product = cost.mac_int8 - cost.accumulate_int8
            return operations.multiply * product + (operations.add + operations.compare) * cost.accumulate_int8
        return (
            operations.add * cost.accumulate_fp32
            + operations.multiply * (cost.mac_fp32 - cost.accumulate_fp32)
            + operations.compare * rest.compare
            + operations.exponential * rest.exponential
            + operations.divide * rest.divide
            + operations.root * rest.root
        )

    def rest(self, work: RestWork, column: Column, *, later: bool = False) -> Cost:
        """The arithmetic beside synapses of one kind, at the first or at a later step."""
        if column.spiking and work.kind == RESTING and self.profile.neuron is not None:
            return Cost()  # biases of the machine's neurons, part of their updates
        operations = work.later if later else work.first
        waiting = work.waiting_later if later else work.waiting_first
        constants = work.constants_later if later else work.constants_first
        bits = [size * column.value_bits for size in waiting]
        memory = self._move(constants * column.weight_bits, self._home_of_constants(column))
        # Written, and read when what they wait for is complete.
        memory += sum(2 * self._move(each, self._home(each)) for each in bits)
        return Cost(compute=self.arithmetic(operations, integer=column.integer), memory=memory)

    def analog(self, layer: LayerWork | None, macs: int, column: Column) -> Cost:
        """A layer that no spikes drive."""
        layers = (layer,) if layer else ()
        inputs = layer.inputs if layer else 0
        values = Map(neurons=inputs, firing=inputs, events=macs, macs=macs, bits=column.value_bits, layers=layers)
        cost = self.profile.picojoule
        mac = cost.mac_int8 if column.integer else cost.mac_fp32
        return Cost(compute=macs * mac, memory=self._dense_order(values, column))

    # Memory

    def _quantising(self, neurons: int, column: Column) -> Cost:
        """A network in whole numbers rounds what it puts out, by a product of 32 bits."""
        return Cost(compute=self.arithmetic(QUANTISING, integer=False) * neurons if column.integer else 0.0)

    def _sparse(self, values: Map, column: Column) -> tuple[float, float]:
        """The memory of a layer that may skip zeros, in the cheaper of two orders; and what of it the spikes cause."""
        events_bits = values.firing * (math.ceil(math.log2(max(values.neurons, 2))) + values.bits)
        home = self._home_of(values)
        written = self._move(min(values.neurons * values.bits, events_bits), home)
        dense = self._dense_order(values, column)
        weights = sum(layer.weights for layer in values.layers)
        share = min(1.0, values.events / weights) if weights else 0.0
        # A value stays in a register; of each synapse a weight is read, and a sum is read and written.
        caused = self._move(values.events * (column.weight_bits + 2 * SUM_BITS), self._local)
        caused += len(values.layers) * self._move(events_bits, home)
        by_event = caused + share * self._fetched(values, column)
        return (written + by_event, caused) if by_event < dense else (written + dense, 0.0)

    def _dense_order(self, values: Map, column: Column) -> float:
        """The sum stays in a register; of each product a weight and a value are read from the smallest memory."""
        home = self._home_of(values)
        read = self._move(values.macs * (column.weight_bits + values.bits), self._local)
        if home != self._local:
            read += len(values.layers) * self._move(values.neurons * values.bits, home)
        return read + self._fetched(values, column)

    def _fetched(self, values: Map, column: Column) -> float:
        """Every weight once from where it lives, unless that is the smallest memory already."""
        total = 0.0
        for layer in values.layers:
            bits = layer.weights * column.weight_bits
            home = self._home_of_constants(column) if layer.constant else self._home(bits)
            total += self._move(bits, home) if home != self._local else 0.0
        return total

    @property
    def _local(self) -> MemoryLevel | None:
        return self.profile.memory[0] if self.profile.memory else None

    def _home_of_constants(self, column: Column) -> MemoryLevel | None:
        return self._home(self._constants[column.name] * column.weight_bits)

    def _home_of(self, values: Map) -> MemoryLevel | None:
        return self._home(values.neurons * values.bits)

    def _home(self, bits: float) -> MemoryLevel | None:
        """The smallest memory that holds so much."""
        fitting = (level for level in self.profile.memory if level.size is None or bits <= 8 * level.size)
        return next(fitting, None)

    @staticmethod
    def _move(bits: float, level: MemoryLevel | None) -> float:
        return bits / _WORD * level.access if level else 0.0

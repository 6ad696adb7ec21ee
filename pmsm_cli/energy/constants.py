"""What an energy profile holds: constants, each with its source. `pmsm_cli.energy.profile` reads files of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class SpikeSize(StrEnum):
    """What a spike of size k is to a machine."""

    UNIT = "unit"  # k accumulates on each of its synapses
    GRADED = "graded"  # one event, whatever its size


@dataclass(frozen=True, kw_only=True, slots=True)
class Picojoule:
    """The energy of one synaptic operation, in pJ."""

    mac_fp32: float
    accumulate_fp32: float
    mac_int8: float
    accumulate_int8: float
    graded_event: float | None = None  # a spike at one synapse, memory included; only where spikes are graded


@dataclass(frozen=True, kw_only=True, slots=True)
class RestPicojoule:
    """The energy of what is neither a product nor a sum, in pJ. With it all arithmetic is billed."""

    compare: float
    exponential: float
    divide: float
    root: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuronPicojoule:
    """A machine's own figures for its neurons, in pJ a timestep; without them the arithmetic of a neuron is billed."""

    active: float  # the update of a neuron that fires
    idle: float  # of one that does not
    spike: float  # sending one


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryLevel:
    """One memory of a hierarchy."""

    name: str
    size: int | None  # bytes; None: large enough for anything
    access: float  # pJ to read or write 64 bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """One number of a profile, for reports."""

    name: str
    picojoule: float
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyProfile:
    """Constants, where they come from, and what they leave out."""

    name: str
    description: str
    source: str
    assumptions: tuple[str, ...]
    picojoule: Picojoule
    spike: SpikeSize = SpikeSize.UNIT
    rest: RestPicojoule | None = None  # None: the arithmetic beside synapses is counted, and not billed
    neuron: NeuronPicojoule | None = None
    memory: tuple[MemoryLevel, ...] = ()  # from the smallest; none: moving data is not billed
    sources: Mapping[str, str] = field(default_factory=dict)  # of single constants, by the names of `constants`

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Every number, by its name in the file, with its source (that of the profile where it has none of its own)."""
        tables = {"picojoule": self.picojoule, "rest": self.rest, "neuron": self.neuron}
        named = {
            f"{table}.{name}": getattr(record, name)
            for table, record in tables.items()
            if record is not None
            for name in record.__slots__
            if getattr(record, name) is not None
        }
        named |= {f"memory.{level.name}": level.access for level in self.memory}
        return tuple(
            Constant(name=name, picojoule=value, source=self.sources.get(name, self.source))
            for name, value in named.items()
        )

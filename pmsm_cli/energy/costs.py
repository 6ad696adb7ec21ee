"""What the parts of a network cost, step by step; and what all of a spiking one costs up to some step."""

from pmsm_cli.energy.columns import SNN, Bill, Column, Cost, total_of
from pmsm_cli.energy.constants import EnergyProfile
from pmsm_cli.energy.facts import Drive, Neurons, SiteFacts, SpikingFacts
from pmsm_cli.graph.sites import AnalogLayer
from pmsm_cli.graph.work import RestWork, Work

MILLIJOULE = 1e-9  # of one pJ
Steps = tuple[Cost, ...]  # what each step costs; networks that do not spike have but one


def open_bill(facts: SpikingFacts, profile: EnergyProfile) -> Bill:
    """What this network's work costs by a profile.

    Raises:
        ValueError: the profile bills memory or the arithmetic beside synapses, and nothing is known of them.
    """
    if facts.work is None and (profile.memory or profile.rest):
        raise ValueError("this profile bills what has to be measured first: count.work")
    return Bill(profile, facts.work, state_bits=facts.state_bits)


def spiking_energy_mj(facts: SpikingFacts, profile: EnergyProfile, *, timesteps: int) -> float:
    """The energy of one image, in mJ, of a network with fp32 weights that ends after so many of its timesteps.

    Raises:
        ValueError: as of `open_bill`.
    """
    bill = open_bill(facts, profile)
    rest = facts.work.rest if facts.work else ()
    parts: list[Steps] = [drive_steps(drive, SNN, bill, timesteps) for drive in facts.drives]
    parts += [neuron_steps(neurons, bill, timesteps) for neurons in facts.neurons]
    parts += [state_steps(facts.state_bits, bill, timesteps)]
    parts += [analog_steps(layer, facts.work, SNN, bill, timesteps) for layer in facts.analog_layers]
    parts += [rest_steps(each, SNN, bill, timesteps) for each in rest]
    return MILLIJOULE * total_of(each for part in parts for each in part).total


def site_steps(facts: SiteFacts, column: Column, bill: Bill) -> Steps:
    """A site of a checkpoint: its spikes and its neurons, or what the same tensor is in another network."""
    if column.spiking:
        driven = drive_steps(facts.drive, column, bill, facts.timesteps)
        emitted = neuron_steps(facts.neurons, bill, facts.timesteps)
        kept = state_steps(facts.state_bits, bill, facts.timesteps)
        return tuple(total_of(parts) for parts in zip(driven, emitted, kept, strict=True))
    if column.converted:
        return (bill.quantised(facts.quantised, column),)
    return (bill.dense(facts.values(column), column),)


def drive_steps(drive: Drive, column: Column, bill: Bill, timesteps: int) -> Steps:
    """Spikes at their synapses."""
    operations = drive.count.synaptic_ops
    return tuple(bill.spiking(drive.spikes(step), column, float(operations[step])) for step in range(timesteps))


def neuron_steps(neurons: Neurons, bill: Bill, timesteps: int) -> Steps:
    """Neurons at work."""
    return tuple(
        bill.neurons(neurons.count, float(neurons.firing[step]), neurons.later if step else neurons.first)
        for step in range(timesteps)
    )


def state_steps(bits: int, bill: Bill, timesteps: int) -> Steps:
    """What is kept for the next step."""
    return tuple(bill.kept(bits, step=step, timesteps=timesteps) for step in range(timesteps))


def analog_steps(layer: AnalogLayer, work: Work | None, column: Column, bill: Bill, timesteps: int) -> Steps:
    """A layer that no spikes drive."""
    known = work.layers.get((layer.node, 0)) if work else None
    once = bill.analog(known, layer.macs or 0, column)
    later = once if layer.every_step else Cost()
    return (once, *[later] * (timesteps - 1 if column.spiking else 0))


def rest_steps(work: RestWork, column: Column, bill: Bill, timesteps: int) -> Steps:
    """Arithmetic beside synapses, of one kind."""
    first = bill.rest(work, column) if column.converted or not work.added else Cost()
    later = [bill.rest(work, column, later=True)] * (timesteps - 1 if column.spiking else 0)
    return (first, *later)

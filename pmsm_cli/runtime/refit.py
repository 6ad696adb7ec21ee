"""Refitting the weights of spiking synapses to the source, layer by layer behind layers that are settled already."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from pmsm_cli.calibration.regression import Sums, change_that_helps
from pmsm_cli.graph.captures import inner_graphs
from pmsm_cli.graph.matching import SMALLEST_DEVIATION, MatchedReader, apply_corrections, matched_readers
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.refit import can_change, change_synapse, constant_part
from pmsm_cli.graph.rest import driven_output
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.sums import settled_addends
from pmsm_cli.graph.synapse import Synapse, synapse_of
from pmsm_cli.graph.weight_rows import from_rows, inputs_of, weight_rows
from pmsm_cli.neuron.parameters import Correction
from pmsm_cli.runtime.match import Doubles, correction_of
from pmsm_cli.runtime.session import Array
from pmsm_cli.runtime.staged import StagedRun
from pmsm_cli.runtime.summed import draw_places, is_summed_up, rows_put_out, rows_read

# Of larger synapses only the moments are matched: time goes with the inputs of an output (here those of 128 channels of
# a 3x3 kernel) squared and cubed, memory with the number of weights.
_LONGEST_ROW, _MOST_WEIGHTS = 1152, 2**22
_PLACES_AN_IMAGE = 256  # where sums are looked at, drawn for each image
_HELD_OUT = 4  # one batch of so many only judges


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Refitted:
    """A graph of the first timestep whose weights make up for what spikes lose, its moments matched."""

    model: ir.Model
    synapses: int  # how many have other weights than the source, apart from a scale


def can_refit(model: ir.Model) -> bool:
    """Whether a graph can be run layer by layer: there is no control flow in it."""
    return not any(inner_graphs(node) for node in model.graph)


def refit(
    network: Network,
    plan: SitePlan,
    spiking: ir.Model,
    shapes: Mapping[str, Shape],
    batches: Sequence[Array],
    *,
    seed: int,
    threads: int | None = None,
    on_synapse: Callable[[int], None] = lambda synapses: None,
) -> Refitted:
    """Change each synapse's weights so that less is missing to the source's output, then match its moments.

    A regression's estimates vary less than what they estimate, so that the second step belongs to the first. `spiking`
    is the one-timestep graph without corrections; each batch is one that both graphs take whole, and of one in four
    only the judgement is asked. Large synapses are only matched. Where a synapse's output is added to tensors that are
    settled already, as on a residual path, what counts is the sum: the synapse makes good for what these miss, as far
    as its spikes tell.

    Precondition: `can_refit` of both graphs.
    """
    if not batches:
        return Refitted(model=spiking, synapses=0)
    copy = spiking.clone()
    nodes = {node.name: node for node in copy.graph}
    outputs = {node.name: node.outputs[0].name or "" for node in network.model.graph}
    random = np.random.default_rng(seed)
    teacher = StagedRun(network.model, batches, subject=network.subject, threads=threads)
    student = StagedRun(copy, batches, subject=network.subject, threads=threads)
    corrections, changed = [], 0
    readers = matched_readers(network.model, plan, shapes)
    addends = settled_addends(network.model.graph, [reader.node for reader in readers], shapes)
    for reader in readers:
        synapse = synapse_of(nodes[reader.node])
        assert synapse is not None
        own = list(teacher.advance(outputs[reader.node]))
        wanted = own
        for name in addends[reader.node]:
            wanted = _with_missing(wanted, teacher.advance(name), student.advance(name))
        if can_change(synapse) and _is_small(synapse):
            changed += _refit(copy.graph, synapse, student.advance(synapse.data.name or ""), wanted, random)
        settled = driven_output(synapse.node).name or ""
        correction = _matched(reader, student.advance(settled), own, wanted)
        student.replace(settled, functools.partial(_corrected, reader, correction))
        corrections.append(correction)
        on_synapse(1)
    common_passes.RemoveUnusedNodesPass()(copy)  # the weights that took part before
    return Refitted(model=apply_corrections(copy, tuple(corrections), fold=True), synapses=changed)


def _with_missing(wanted: list[Array], source: Iterable[Array], spiking: Iterable[Array]) -> list[Array]:
    """What is wanted, and what another addend misses besides; none of that where it is infinite, as logarithms are."""
    with np.errstate(invalid="ignore"):
        sums = [output + one - other for output, one, other in zip(wanted, source, spiking, strict=True)]
    return sums if all(np.isfinite(each).all() for each in sums) else wanted


def _is_small(synapse: Synapse) -> bool:
    return (inputs_of(synapse) or 0) <= _LONGEST_ROW and synapse.weights.size <= _MOST_WEIGHTS


def _refit(
    graph: ir.Graph, synapse: Synapse, data: Iterable[Array], wanted: Iterable[Array], random: np.random.Generator
) -> bool:
    """Change a synapse where that helps on images held out; whether it did."""
    sums = _sums(synapse, data, wanted, random)
    change = change_that_helps(*sums) if sums else None
    if change is None:
        return False
    weights, shift = (part.astype(np.float32) for part in change)
    rows = weights.transpose(0, 2, 1).reshape(-1, weights.shape[1])
    change_synapse(graph, synapse, from_rows(synapse, rows), shift.reshape(-1))
    return True


def _sums(
    synapse: Synapse, data: Iterable[Array], wanted: Iterable[Array], random: np.random.Generator
) -> tuple[Sums, Sums] | None:
    """Sums over the batches that are fitted, and over those that judge; None where the operator is beyond us."""
    sums: list[Sums | None] = [None, None]
    constant, weights = constant_part(synapse), weight_rows(synapse)
    for number, (spikes, output) in enumerate(zip(data, wanted, strict=True)):
        if not is_summed_up(synapse, spikes):
            return None
        places = draw_places(synapse, output.shape, _PLACES_AN_IMAGE, random)
        read = rows_read(synapse, spikes, output.shape, places)
        own = np.matmul(read, weights.reshape(read.shape[0], -1, read.shape[2]).transpose(0, 2, 1))
        here = Sums.over(read, rows_put_out(synapse, output - constant, places) - own)
        part = number % _HELD_OUT == _HELD_OUT - 1
        total = sums[part]
        sums[part] = here if total is None else total + here
    fitted, held = sums
    return (fitted, held) if fitted and held else None


def _matched(
    reader: MatchedReader, spiking: Iterable[Array], source: Iterable[Array], wanted: Iterable[Array]
) -> Correction:
    """The deviation is the source's own: what is wanted besides varies too, and mostly cannot be told from spikes."""
    mean, variance = _moments(reader, source)
    if wanted is not source:
        mean, _ = _moments(reader, wanted)
    return correction_of(reader.node, *_moments(reader, spiking), mean, variance)


def _moments(reader: MatchedReader, outputs: Iterable[Array]) -> tuple[Doubles, Doubles]:
    """Mean and variance of each channel over all images."""
    count, total, power = 0, np.zeros(1), np.zeros(1)
    for output in outputs:
        count += output.size // output.shape[reader.axis]
        total = total + output.sum(axis=reader.other_axes, dtype=np.float64)
        power = power + np.square(output).sum(axis=reader.other_axes, dtype=np.float64)
    mean = total / count
    return mean, np.maximum(power / count - mean**2, 0) + SMALLEST_DEVIATION**2


def _corrected(reader: MatchedReader, correction: Correction, own: Array) -> Array:
    return own * reader.along_channels(correction.scale) + reader.along_channels(correction.shift)

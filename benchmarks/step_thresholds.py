"""The ratio between the thresholds of `refine`'s timesteps: constants against choices made from the residuals.

    python benchmarks/step_thresholds.py --shared ../shared --images .cache --threads 1 > step-thresholds.md

Needs the networks of ../shared/models and the images of ../shared/data, unpacked as its README says. Thresholds and
levels are those of `pmsm convert --timesteps T`, and only the quanta r_t of the steps after the first are replaced in
the graph: by powers of a constant, or by those that leave the least squared error of what the running values still lack
on calibration images, for the whole network or site by site. Test images choose nothing.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from machine import describe

from pmsm_cli import pipeline
from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.insert import insert_neurons, spikes_name
from pmsm_cli.graph.scan import SCAN_NAME
from pmsm_cli.graph.scores import class_scores
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.neuron.coding import Coding, later_negative_levels
from pmsm_cli.neuron.onnx_function import NEURON_STEP
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.pipeline.conversion import Calibrated, Loaded
from pmsm_cli.pipeline.inputs import batch_size
from pmsm_cli.runtime.count import count_spikes
from pmsm_cli.runtime.evaluate import evaluate
from pmsm_cli.runtime.match import match_moments
from pmsm_cli.runtime.session import Session, open_session
from pmsm_cli.sources.images import Batch, read_batches

TIMESTEPS = 3
STEPS_OF_HALVES = 4  # halving runs for longer, so that its curve of error against spikes covers every other way's
COUNTED_IMAGES = 32  # spikes are counted on so many of the test images
RESIDUAL_IMAGES = 32  # residuals are gathered on so many of the calibration images
RESIDUAL_BATCH = 8  # they hold every neuron of the network
EVERY = 5  # so many neurons to one whose residual is kept
CLIPPED_WEIGHTS = (16.0, 64.0)
FIRST_STEP_FACTORS = (1.1,)  # on the first threshold, which all later ones follow
BINS = 8193  # odd: what lacks nothing has a bin around zero
CANDIDATES = 2.0 ** -np.arange(0, 5.01, 0.25)  # of a step's quantum over that of the step before

Quanta = Mapping[str, tuple[float, ...]]  # site -> r_2, ..., r_T
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Network:
    """A source, and what it is measured on."""

    name: str
    preprocess: str
    calibrate_on: str
    evaluate_on: str
    samples: int  # calibration images
    images: int  # test images


CIFAR = ("cifar10/train", "cifar10/test")
NETWORKS = (
    Network("resnet20_cifar10_bn", "imagenet", *CIFAR, 256, 500),
    Network("mobilenet_v1_025_imagenet", "inception", "imagenet-sample", "imagenet-sample", 128, 200),
    Network("vit5_cifar10", "cifar10", *CIFAR, 256, 300),
)


class Silent:
    """No progress to show."""

    def start(self, stage: str, total: int) -> None:
        """Nothing."""

    def advance(self, images: int) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One way of choosing the quanta on one network; the tuples have one entry a step."""

    way: str
    error: tuple[float, ...]  # of the outputs, percent
    top1: tuple[float, ...]  # percent
    agreement: tuple[float, ...]  # percent of the images with the source's class
    spikes: tuple[float, ...]  # per neuron, up to and with that step


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bench:
    """A converted network, ready to be measured with any quanta."""

    checkpoint: Checkpoint
    test: tuple[Batch, ...]
    calibration: npt.NDArray[np.float32]  # [images, ...], for the residuals
    source: Session
    threads: int

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the sites."""
        return tuple(site.name for site in self.checkpoint.manifest.plan.sites)

    def constant(self, ratio: float, timesteps: int = TIMESTEPS) -> dict[str, tuple[float, ...]]:
        """The powers of a ratio at every site."""
        return {site: tuple(ratio**step for step in range(1, timesteps)) for site in self.sites}


def with_quanta(model: ir.Model, plan: SitePlan, quanta: Quanta) -> ir.Model:
    """A copy of an unrolled `refine` network in which each site has quanta of its own.

    They are scanned over, a number a step, as `pmsm/quanta` is. A synapse weighs its current by the quantum of the
    site that it reads; a product of two spiking tensors weighs each half of the sum by that of the step it is made of.
    """
    model = model.clone()
    graph = model.graph
    scan, body = _scan(model)
    shared = body.inputs[-1]  # the quantum of all sites
    sites = {f"{spikes_name(site.name)}/later": site.name for site in plan.sites}
    own = {}
    for site in plan.sites:
        own[site.name] = ir.Value(name=f"{site.name}/quantum", type=shared.type, shape=shared.shape)
        body.inputs.append(own[site.name])
        scan.resize_inputs(len(scan.inputs) + 1)
        numbers = np.array(quanta[site.name], np.float32)
        scan.replace_input_with(len(scan.inputs) - 1, add_constant(graph, f"{site.name}/quanta", numbers))
    scan.attributes["num_scan_inputs"] = ir.AttrInt64("num_scan_inputs", 2 + len(own))

    def quantum_read_by(node: ir.Node | None) -> ir.Value:
        assert node is not None
        return own[next(sites[value.name] for value in node.inputs if value is not None and value.name in sites)]

    for node in list(body):
        if node.op_type == NEURON_STEP:
            node.replace_input_with(4, own[sites[node.outputs[0].name or ""]])
        elif shared in node.inputs:
            current = node.inputs[0].producer() if node.inputs[0] else None
            assert current is not None
            if current.op_type == "Add":  # a product: both halves, each by its own quantum
                for index, half in enumerate(list(current.inputs)):
                    assert half is not None
                    weighted = ir.Value(name=f"{half.name}/weighted")
                    factors = [half, quantum_read_by(half.producer())]
                    body.insert_before(current, ir.Node("", "Mul", factors, outputs=[weighted]))
                    current.replace_input_with(index, weighted)
                ir.convenience.replace_all_uses_with(node.outputs[0], current.outputs[0])
                body.remove(node, safe=True)
            else:
                node.replace_input_with(1, quantum_read_by(current))
    return model


def with_residuals(model: ir.Model, plan: SitePlan) -> ir.Model:
    """A copy whose only outputs are what each neuron lacks at each later step, in thresholds: [T - 1, images, ...]."""
    model = model.clone()
    model.graph.outputs.clear()
    scan, body = _scan(model)
    neurons = {node.outputs[0].name: node for node in body if node.op_type == NEURON_STEP}
    for site in plan.sites:
        value, threshold, emitted = neurons[f"{spikes_name(site.name)}/later"].inputs[:3]
        target = ir.Value(name=f"{site.name}/in_thresholds")
        lacking = ir.Value(name=f"{site.name}/lacking", type=ir.TensorType(ir.DataType.FLOAT))
        body.append(ir.Node("", "Div", [value, threshold], outputs=[target]))
        body.append(ir.Node("", "Sub", [target, emitted], outputs=[lacking]))
        body.outputs.append(lacking)
        scan.resize_outputs(len(scan.outputs) + 1)
        stacked = scan.outputs[-1]
        stacked.name, stacked.type = f"{site.name}/residual", ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(stacked)
    return model


def _scan(model: ir.Model) -> tuple[ir.Node, ir.Graph]:
    scan = next(node for node in model.graph if node.name == SCAN_NAME)
    return scan, scan.attributes["body"].as_graph()


def left_by_candidates(bench: Bench, quanta: Quanta, step: int, clipped_weight: float) -> dict[str, Floats]:
    """For each site, the mean squared residual that each candidate would leave of what `step` finds lacking.

    In squared thresholds; a candidate is a multiple of the quantum of the step before, whose choice is final. What is
    clipped may weigh more than what is rounded: roundings cancel in a synapse's sum, clipped values all lack one way.
    """
    plan, subject = bench.checkpoint.manifest.plan, bench.checkpoint.subject
    model = with_residuals(with_quanta(bench.checkpoint.model, plan, quanta), plan)
    names = [f"{site}/residual" for site in bench.sites]
    session = open_session(model, subject=subject, threads=bench.threads, stacked=names)
    levels = {site.name: site.parameters for site in bench.checkpoint.manifest.calibration.sites}
    reach = {site: float(2 * levels[site].positive_levels + 1) for site in bench.sites}
    counts = {site: np.zeros(BINS, np.int64) for site in bench.sites}
    for start in range(0, len(bench.calibration), RESIDUAL_BATCH):
        results = session.run(bench.calibration[start : start + RESIDUAL_BATCH])
        for site, residual in zip(bench.sites, results, strict=True):
            limit = reach[site]
            some = residual[step - 2].ravel()[::EVERY]
            counts[site] += np.histogram(some.clip(-limit, limit), bins=BINS, range=(-limit, limit))[0]
    left = {}
    for site in bench.sites:
        positive = levels[site].positive_levels
        negative = later_negative_levels(levels[site].negative_levels, positive)
        edges = np.linspace(-reach[site], reach[site], BINS + 1)
        lacking = (edges[:-1] + edges[1:]) / 2
        before = quanta[site][step - 3] if step > 2 else 1.0
        errors = []
        for candidate in CANDIDATES * before:
            wanted = np.round(lacking / candidate)
            emitted = np.clip(wanted, -negative, positive)
            weights = np.where(wanted == emitted, 1.0, clipped_weight)
            errors.append(float(np.average(weights * (lacking - candidate * emitted) ** 2, weights=counts[site])))
        left[site] = np.array(errors)
    return left


def chosen(
    bench: Bench, *, each_site: bool, clipped_weight: float = 1.0, coarsest: float = 1.0
) -> dict[str, tuple[float, ...]]:
    """The quanta of least squared residual: step by step, for each site or (sum over sites) for the network.

    No quantum is more than `coarsest` times that of the step before.

    What a step finds lacking depends on what the layers before correct in the same step, so the first choice is made
    twice, the second time with the quanta of the first.
    """
    quanta = bench.constant(0.5)
    for step in (2, 2, 3):
        left = left_by_candidates(bench, quanta, step, clipped_weight)
        left = {site: np.where(coarsest >= CANDIDATES, errors, np.inf) for site, errors in left.items()}
        total = np.sum(list(left.values()), axis=0)
        for site in bench.sites:
            best = float(CANDIDATES[int(np.argmin(left[site] if each_site else total))])
            earlier = quanta[site][: step - 2]
            now = best * (earlier[-1] if earlier else 1.0)
            quanta[site] = (*earlier, now, *(now / 2 ** (k + 1) for k in range(TIMESTEPS - step)))
    return quanta


def measure(bench: Bench, way: str, quanta: Quanta) -> Measured:
    """Error, accuracy and spikes at every step."""
    timesteps = 1 + len(next(iter(quanta.values())))
    manifest = replace(bench.checkpoint.manifest, timesteps=timesteps)
    model = with_quanta(bench.checkpoint.model, manifest.plan, quanta)
    if timesteps == TIMESTEPS:
        numbers = [f"{np.median([each[step] for each in quanta.values()]):.3g}" for step in range(TIMESTEPS - 1)]
        way = f"{way} ({', '.join(numbers)})"
    checkpoint = Checkpoint(subject=bench.checkpoint.subject, model=model, manifest=manifest)
    spiking = open_session(model, subject=checkpoint.subject, threads=bench.threads)
    found = evaluate(spiking, bench.test, timesteps=timesteps, scores=class_scores(model), source=bench.source)
    counted = count_spikes(checkpoint, _first(bench.test, COUNTED_IMAGES), threads=bench.threads)
    spikes = np.sum([site.spikes for site in counted.sites], axis=0) / sum(site.neurons for site in counted.sites)
    return Measured(
        way=way,
        error=found.outputs[0].per_step,
        top1=found.snn.top1_per_step or (),
        agreement=found.agreement_per_step or (),
        spikes=tuple(np.cumsum(spikes)),
    )


def _first(batches: tuple[Batch, ...], images: int) -> Iterator[Batch]:
    for batch in batches:
        if images <= 0:
            return
        yield replace(batch, inputs=batch.inputs[:images], labels=None, names=batch.names[:images])
        images -= len(batch.inputs)


def compare(network: Network, levels: int, arguments: argparse.Namespace) -> list[Measured]:
    """Every way on one network; halving comes first."""
    source = arguments.shared / "models" / f"{network.name}.onnx"
    loaded = pipeline.load_source(source, pipeline.InputSettings(preprocess=network.preprocess))
    calibrate_on = arguments.images / network.calibrate_on
    settings = pipeline.CalibrationSettings(
        data=calibrate_on, samples=network.samples, levels=levels, seed=arguments.seed, threads=arguments.threads
    )
    calibrated = pipeline.calibrate_source(loaded, settings, Silent())
    size = batch_size(loaded.plan, loaded.network.image.batch)

    def batches(path: Path, samples: int, seed: int) -> tuple[Batch, ...]:
        return tuple(read_batches(pipeline.open_sample(path, samples, seed), loaded.preprocessing, size))

    seen = batches(calibrate_on, RESIDUAL_IMAGES, arguments.seed)
    bench = Bench(
        checkpoint=_checkpoint(loaded, calibrated, TIMESTEPS),
        test=batches(arguments.images / network.evaluate_on, network.images, arguments.seed + 1),
        calibration=np.concatenate([batch.inputs for batch in seen]),
        source=pipeline.open_reference(loaded.source, threads=arguments.threads),
        threads=arguments.threads,
    )
    longer = replace(bench, checkpoint=_checkpoint(loaded, calibrated, STEPS_OF_HALVES))
    measured = [measure(longer, "1/2, today", longer.constant(0.5, STEPS_OF_HALVES))]
    ratios = {"0.7": 0.7, "1/3": 1 / 3, "1/4": 1 / 4, "1/(2P + 1)": 1 / (2 * levels + 1)}
    measured += [measure(bench, way, bench.constant(ratio)) for way, ratio in ratios.items()]
    measured.append(measure(bench, "network", chosen(bench, each_site=False)))
    measured.append(measure(bench, "site", chosen(bench, each_site=True)))
    for weight in CLIPPED_WEIGHTS:
        finer = chosen(bench, each_site=True, clipped_weight=weight, coarsest=0.5)
        measured.append(measure(bench, f"site, 1/2 or finer, clipped x {weight:g}", finer))
    for factor in FIRST_STEP_FACTORS:
        wider = _wider(loaded, calibrated, factor, batches(calibrate_on, network.samples, arguments.seed))
        other = replace(bench, checkpoint=_checkpoint(loaded, wider, TIMESTEPS))
        measured.append(measure(other, f"theta x {factor}, 1/2", other.constant(0.5)))
    return measured


def _wider(loaded: Loaded, calibrated: Calibrated, factor: float, batches: tuple[Batch, ...]) -> Calibrated:
    """The same with every threshold, and so that of every step, times a factor; moments are matched again."""
    sites = []
    for site in calibrated.calibration.sites:
        threshold = np.asarray(site.parameters.threshold * np.float32(factor))
        sites.append(replace(site, parameters=replace(site.parameters, threshold=threshold)))
    calibration = replace(calibrated.calibration, sites=tuple(sites))
    parameters: dict[str, NeuronParameters] = calibration.parameters
    spiking = insert_neurons(loaded.network, loaded.plan, parameters, loaded.shapes)
    corrections = match_moments(loaded.network, loaded.plan, spiking, loaded.shapes, batches, threads=1)
    return replace(calibrated, calibration=replace(calibration, corrections=corrections))


def _checkpoint(loaded: Loaded, calibrated: Calibrated, timesteps: int) -> Checkpoint:
    made = pipeline.convert(loaded, calibrated, timesteps=timesteps, coding=Coding.REFINE)
    return Checkpoint(subject=loaded.source.name, model=made.model, manifest=made.manifest)


def at_equal_spikes(other: Measured, halves: Measured, step: int) -> float:
    """The error over that of halving where it has spent as many spikes, its curve drawn between the steps."""
    halving = np.exp(np.interp(other.spikes[step], halves.spikes, np.log(halves.error)))
    return float(other.error[step] / halving)


def summary(everything: list[list[Measured]]) -> Iterator[str]:
    """Means over networks and levels, against halving: of ratios the geometric mean, of points the plain one."""
    yield (
        "| quanta | error, T = 1 | T = 2 | T = 3 | top-1, T = 2 | T = 3 | agreement, T = 2 | T = 3 "
        "| spikes, T = 2 | T = 3 | error at equal spikes, T = 2 | T = 3 |"
    )
    yield "|---|" + "--:|" * 11
    for index in range(1, len(everything[0])):
        pairs = [(measured[index], measured[0]) for measured in everything]

        def mean(
            ratio: Callable[[Measured, Measured, int], float], steps: tuple[int, ...] = (1, 2), pairs: list = pairs
        ) -> list[str]:
            logs = [[np.log(ratio(*pair, step)) for pair in pairs] for step in steps]
            return [f"x {np.exp(np.mean(each)):.2f}" for each in logs]

        def points(name: str, pairs: list = pairs) -> list[str]:
            steps = (1, 2)
            return [f"{np.mean([getattr(a, name)[t] - getattr(b, name)[t] for a, b in pairs]):+.2f}" for t in steps]

        cells = [
            pairs[0][0].way.split(" (0")[0],
            *mean(lambda a, b, t: a.error[t] / b.error[t], (0, 1, 2)),
            *points("top1"),
            *points("agreement"),
            *mean(lambda a, b, t: a.spikes[t] / b.spikes[t]),
            *mean(at_equal_spikes),
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--levels", type=int, nargs="+", default=[3, 7, 15])
    parser.add_argument("--networks", nargs="+", default=[network.name for network in NETWORKS])
    arguments = parser.parse_args()
    print(
        f"`{' '.join(['python', *sys.argv])}`\n\n{describe()}; seed {arguments.seed}, {arguments.threads} thread(s).\n"
    )
    images = [f"{network.name} {network.images} ({network.samples} to calibrate)" for network in NETWORKS]
    print(f"Images: {', '.join(images)}; spikes and residuals on {COUNTED_IMAGES}.\n")
    print("| network | P | quanta (r_2, r_3) | error | top-1 | agreement | spikes per neuron |")
    print("|---|--:|---|---|---|---|---|", flush=True)
    everything = []
    for network in NETWORKS:
        if network.name not in arguments.networks:
            continue
        for levels in arguments.levels:
            measured = compare(network, levels, arguments)
            everything.append(measured)
            for each in measured:
                tuples = (each.error, each.top1, each.agreement, each.spikes)
                cells = [" ".join(f"{value:.2f}" for value in numbers) for numbers in tuples]
                print(f"| {network.name} | {levels} | {each.way} | {' | '.join(cells)} |")
            sys.stdout.flush()
    print("\nAgainst 1/2, over the rows above:\n")
    print("\n".join(summary(everything)))


if __name__ == "__main__":
    main()

"""`pmsm bench`: a checkpoint in every form that it runs in, beside its source."""

from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from pmsm_cli.checkpoint.file import Checkpoint, write_file
from pmsm_cli.errors import PmsmError, UsageError
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.network import Network
from pmsm_cli.lowering.lower import has_products
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.pipeline import data_free
from pmsm_cli.pipeline.inputs import Progress, batch_size, open_sample, source_remarks
from pmsm_cli.runtime.fit import check_comparable
from pmsm_cli.runtime.library import find_library, library_status, unusable_library
from pmsm_cli.runtime.processor import processor_name
from pmsm_cli.runtime.race import Racer, Timing, race
from pmsm_cli.runtime.session import model_bytes, open_session
from pmsm_cli.runtime.spiking import Form, form_of
from pmsm_cli.runtime.static_int8 import quantise_statically
from pmsm_cli.runtime.workload import fixed_batch
from pmsm_cli.sources.images import ImageSet, read_batches
from pmsm_cli.sources.records import Source

SOURCE, STATIC = "source, float", "source, onnxruntime's static int8"
PORTABLE, STOCK, LIBRARY = "spiking, portable", "spiking, stock operators", "spiking, native library"
INTEGERS = "spiking, integers"
INTEGERS_ON_LIBRARY = "spiking, integers and native library"
_CALIBRATION_IMAGES = 32  # for onnxruntime's quantisation


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSettings:
    """What is timed, and how."""

    data: Path | None  # images that onnxruntime's quantisation calibrates on; None: synthetic ones
    batch: int | None  # None: what the network fixes, else 1
    runs: int
    threads: int | None
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """What all contenders took, in one run."""

    ann: Timing | None  # the source in float; None: not named
    snn: Timing  # the checkpoint in the form that `pmsm run` takes
    speedup: float | None  # the source's median over the checkpoint's
    contenders: tuple[Timing, ...]
    batch: int
    runs: int
    threads: int | None
    timesteps: int
    weights: str
    onnxruntime: str
    machine: str
    warnings: tuple[str, ...]


def bench_checkpoint(
    checkpoint: Checkpoint, source: Source | None, settings: BenchSettings, folder: Path, progress: Progress
) -> BenchResult:
    """Time a checkpoint and its source, in turn; `folder` takes the networks as files.

    Raises:
        UsageError: the network fixes another batch size.
        UnsupportedGraphError: onnxruntime cannot run one of the networks.
    """
    fixed = fixed_batch(checkpoint.model)
    if fixed and settings.batch not in (None, fixed):
        raise UsageError(
            f"reads {fixed} image(s) at a time, not {settings.batch}",
            subject=checkpoint.subject,
            hint="leave out --batch",
        )
    batch = fixed or settings.batch or 1
    racers, warnings = _checkpoint_forms(checkpoint, batch, folder)
    chosen = racers[-1].name  # the last one is the fastest form
    if source is not None:
        ours, further = _source_forms(checkpoint, source, settings, folder, progress)
        racers, warnings = [*ours, *racers], [*further, *warnings]
    progress.start("Timing", settings.runs)
    shape = (batch, *checkpoint.manifest.preprocessing.shape)
    timings = race(racers, shape, runs=settings.runs, threads=settings.threads, on_run=progress.advance)
    by_name = {timing.name: timing for timing in timings}
    ann, snn = by_name.get(SOURCE), by_name[chosen]
    return BenchResult(
        ann=ann,
        snn=snn,
        speedup=ann.median_ms / snn.median_ms if ann else None,
        contenders=timings,
        batch=batch,
        runs=settings.runs,
        threads=settings.threads,
        timesteps=checkpoint.manifest.timesteps,
        weights=checkpoint.manifest.weights.value,
        onnxruntime=onnxruntime.__version__,
        machine=processor_name(),
        warnings=tuple(warnings),
    )


def _checkpoint_forms(checkpoint: Checkpoint, batch: int, folder: Path) -> tuple[list[Racer], list[str]]:
    """The file as it is and the forms that `pmsm run` may take, from the slowest to the fastest."""
    racers, warnings = [Racer(name=PORTABLE, path=Path(checkpoint.subject))], []
    library, at_one_timestep = find_library() is not None, checkpoint.manifest.timesteps == 1
    if not library and not unusable_library():  # of which every command warns
        warnings.append(f"the native library cannot be used: {library_status().reason}")
    forms = {}
    if at_one_timestep:
        forms[STOCK] = form_of(checkpoint, batch=batch, native=False, integers=False)
    if library:
        forms[LIBRARY] = form_of(checkpoint, batch=batch, integers=False)
    if at_one_timestep and checkpoint.int8_weights:
        forms[INTEGERS] = form_of(checkpoint, batch=batch, native=False)
    if library:
        fastest = form_of(checkpoint, batch=batch)
        if fastest.integers:
            forms[INTEGERS_ON_LIBRARY] = fastest
        elif checkpoint.int8_weights:
            warnings.append(f"its int8 weights are run in floats: {_why_in_floats(checkpoint, fastest)}")
    for index, (name, form) in enumerate(forms.items()):
        path = folder / f"form{index}.onnx"
        write_file(path, model_bytes(form.model, subject=checkpoint.subject))
        racers.append(Racer(name=name, path=path, native=form.native, integers=form.integers))
    return racers, warnings


def _why_in_floats(checkpoint: Checkpoint, form: Form) -> str:
    """What keeps a network of int8 weights and several timesteps from running on integers."""
    library, timesteps = find_library(), checkpoint.manifest.timesteps
    if checkpoint.manifest.coding is Coding.RATE:
        return "the timesteps of `rate` have no unit in common"
    if library is None or not library.multiplies_fast:
        return f"on this processor only one timestep runs on integers, and it has {timesteps}"
    if any(node.op_type == "Scan" for node in form.model.graph):
        return "its timesteps run one by one: they are more than eight, or some operator mixes the images of a batch"
    if not library.multiplies_slices and has_products(form.model.graph, checkpoint.int8_weights):
        return "on this processor matrix products of several timesteps are no faster on integers"
    return f"at T = {timesteps} no tensor's spikes add up to what a byte holds; fewer levels or timesteps would"


def _source_forms(
    checkpoint: Checkpoint, source: Source, settings: BenchSettings, folder: Path, progress: Progress
) -> tuple[list[Racer], list[str]]:
    """The source in floats, its batch norms folded as any exporter would, and as onnxruntime quantises it."""
    subject, warnings = str(source.path), list(source_remarks(source, checkpoint))
    network = ingest(source.proto, subject=subject)
    check_comparable(
        open_session(checkpoint.model, subject=checkpoint.subject),
        open_session(network.model, subject=subject),
        source_name=checkpoint.manifest.source_name,
    )
    path, quantised = folder / "source.onnx", folder / "static.onnx"
    write_file(path, model_bytes(network.model, subject=subject))
    racers = [Racer(name=SOURCE, path=path)]
    images = _images(network, settings)
    preprocessing = checkpoint.manifest.preprocessing
    size = min(batch_size(checkpoint.manifest.plan, network.image.batch), 8) if not network.image.batch else None
    progress.start("Quantising the source", len(images))
    try:
        batches = read_batches(images, preprocessing, size or network.image.batch or 1)
        whole = (batch for batch in batches if not network.image.batch or len(batch.inputs) == network.image.batch)
        quantise_statically(path, quantised, whole, input_name=network.image.name, subject=subject)
        racers.append(Racer(name=STATIC, path=quantised))
    except PmsmError as error:
        warnings.append("; ".join([error.problem, *error.details]))
    return racers, warnings


def _images(network: Network, settings: BenchSettings) -> ImageSet:
    if settings.data is None:
        return data_free.synthetic_images(network.image.batch, seed=settings.seed, normalised=False)
    return open_sample(settings.data, _CALIBRATION_IMAGES, settings.seed)

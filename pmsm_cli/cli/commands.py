"""The commands: each parses, calls the stages of `pmsm_cli.pipeline`, and renders.

Everything heavy is imported inside the command that needs it, so that `pmsm --help` answers at once.
"""

from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmsm_cli.cli import console, options
from pmsm_cli.cli.tuning import EpochProgress, check_tuning, say_if_stopped, tune_conversion
from pmsm_cli.cli.written import ReportFormat, check_outputs, plot_form, rendered, report_form
from pmsm_cli.errors import CheckFailedError, UsageError
from pmsm_cli.neuron.coding import Coding

if TYPE_CHECKING:
    from pmsm_cli.pipeline.conversion import Calibrated, CalibrationSettings, InputSettings

_DEFAULT_SAMPLES = 512
_DEFAULT_LEVELS = 15
_DEFAULT_PROFILE = "45nm"


def convert(
    source: options.Source,
    output: Annotated[
        Path | None,
        options.path_option(
            "--output", "-o", metavar="FILE", help="Where to write it.  [default: SOURCE.snn.onnx, here]"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        options.path_option(
            metavar="PATH", help="Images to calibrate on; without any, batch norm statistics and made-up ones do."
        ),
    ] = None,
    samples: options.Samples = _DEFAULT_SAMPLES,
    timesteps: Annotated[int, typer.Option("--timesteps", "-T", min=1, max=1024, help="Timesteps T.")] = 1,
    levels: options.Levels = None,
    match_moments: options.MatchMoments = True,
    coding: Annotated[
        Coding, typer.Option(help="How values spread over timesteps: ever finer corrections, or a rate.")
    ] = Coding.REFINE,
    calibration: Annotated[
        Path | None,
        options.path_option(metavar="FILE", help="Thresholds from `pmsm calibrate`, instead of --data."),
    ] = None,
    preprocess: options.Preprocess = None,
    image_size: options.ImageSize = None,
    spiking_input: options.SpikingInput = False,
    labels: Annotated[
        Path | None, options.path_option(metavar="FILE", help="Class names, one a line, to store in the checkpoint.")
    ] = None,
    finetune: Annotated[
        int,
        typer.Option(min=0, metavar="EPOCHS", help="Then train for so many passes over all of --data (needs torch)."),
    ] = 0,
    report: Annotated[
        Path | None, options.path_option(metavar="FILE", help="Also write the energy report: .json or .md.")
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Turn a network into a spiking one and write it as a file that runs.

    pmsm convert resnet20.onnx --data images/ --preprocess imagenet --timesteps 1 -o r20.onnx
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import Checkpoint, write_files
    from pmsm_cli.report import tables
    from pmsm_cli.report.records import to_json

    target = output or Path(f"{source.stem}.snn.onnx")
    form = report_form(report)
    check_tuning(finetune, data, timesteps)
    if calibration and ((data and not finetune) or levels or not match_moments):
        raise UsageError(
            "--calibration brings its own thresholds, levels and moments: "
            "leave out --data, --levels and --no-match-moments"
        )
    if report and timesteps > 1 and not data:
        raise UsageError("--report has to measure the spikes of later timesteps", hint="pass --data IMAGES as well")
    check_outputs([target, report], inputs=[source, calibration, labels])
    with EpochProgress() as progress:
        loaded = pipeline.load_source(source, _input_settings(preprocess, image_size, spiking_input, calibration))
        names = pipeline.read_labels(labels, loaded.network.model) if labels else ()
        if calibration:
            calibrated = pipeline.read_calibration(calibration, loaded)
        else:
            horizon = timesteps if coding is Coding.RATE else 1
            settings = _calibration_settings(data, samples, levels, match_moments, seed, threads, horizon)
            calibrated = pipeline.calibrate_source(loaded, settings, progress)
        made = pipeline.convert(loaded, calibrated, timesteps=timesteps, coding=coding, labels=names)
        tuned = None
        if finetune and data:
            tuned = tune_conversion(made, loaded, data, target, finetune, seed, threads, progress)
            made = replace(made, model=tuned.model, data=tuned.data, manifest=tuned.manifest)
        files: dict[Path, bytes | str] = {target: made.data}
        if report:
            checkpoint = Checkpoint(subject=str(target), model=made.model, manifest=made.manifest)
            images = pipeline.open_sample(data, samples, seed) if data else None
            energy = pipeline.report_checkpoint(
                checkpoint, images, profile=_DEFAULT_PROFILE, threads=threads, progress=progress
            )
            files[report] = rendered(energy, form)
        write_files(files)
    _say_how_calibrated(calibrated, made.warnings)
    summary = pipeline.summarise(made, target, tuned)
    if json:
        console.print_json(to_json(summary))
    else:
        console.print_result(tables.summary_table(summary))
    if tuned:
        say_if_stopped(tuned, target)


def calibrate(
    source: options.Source,
    path: options.DataPath,
    output: Annotated[
        Path | None,
        options.path_option(
            "--output", "-o", metavar="FILE", help="Where to write it.  [default: SOURCE.calibration.json, here]"
        ),
    ] = None,
    samples: options.Samples = _DEFAULT_SAMPLES,
    levels: options.Levels = None,
    match_moments: options.MatchMoments = True,
    preprocess: options.Preprocess = None,
    image_size: options.ImageSize = None,
    spiking_input: options.SpikingInput = False,
    plot: Annotated[
        Path | None,
        options.path_option(
            metavar="FILE", help="Also draw the activations with their levels: .png, .svg or .pdf (needs matplotlib)."
        ),
    ] = None,
    plot_sites: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="The tensors to draw.  [default: the 12 with the lowest SDR]", show_default=False
        ),
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Set thresholds and levels from images, print what they keep, and write them as JSON.

    pmsm calibrate resnet20.onnx images/ --preprocess imagenet -o r20.calibration.json
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import write_files
    from pmsm_cli.report import tables
    from pmsm_cli.report.plot import calibration_plot, check_plotting

    target = output or Path(f"{source.stem}.calibration.json")
    form = plot_form(plot)
    if plot_sites is not None and not plot:
        raise UsageError("--plot-sites says what --plot draws: name a file with --plot")
    check_outputs([target, plot], inputs=[source])
    if plot:
        check_plotting()
    with console.ProgressBar() as progress:
        loaded = pipeline.load_source(source, _input_settings(preprocess, image_size, spiking_input))
        settings = _calibration_settings(path, samples, levels, match_moments, seed, threads)
        settings = replace(settings, keep_statistics=plot is not None)
        calibrated = pipeline.calibrate_source(loaded, settings, progress)
    record = pipeline.calibration_record(loaded, calibrated)
    files: dict[Path, bytes | str] = {target: dumps(record) + "\n"}
    if plot:
        names = [name.strip() for name in plot_sites.split(",")] if plot_sites else []
        statistics = calibrated.statistics or {}
        files[plot] = calibration_plot(calibrated.calibration, statistics, form=form, names=names)
    write_files(files)
    _say_how_calibrated(calibrated, (*loaded.warnings, *calibrated.warnings))
    if json:
        console.print_json({"file": str(target), **record})
    else:
        console.print_result(tables.calibration_table(calibrated.calibration))
        console.say(f"written to {' and '.join(map(str, files))}")


def inspect(
    source: Annotated[
        Path,
        options.path_argument(
            metavar="SOURCE|CHECKPOINT", help="A network or a spiking checkpoint.", show_default=False
        ),
    ],
    preprocess: options.Preprocess = None,
    image_size: options.ImageSize = None,
    spiking_input: options.SpikingInput = False,
    json: options.Json = False,
) -> None:
    """Show what becomes spikes, what stays analog and why, and the share of the work that spikes drive.

    pmsm inspect resnet20.onnx
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import open_checkpoint
    from pmsm_cli.report import tables
    from pmsm_cli.report.records import to_json

    manifest = None
    if pipeline.is_checkpoint(source):
        if preprocess or image_size or spiking_input:
            raise UsageError(
                "is a checkpoint, in which all is settled: leave out --preprocess, --image-size and --spiking-input",
                subject=str(source),
            )
        manifest = open_checkpoint(source).manifest
        plan = manifest.plan
    else:
        settings = _input_settings(preprocess or "none", image_size, spiking_input)
        plan = pipeline.load_source(source, settings).plan
    if json:
        totals = {
            "spiking_share": plan.spiking_share,
            "spiking_macs": plan.spiking_macs,
            "total_macs": plan.total_macs,
        }
        record = to_json(plan) | totals
        console.print_json(record | {"checkpoint": to_json(manifest) if manifest else None})
    else:
        console.print_result(tables.plan_table(plan, manifest))


def evaluate(
    checkpoint: options.CheckpointFile,
    path: options.DataPath,
    against: options.Against = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="PCT", help="Exit with code 5 if top-1 (agreement, without labels) falls by more points."
        ),
    ] = None,
    samples: options.SomeSamples = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Measure accuracy at every timestep, and agreement with the source.

    pmsm eval r20.onnx images/ --against resnet20.onnx
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import open_checkpoint
    from pmsm_cli.report import tables
    from pmsm_cli.report.records import to_json

    if max_drop is not None and against is None:
        raise UsageError("--max-drop compares with the source: name it with --against")
    opened = open_checkpoint(checkpoint)
    with console.ProgressBar() as progress:
        images = pipeline.open_sample(path, samples, seed)
        result = pipeline.evaluate_checkpoint(opened, images, against=against, threads=threads, progress=progress)
    console.warn_skipped(result.skipped)
    if against and not pipeline.is_source(against, opened):
        console.warn(f"{against} is not the file that the checkpoint was made from ({opened.manifest.source_name})")
    if json:
        console.print_json(to_json(result))
    else:
        console.print_result(tables.evaluation_table(result))
    drop = result.drop
    if max_drop is None:
        return
    if drop is None:
        raise CheckFailedError("there are no classes to compare", subject=str(checkpoint), hint="leave out --max-drop")
    if drop > max_drop:
        fact = f"lost {drop:.2f} points, {max_drop:g} were allowed"
        raise CheckFailedError(fact, subject=str(checkpoint), hint="convert with more --levels or --timesteps")


def run(
    checkpoint: options.CheckpointFile,
    images: Annotated[
        list[Path], options.path_argument(metavar="IMAGE...", help="Images, folders, or one .npy or .npz file.")
    ],
    top_k: Annotated[int, typer.Option(min=1, metavar="K", help="How many classes to print.")] = 5,
    labels: Annotated[
        Path | None, options.path_option(metavar="FILE", help="Class names, one a line.  [default: the checkpoint's]")
    ] = None,
    outputs: Annotated[
        Path | None,
        options.path_option(metavar="FILE", help="Also write all raw outputs of all images, as .npz; held in memory."),
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Run a checkpoint on images and print its predictions.

    pmsm run r20.onnx cat.jpg dog.jpg --top-k 3
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import open_checkpoint, write_file
    from pmsm_cli.report import tables
    from pmsm_cli.report.arrays import OutputCollector
    from pmsm_cli.report.records import to_json
    from pmsm_cli.sources.images import SkippedImage

    check_outputs([outputs], inputs=[checkpoint, labels, *images])
    opened = open_checkpoint(checkpoint)
    names = pipeline.read_labels(labels, opened.model) if labels else opened.manifest.labels
    collector = OutputCollector() if outputs else None
    with console.ProgressBar() as progress:
        results = list(
            pipeline.predict_images(
                opened, images, labels=names, top_k=top_k, threads=threads, progress=progress, on_outputs=collector
            )
        )
    skipped = tuple(result for result in results if isinstance(result, SkippedImage))
    predictions = [result for result in results if not isinstance(result, SkippedImage)]
    if outputs and collector:
        write_file(outputs, collector.npz())
    console.warn_skipped(skipped)
    if json:
        console.print_json({"predictions": to_json(predictions), "skipped": to_json(skipped)})
    else:
        console.print_result(tables.prediction_table(predictions))


def report(
    checkpoint: options.CheckpointFile,
    data: Annotated[
        Path | None,
        options.path_option(
            metavar="PATH", help="Images to count spikes on; without any, what calibration saw (T = 1)."
        ),
    ] = None,
    samples: options.SomeSamples = None,
    profile: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Energy constants: 45nm, or a TOML file.")
    ] = _DEFAULT_PROFILE,
    form: Annotated[ReportFormat, typer.Option("--format", help="The form of the report.")] = ReportFormat.TABLE,
    all_sites: Annotated[bool, typer.Option("--all", help="All tensors, not only the ten most expensive.")] = False,
    output: Annotated[
        Path | None,
        options.path_option("--output", "-o", metavar="FILE", help="Write the report (json or md) to a file."),
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Count spikes and synaptic operations on images, and what they cost in energy.

    pmsm report r20.onnx --data images/ --samples 1000
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import open_checkpoint, write_file
    from pmsm_cli.report import tables

    if json and form is ReportFormat.MD:
        raise UsageError(
            "--json and --format md contradict each other", hint="with --output, one of them may be a file"
        )
    check_outputs([output], inputs=[checkpoint, data, Path(profile)])
    written = report_form(output) if form is ReportFormat.TABLE else form
    opened = open_checkpoint(checkpoint)
    with console.ProgressBar() as progress:
        images = pipeline.open_sample(data, samples, seed) if data else None
        result = pipeline.report_checkpoint(opened, images, profile=profile, threads=threads, progress=progress)
    console.warn_skipped(result.skipped)
    if output:
        write_file(output, rendered(result, written))
        console.say(f"written to {output}")
    if json:
        console.print_text(rendered(result, ReportFormat.JSON))
    elif not output and form is ReportFormat.TABLE:
        console.print_result(tables.energy_table(result, all_sites=all_sites))
    elif not output:
        console.print_text(rendered(result, form))


def _input_settings(
    preprocess: str | None, image_size: int | None, spiking_input: bool, calibration: Path | None = None
) -> "InputSettings":
    from pmsm_cli.pipeline import InputSettings

    return InputSettings(
        preprocess=preprocess, image_size=image_size, spiking_input=spiking_input, calibration=calibration
    )


def _calibration_settings(
    data: Path | None,
    samples: int,
    levels: int | None,
    match_moments: bool,
    seed: int,
    threads: int | None,
    horizon: int = 1,
) -> "CalibrationSettings":
    from pmsm_cli.pipeline import CalibrationSettings

    return CalibrationSettings(
        data=data,
        samples=samples,
        levels=levels or _DEFAULT_LEVELS,
        match_moments=match_moments,
        horizon=horizon,
        seed=seed,
        threads=threads,
    )


def _say_how_calibrated(calibrated: "Calibrated", warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        console.warn(warning)
    console.warn_skipped(calibrated.skipped)

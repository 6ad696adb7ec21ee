"""`pmsm convert` and `pmsm calibrate`: each parses, calls the stages of `pmsm_cli.pipeline`, and renders.

Everything heavy is imported inside the command that needs it, so that `pmsm --help` answers at once.
"""

from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmsm_cli.calibration.method import Method
from pmsm_cli.cli import console, options
from pmsm_cli.cli.tuning import EpochProgress, Training, check_tuning, tune_conversion
from pmsm_cli.cli.written import check_outputs, plot_form, rendered, report_form
from pmsm_cli.errors import CheckFailedError, UsageError
from pmsm_cli.lowering.precision import Precision
from pmsm_cli.neuron.coding import Coding

if TYPE_CHECKING:
    from pmsm_cli.pipeline.conversion import Calibrated, CalibrationSettings, InputSettings
    from pmsm_cli.sources.records import Weights


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
    samples: options.Samples = None,
    timesteps: Annotated[int, typer.Option("--timesteps", "-T", min=1, max=1024, help="Timesteps T.")] = 1,
    levels: options.Levels = None,
    target_drop: options.TargetDrop = None,
    method: options.ThresholdMethod = Method.ENTROPY,
    match_moments: options.MatchMoments = True,
    refit: options.Refit = None,
    coding: Annotated[
        Coding, typer.Option(help="How values spread over timesteps: ever finer corrections, or a rate.")
    ] = Coding.REFINE,
    weights: Annotated[
        Precision,
        typer.Option(
            help="Weights as they are, or in 8 bits an output channel: a quarter of the file, and integer kernels run "
            "it (several timesteps: at few levels)."
        ),
    ] = Precision.FLOAT,
    calibration: Annotated[
        Path | None,
        options.path_option(
            metavar="FILE", help="Thresholds from `pmsm calibrate`; with --data, weights are refitted."
        ),
    ] = None,
    preprocess: options.Preprocess = None,
    image_size: options.ImageSize = None,
    spiking_input: options.SpikingInput = False,
    weights_file: options.WeightsFile = None,
    random_weights: options.RandomWeights = False,
    labels: Annotated[
        Path | None, options.path_option(metavar="FILE", help="Class names, one a line, to store in the checkpoint.")
    ] = None,
    finetune: Annotated[
        int,
        typer.Option(min=0, metavar="EPOCHS", help="Then train for so many passes over all of --data (needs torch)."),
    ] = 0,
    report: Annotated[
        Path | None, options.path_option(metavar="FILE", help="Also write the energy report: .json, .md or .html.")
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
    from pmsm_cli.sources.source import check_weights, source_stem

    target = output or Path(f"{source_stem(source)}.snn.onnx")
    form = report_form(report)
    initial = check_weights(source, file=weights_file, random=random_weights, seed=seed)
    check_tuning(finetune, data, timesteps)
    options.check_samples(samples, data)
    refit = options.refits(refit, data)
    if calibration:
        # Images beside it are for its weights, for training, or for the range of what int8 carries.
        images_serve = refit or bool(finetune) or weights is Precision.INT8
        _check_calibration(data if not images_serve else None, levels, target_drop, match_moments, method)
    if report and timesteps > 1 and not data:
        raise UsageError("--report has to measure the spikes of later timesteps", hint="pass --data IMAGES as well")
    check_outputs(
        [target, report], inputs=[source, data, calibration, labels, weights_file, options.preset_file(preprocess)]
    )
    with EpochProgress() as progress:
        reading = _input_settings(preprocess, image_size, spiking_input, initial, calibration)
        loaded = pipeline.load_source(source, reading, progress)
        names = pipeline.read_labels(labels, loaded.network.model) if labels else ()
        horizon = timesteps if coding is Coding.RATE else 1
        settings = _calibration_settings(
            data, samples, levels, target_drop, method, match_moments, seed, threads, horizon, refit
        )
        if calibration:
            calibrated = pipeline.read_calibration(calibration, loaded)
        else:
            calibrated = pipeline.calibrate_source(loaded, settings, progress)
        refitted = pipeline.refit_weights(loaded, calibrated, settings, progress, timesteps=timesteps, coding=coding)
        made = pipeline.convert(loaded, calibrated, timesteps=timesteps, coding=coding, labels=names, refitted=refitted)
        training = Training(made=made)
        if finetune and data:
            training = tune_conversion(made, loaded, data, target, finetune, seed, threads, progress)
            made = training.made
        if weights is Precision.INT8:
            made = pipeline.round_to_int8(made, loaded, settings, progress)
        files: dict[Path, bytes | str] = {target: made.data}
        if report:
            checkpoint = Checkpoint(subject=str(target), model=made.model, manifest=made.manifest)
            energy = pipeline.report_checkpoint(
                checkpoint,
                pipeline.open_sample(data, settings.samples, seed) if data else None,
                profile=options.DEFAULT_PROFILE,
                threads=threads,
                progress=progress,
            )
            files[report] = rendered(energy, form)
        write_files(files)
    _say_how_calibrated(calibrated, made.warnings)
    summary = pipeline.summarise(made, target, training.tuned)
    if json:
        console.print_json(to_json(summary))
    else:
        console.print_result(tables.summary_table(summary))
    training.say_how_it_ended(target)
    _check_drop(calibrated, target_drop, target)


def calibrate(
    source: options.Source,
    path: options.DataPath,
    output: Annotated[
        Path | None,
        options.path_option(
            "--output", "-o", metavar="FILE", help="Where to write it.  [default: SOURCE.calibration.json, here]"
        ),
    ] = None,
    samples: options.Samples = None,
    levels: options.Levels = None,
    target_drop: options.TargetDrop = None,
    method: options.ThresholdMethod = Method.ENTROPY,
    match_moments: options.MatchMoments = True,
    preprocess: options.Preprocess = None,
    image_size: options.ImageSize = None,
    spiking_input: options.SpikingInput = False,
    weights_file: options.WeightsFile = None,
    random_weights: options.RandomWeights = False,
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
    from pmsm_cli.sources.source import check_weights, source_stem

    target = output or Path(f"{source_stem(source)}.calibration.json")
    form = plot_form(plot)
    weights = check_weights(source, file=weights_file, random=random_weights, seed=seed)
    if plot_sites is not None and not plot:
        raise UsageError("--plot-sites says what --plot draws: name a file with --plot")
    check_outputs([target, plot], inputs=[source, path, weights_file, options.preset_file(preprocess)])
    if plot:
        check_plotting()
    with console.ProgressBar() as progress:
        reading = _input_settings(preprocess, image_size, spiking_input, weights)
        loaded = pipeline.load_source(source, reading, progress)
        settings = _calibration_settings(path, samples, levels, target_drop, method, match_moments, seed, threads)
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
        if calibrated.calibration.allocation:
            console.print_result(tables.allocation_table(calibrated.calibration.allocation))
        console.say(f"written to {' and '.join(map(str, files))}")
    _check_drop(calibrated, target_drop, target)


def _check_calibration(
    data: Path | None, levels: str | None, target_drop: float | None, match_moments: bool, method: Method
) -> None:
    stated = {
        "--data": data is not None,
        "--levels": levels is not None,
        "--target-drop": target_drop is not None,
        "--no-match-moments": not match_moments,
        "--method": method is not Method.ENTROPY,
    }
    left_out = [option for option, given in stated.items() if given]
    if left_out:
        raise UsageError(
            f"--calibration brings its own thresholds, levels and moments: leave out {' and '.join(left_out)}",
            hint="images beside it refit weights, without --no-refit" if data else None,
        )


def _input_settings(
    preprocess: str | None,
    image_size: int | None,
    spiking_input: bool,
    weights: "Weights",
    calibration: Path | None = None,
) -> "InputSettings":
    from pmsm_cli.pipeline import InputSettings

    return InputSettings(
        preprocess=preprocess,
        image_size=image_size,
        spiking_input=spiking_input,
        weights=weights,
        calibration=calibration,
    )


def _calibration_settings(
    data: Path | None,
    samples: int | None,
    levels: str | None,
    target_drop: float | None,
    method: Method,
    match_moments: bool,
    seed: int,
    threads: int | None,
    horizon: int = 1,
    refit: bool = False,
) -> "CalibrationSettings":
    from pmsm_cli.pipeline import CalibrationSettings

    number = options.levels_number(levels)
    if target_drop is not None and number is not None:
        raise UsageError(
            f"--target-drop finds the levels, --levels {number} sets them", hint="leave out one of the two"
        )
    if target_drop is not None and method is not Method.ENTROPY:
        raise UsageError(f"--target-drop goes by entropy, --method {method} does not", hint="leave out one of the two")
    if target_drop is not None and data is None:
        raise UsageError("--target-drop has to measure what is lost", hint="pass --data IMAGES as well")
    return CalibrationSettings(
        data=data,
        samples=samples or options.DEFAULT_SAMPLES,
        levels=number,
        target_drop=target_drop,
        method=method,
        match_moments=match_moments,
        horizon=horizon,
        refit=refit,
        seed=seed,
        threads=threads,
    )


def _check_drop(calibrated: "Calibrated", target_drop: float | None, written: Path) -> None:
    """Fail where the drop that was asked for is not kept; what was found is written all the same."""
    allocation = calibrated.calibration.allocation
    if target_drop is None or allocation is None or allocation.kept:
        return
    raise CheckFailedError(
        f"no levels keep {allocation.measure} within {target_drop:g} points: {allocation.drop:.2f} are lost on "
        f"{allocation.images} images with the most spikes tried; {written} was written with these",
        hint="allow more, calibrate on more --samples, or use more --timesteps",
    )


def _say_how_calibrated(calibrated: "Calibrated", warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        console.warn(warning)
    console.warn_skipped(calibrated.skipped)

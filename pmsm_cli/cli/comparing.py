"""`pmsm compare`: parses, calls the stages of `pmsm_cli.pipeline`, and renders."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmsm_cli.cli import console, options
from pmsm_cli.cli.tuning import EpochProgress
from pmsm_cli.cli.written import ReportFormat, check_outputs, plot_form, report_form
from pmsm_cli.errors import UsageError

if TYPE_CHECKING:
    from pmsm_cli.report.comparison import Comparison

_SAMPLES, _CALIBRATION_SAMPLES, _MOST_TIMESTEPS = 500, 512, 1024
_TIMESTEPS = "1,2,4,8,16,32"


def _parse_timesteps(text: str) -> tuple[int, ...]:
    """Numbers of timesteps, rising.

    Raises:
        BadParameter: they are none.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = tuple(int(part) for part in parts if part.isdecimal())
    usable = len(numbers) == len(parts) and all(1 <= number <= _MOST_TIMESTEPS for number in numbers)
    if not usable or list(numbers) != sorted(set(numbers)):
        raise typer.BadParameter(f"{text!r} is not a rising list of numbers from 1 to {_MOST_TIMESTEPS}")
    return numbers


def compare(
    source: options.Source,
    data: Annotated[
        Path,
        options.path_option(metavar="PATH", help="Images to measure on; class sub-folders give labels."),
    ],
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="How many images to measure on.")] = _SAMPLES,
    calibration_data: Annotated[
        Path | None,
        options.path_option(
            metavar="PATH", help="Images to set thresholds on.  [default: those of --data]", show_default=False
        ),
    ] = None,
    calibration_samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many images to set thresholds on.")
    ] = _CALIBRATION_SAMPLES,
    timesteps: Annotated[
        str,
        typer.Option("--timesteps", "-T", metavar="LIST", help="Numbers of timesteps, separated by commas."),
    ] = _TIMESTEPS,
    within: Annotated[
        float,
        typer.Option(
            min=0, metavar="PCT", help="Points of top-1 (agreement, without labels) that count as keeping the accuracy."
        ),
    ] = 1.0,
    levels: options.Levels = None,
    finetune: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="EPOCHS",
            help="Also train what can be, for so many passes over all calibration images (torch).",
        ),
    ] = 0,
    preprocess: options.Preprocess = None,
    image_size: options.ImageSize = None,
    weights_file: options.WeightsFile = None,
    random_weights: options.RandomWeights = False,
    profile: options.Profile = options.DEFAULT_PROFILE,
    form: Annotated[
        ReportFormat, typer.Option("--format", metavar="[table|json|md]", help="The form of the report.")
    ] = ReportFormat.TABLE,
    output: Annotated[
        Path | None,
        options.path_option("--output", "-o", metavar="FILE", help="Write the comparison (json or md) to a file."),
    ] = None,
    plot: Annotated[
        Path | None,
        options.path_option(
            metavar="FILE", help="Also draw accuracy against timesteps and energy: .png, .svg or .pdf (matplotlib)."
        ),
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Convert one network by several methods, and measure accuracy, spikes and energy of each after T timesteps.

    pmsm compare resnet20.onnx --data test/ --calibration-data train/ --preprocess imagenet
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import write_files
    from pmsm_cli.pipeline.bench import ComparisonSettings
    from pmsm_cli.pipeline.comparison import compare as compare_methods
    from pmsm_cli.report.compare_plot import comparison_plot
    from pmsm_cli.report.compare_table import comparison_table
    from pmsm_cli.report.plot import check_plotting
    from pmsm_cli.sources.source import check_weights

    steps = _parse_timesteps(timesteps)
    if json and form is ReportFormat.MD:
        raise UsageError(
            "--json and --format md contradict each other", hint="with --output, one of them may be a file"
        )
    written, drawn = report_form(output, stated=form), plot_form(plot)
    if ReportFormat.HTML in (form, written):
        raise UsageError("a comparison has no page", hint="--format md, or --plot FILE.svg for a picture")
    weights = check_weights(source, file=weights_file, random=random_weights, seed=seed)
    check_outputs(
        [output, plot],
        inputs=[source, data, calibration_data, Path(profile), weights_file, options.preset_file(preprocess)],
    )
    if plot:
        check_plotting()
    if finetune:
        pipeline.check_torch()
    settings = ComparisonSettings(
        data=data,
        calibration_data=calibration_data,
        samples=samples,
        calibration_samples=calibration_samples,
        timesteps=steps,
        within=within,
        levels=options.levels_number(levels),
        finetune=finetune,
        profile=profile,
        seed=seed,
        threads=threads,
    )
    with EpochProgress() as progress:
        reading = pipeline.InputSettings(preprocess=preprocess, image_size=image_size, weights=weights)
        loaded = pipeline.load_source(source, reading, progress)
        result = compare_methods(loaded, settings, progress)
        files: dict[Path, bytes | str] = {}
        if output:
            files[output] = _rendered(result, written)
        if plot:
            files[plot] = comparison_plot(result, form=drawn)
        write_files(files)
    for warning in result.warnings:
        console.warn(warning)
    console.warn_skipped(result.skipped)
    if files:
        console.say(f"written to {' and '.join(map(str, files))}")
    if json:
        console.print_text(_rendered(result, ReportFormat.JSON))
    elif form is ReportFormat.TABLE:
        console.print_result(comparison_table(result))
    elif not output:
        console.print_text(_rendered(result, form))


def _rendered(result: "Comparison", form: ReportFormat) -> str:
    """A comparison as the text of a file."""
    from pmsm_cli.report.compare_table import comparison_markdown
    from pmsm_cli.report.records import to_json

    return comparison_markdown(result) if form is ReportFormat.MD else dumps(to_json(result), indent=2) + "\n"

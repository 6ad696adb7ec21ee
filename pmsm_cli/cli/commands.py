"""The commands that look at a network or run it: each parses, calls the stages of `pmsm_cli.pipeline`, and renders.

Everything heavy is imported inside the command that needs it, so that `pmsm --help` answers at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmsm_cli.cli import console, options
from pmsm_cli.cli.written import Form, ReportFormat, check_outputs, rendered, report_form
from pmsm_cli.errors import CheckFailedError, UsageError

if TYPE_CHECKING:
    from pmsm_cli.checkpoint.file import Checkpoint
    from pmsm_cli.sources.images import ImageSet
    from pmsm_cli.sources.records import Source


def inspect(
    source: Annotated[
        Path,
        options.path_argument(
            metavar="SOURCE|CHECKPOINT",
            help="A network (.onnx, or timm:NAME) or a spiking checkpoint.",
            show_default=False,
        ),
    ],
    preprocess: options.Preprocess = None,
    image_size: options.ImageSize = None,
    spiking_input: options.SpikingInput = False,
    weights_file: options.WeightsFile = None,
    random_weights: options.RandomWeights = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Show what becomes spikes, what stays analog and why, and the share of the work that spikes drive.

    pmsm inspect resnet20.onnx
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import open_checkpoint
    from pmsm_cli.report import tables
    from pmsm_cli.report.records import to_json
    from pmsm_cli.sources.source import check_weights

    manifest = None
    weights = check_weights(source, file=weights_file, random=random_weights, seed=seed)
    if pipeline.is_checkpoint(source):
        if preprocess or image_size or spiking_input:
            raise UsageError(
                "is a checkpoint, in which all is settled: leave out --preprocess, --image-size and --spiking-input",
                subject=str(source),
            )
        manifest = open_checkpoint(source).manifest
        plan = manifest.plan
    else:
        settings = pipeline.InputSettings(
            preprocess=preprocess or "none", image_size=image_size, spiking_input=spiking_input, weights=weights
        )
        with console.ProgressBar() as progress:
            loaded = pipeline.load_source(source, settings, progress)
        for warning in loaded.warnings:
            console.warn(warning)
        plan = loaded.plan
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
    weights_file: options.WeightsFile = None,
    random_weights: options.RandomWeights = False,
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
    from pmsm_cli.sources.source import check_weights

    if max_drop is not None and against is None:
        raise UsageError("--max-drop compares with the source: name it with --against")
    weights = check_weights(against, file=weights_file, random=random_weights, seed=seed)
    opened = open_checkpoint(checkpoint)
    if max_drop is not None and not pipeline.tells_classes_apart(opened):
        raise UsageError(
            "--max-drop compares classes, which the network gives no scores of",
            subject=str(checkpoint),
            hint="leave it out",
        )
    with console.ProgressBar() as progress:
        images = pipeline.open_sample(path, samples, seed, classes=opened.manifest.labels)
        source = pipeline.open_source_of(opened, against, weights, progress) if against else None
        result = pipeline.evaluate_checkpoint(opened, images, against=source, threads=threads, progress=progress)
    console.warn_skipped(result.skipped)
    _warn_of_inputs(opened, images, source)
    for remark in pipeline.accuracy_remarks(result, images, opened.model):
        console.warn(remark)
    if json:
        console.print_json(to_json(result))
    else:
        console.print_result(tables.evaluation_table(result))
    drop = result.drop
    if max_drop is None:
        return
    if drop is None:  # the graph did not say so, but several rows an image are no scores of classes
        raise CheckFailedError("there are no classes to compare", subject=str(checkpoint), hint="leave out --max-drop")
    if drop > max_drop:
        fact = f"lost {drop:.2f} points, {max_drop:g} were allowed"
        raise CheckFailedError(fact, subject=str(checkpoint), hint="convert with more --levels or --timesteps")


def report(
    checkpoint: options.CheckpointFile,
    data: Annotated[
        Path | None,
        options.path_option(
            metavar="PATH", help="Images to count spikes on; without any, what calibration saw (T = 1)."
        ),
    ] = None,
    samples: options.SomeSamples = None,
    profile: options.Profile = options.DEFAULT_PROFILE,
    against: options.Against = None,
    weights_file: options.WeightsFile = None,
    random_weights: options.RandomWeights = False,
    form: Form = ReportFormat.TABLE,
    all_sites: Annotated[bool, typer.Option("--all", help="All tensors, not only the ten most expensive.")] = False,
    output: Annotated[
        Path | None,
        options.path_option("--output", "-o", metavar="FILE", help="Write the report to a file: .json, .md or .html."),
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
    from pmsm_cli.report.energy_table import EnergyTable
    from pmsm_cli.sources.source import check_weights

    if json and form in (ReportFormat.MD, ReportFormat.HTML):
        raise UsageError(
            f"--json and --format {form} contradict each other", hint="with --output, one of them may be a file"
        )
    options.check_samples(samples, data)
    if against and not data:
        raise UsageError("--against measures the source's accuracy", hint="pass --data IMAGES as well")
    weights = check_weights(against, file=weights_file, random=random_weights, seed=seed)
    check_outputs([output], inputs=[checkpoint, data, Path(profile), against, weights_file])
    written = report_form(output, stated=form)
    opened = open_checkpoint(checkpoint)
    with console.ProgressBar() as progress:
        images = pipeline.open_sample(data, samples, seed, classes=opened.manifest.labels) if data else None
        source = pipeline.open_source_of(opened, against, weights, progress) if against else None
        result = pipeline.report_checkpoint(
            opened, images, profile=profile, threads=threads, progress=progress, against=source
        )
    console.warn_skipped(result.skipped)
    _warn_of_inputs(opened, images, source)
    if images and images.labels is not None and not pipeline.has_labels(opened, images):
        console.warn(f"{data}: its labels need more classes than the network has, so that there is no accuracy")
    if output:
        write_file(output, rendered(result, written))
        console.say(f"written to {output}")
    if json:
        console.print_text(rendered(result, ReportFormat.JSON))
    elif not output and form is ReportFormat.TABLE:
        console.print_result(EnergyTable(result, all_sites=all_sites))
    elif not output:
        console.print_text(rendered(result, form))


def _warn_of_inputs(opened: "Checkpoint", images: "ImageSet | None", source: "Source | None") -> None:
    from pmsm_cli import pipeline

    of_images: tuple[str, ...] = ()
    if images:
        manifest = opened.manifest
        of_images = pipeline.image_remarks(images, opened.model, manifest.preprocessing, known=manifest.labels)
    of_source = pipeline.source_remarks(source, opened) if source else ()
    for remark in (*of_images, *of_source):
        console.warn(remark)

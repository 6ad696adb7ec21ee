"""`pmsm diff`: parses, calls the stages of `pmsm_cli.pipeline`, and renders."""

from pathlib import Path
from typing import Annotated

import typer

from pmsm_cli.cli import console, options
from pmsm_cli.errors import CheckFailedError, UsageError

_DEFAULT_DROP = 0.5
_SAMPLES = 500


def diff(
    checkpoint: options.CheckpointFile,
    against: Annotated[Path, options.path_option(metavar="SOURCE", help=options.AGAINST_HELP, show_default=False)],
    data: Annotated[Path, options.path_option(metavar="PATH", help="Images to compare on.", show_default=False)],
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="How many images to draw.")] = _SAMPLES,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Find the fewest tensors that need more levels to keep the accuracy.")
    ] = False,
    target_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="PCT",
            help="Points of top-1 (agreement, without labels) that may be lost, for --bisect; exit with code 5 where "
            "more levels cannot keep that.  [default: 0.5, kept as well as can be]",
            show_default=False,
        ),
    ] = None,
    all_sites: Annotated[bool, typer.Option("--all", help="All tensors, not only the twenty most damaging.")] = False,
    weights_file: options.WeightsFile = None,
    random_weights: options.RandomWeights = False,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Show where a checkpoint's accuracy goes: the error of each tensor's spikes, alone and accumulated.

    pmsm diff r20.onnx --against resnet20.onnx --data images/ --bisect
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import open_checkpoint
    from pmsm_cli.pipeline.difference import diff_checkpoint
    from pmsm_cli.report.diff_table import difference_table
    from pmsm_cli.report.records import to_json
    from pmsm_cli.sources.source import check_weights

    if target_drop is not None and not bisect:
        raise UsageError("--target-drop is what --bisect looks for: pass --bisect as well")
    allowed = _DEFAULT_DROP if target_drop is None else target_drop
    weights = check_weights(against, file=weights_file, random=random_weights, seed=seed)
    opened = open_checkpoint(checkpoint)
    with console.ProgressBar() as progress:
        images = pipeline.open_sample(data, samples, seed, classes=opened.manifest.labels)
        result = diff_checkpoint(
            opened,
            images,
            pipeline.open_source_of(opened, against, weights, progress),
            target_drop=allowed if bisect else None,
            seed=seed,
            threads=threads,
            progress=progress,
        )
    read_as, known = opened.manifest.preprocessing, opened.manifest.labels
    for warning in (*result.warnings, *pipeline.image_remarks(images, opened.model, read_as, known=known)):
        console.warn(warning)
    console.warn_skipped(result.skipped)
    if json:
        console.print_json(to_json(result))
    else:
        console.print_result(difference_table(result, all_sites=all_sites))
    found = result.bisection
    if target_drop is not None and found and not found.kept:
        raise CheckFailedError(
            f"{found.factor} times the levels at all tensors still lose {found.drop_everywhere:.2f} points of "
            f"{found.measure}, {target_drop:g} were allowed",
            subject=str(checkpoint),
            hint="convert with --timesteps 2 or more, or calibrate on more --samples",
        )

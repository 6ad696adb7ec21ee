"""`pmsm run`: parses, calls the stages of `pmsm_cli.pipeline`, and renders."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmsm_cli.cli import console, options
from pmsm_cli.cli.written import check_outputs
from pmsm_cli.errors import InterruptedRunError, UsageError

if TYPE_CHECKING:
    from pmsm_cli.checkpoint.lines import LineFile
    from pmsm_cli.runtime.predict import Prediction
    from pmsm_cli.sources.images import SkippedImage


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
    lines: Annotated[
        Path | None,
        options.path_option(
            metavar="FILE", help="Write each result when it comes, a JSON object a line, instead of printing them all."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the --lines of an earlier run: leave out what they have.")
    ] = False,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Run a checkpoint on images and print its predictions.

    pmsm run r20.onnx cat.jpg dog.jpg --top-k 3
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import open_checkpoint, write_file
    from pmsm_cli.checkpoint.lines import line_file
    from pmsm_cli.report import tables
    from pmsm_cli.report.arrays import OutputCollector
    from pmsm_cli.report.records import to_json
    from pmsm_cli.sources.images import SkippedImage

    if resume and not lines:
        raise UsageError("--resume goes on with a file of results: name it with --lines")
    if resume and outputs:
        raise UsageError("--outputs holds the raw outputs of one whole run, and --resume leaves images out")
    check_outputs([outputs, lines], inputs=[checkpoint, labels, *images])
    opened = open_checkpoint(checkpoint)
    names = pipeline.read_labels(labels, opened.model) if labels else opened.manifest.labels
    collector = OutputCollector() if outputs else None
    with console.ProgressBar() as progress:
        if lines:
            with line_file(lines, sha256=opened.sha256, resume=resume) as file:
                results = pipeline.predict_images(
                    opened,
                    images,
                    labels=names,
                    top_k=top_k,
                    threads=threads,
                    progress=progress,
                    on_outputs=collector,
                    done=file.done,
                )
                counted = _write_lines(file, results)
        else:
            printed = list(
                pipeline.predict_images(
                    opened, images, labels=names, top_k=top_k, threads=threads, progress=progress, on_outputs=collector
                )
            )
    if outputs and collector:
        write_file(outputs, collector.npz())
    if lines:
        if json:
            console.print_json({"lines": str(lines), **counted})
        else:
            console.say(
                "{images} image(s) written to {lines}, {skipped} of them unreadable".format(lines=lines, **counted)
            )
        return
    skipped = tuple(result for result in printed if isinstance(result, SkippedImage))
    predictions = [result for result in printed if not isinstance(result, SkippedImage)]
    console.warn_skipped(skipped)
    if json:
        console.print_json({"predictions": to_json(predictions), "skipped": to_json(skipped)})
    else:
        console.print_result(tables.prediction_table(predictions))


def _write_lines(file: "LineFile", results: "Iterator[Prediction | SkippedImage]") -> dict[str, int]:
    """Write results as they come; how many there were, and how many of them were skipped images.

    Raises:
        InterruptedRunError: the user interrupted it; what was written by then stays.
    """
    from pmsm_cli.report.records import to_json
    from pmsm_cli.sources.images import SkippedImage

    images = skipped = 0
    try:
        for result in results:
            if isinstance(result, SkippedImage):
                file.write({"image": result.name, "skipped": result.reason})
                skipped += 1
            else:
                file.write(to_json(result))
            images += 1
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"interrupted after {images} image(s), which {file.path} has", hint="the same command with --resume goes on"
        ) from error
    return {"images": images, "skipped": skipped}

"""`pmsm bench`: parses, calls the stages of `pmsm_cli.pipeline`, and renders."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pmsm_cli.cli import console, options
from pmsm_cli.errors import UsageError


def bench(
    checkpoint: options.CheckpointFile,
    against: options.Against = None,
    data: Annotated[
        Path | None,
        options.path_option(
            metavar="PATH",
            help="Images that onnxruntime's quantisation of the source calibrates on; else synthetic ones.",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Images at a time.  [default: 1, or what the network fixes]"),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, metavar="N", help="How often each network runs.")] = 50,
    weights_file: options.WeightsFile = None,
    random_weights: options.RandomWeights = False,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Time a checkpoint in every form that it runs in, beside its source in float and as onnxruntime quantises it.

    pmsm bench r20.onnx --against resnet20.onnx --threads 2
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import open_checkpoint
    from pmsm_cli.pipeline.racing import BenchSettings, bench_checkpoint
    from pmsm_cli.report.bench_table import bench_table
    from pmsm_cli.report.records import to_json
    from pmsm_cli.sources.source import check_weights

    if data and not against:
        raise UsageError("--data serves to quantise the source", hint="pass --against SOURCE as well")
    weights = check_weights(against, file=weights_file, random=random_weights, seed=seed)
    opened = open_checkpoint(checkpoint)
    settings = BenchSettings(data=data, batch=batch, runs=runs, threads=threads, seed=seed)
    with console.ProgressBar() as progress, tempfile.TemporaryDirectory(prefix="pmsm-bench-") as folder:
        source = pipeline.open_source_of(opened, against, weights, progress) if against else None
        result = bench_checkpoint(opened, source, settings, Path(folder), progress)
    for warning in result.warnings:
        console.warn(warning)
    if json:
        console.print_json(to_json(result))
        return
    title = f"{opened.manifest.source_name}, T = {result.timesteps}, {result.weights} weights"
    count = "all" if threads is None else str(threads)
    remark = (
        f"{result.runs} runs of {result.batch} image(s) each, in turn, {count} thread(s); "
        f"onnxruntime {result.onnxruntime} on {result.machine}"
    )
    table = bench_table(result.contenders, ann=result.ann, snn=result.snn, title=title, remark=remark)
    console.print_result(table)

"""Records as rich tables for the terminal."""

from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pmsm_cli.calibration.allocation import Allocation
from pmsm_cli.calibration.calibrate import Calibration, SiteCalibration
from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.report.calibration_table import CalibrationTable
from pmsm_cli.report.numbers import count, percent
from pmsm_cli.report.summary import ConversionSummary, TuningSummary
from pmsm_cli.runtime.evaluate import Evaluation
from pmsm_cli.runtime.predict import Prediction

_MOST_COLUMNS = 3  # of outputs, beside each other


def summary_table(summary: ConversionSummary) -> RenderableType:
    """One look at a conversion."""
    table = titled_table(f"{summary.source} as a spiking network")
    table.add_column("")
    table.add_column("", overflow="fold")
    timesteps = str(summary.timesteps) if summary.timesteps == 1 else f"{summary.timesteps}, {summary.coding}"
    table.add_row("checkpoint", str(summary.checkpoint), style="bold")
    table.add_row("timesteps", timesteps)
    refitted = f", refitted in {summary.synapses_refitted} layers" if summary.synapses_refitted else ""
    table.add_row("weights", f"{summary.weights}{refitted}")
    table.add_row("spiking tensors", f"{summary.sites}, at most {summary.levels} spikes of one sign")
    table.add_row("driven by spikes", f"{percent(summary.spiking_share)} of the multiply-accumulates")
    table.add_row("stays analog", ", ".join(summary.analog) or "nothing")
    table.add_row("calibrated on", f"{summary.origin} ({summary.images} images)")
    table.add_row("spikes per neuron", f"{summary.mean_spikes:.2f} at the first timestep")
    worst = f"{summary.worst_db:.1f} dB at the worst tensor, {summary.worst_site}"
    table.add_row("signal to distortion", worst if np.isfinite(summary.worst_db) else "no distortion")
    table.show_header = False
    parts: list[RenderableType] = [table]
    if summary.allocation:
        parts.append(allocation_table(summary.allocation))
    if summary.finetuning:
        parts.append(tuning_table(summary.finetuning))
    return Group(*parts)


def allocation_table(allocation: Allocation) -> RenderableType:
    """What can be had for how many spikes, the point that was chosen in bold."""
    table = titled_table(f"accuracy against spikes, on {allocation.images} calibration images")
    for name in ("spikes per neuron", "levels, both signs", "most of one", "top-1", "agreement", "output error"):
        table.add_column(name, justify="right")
    for point in allocation.curve:
        table.add_row(
            f"{point.spikes_per_neuron:.2f}",
            f"{point.mean_levels:.1f}",
            str(point.most_levels),
            percent(point.top1, 2),
            percent(point.agreement, 2),
            percent(point.output_error, 2),
            style="bold" if point == allocation.chosen else None,
        )
    unit = "%" if allocation.measure == "output error" else "points"
    wanted = f"{allocation.target_drop:g} {unit} of {allocation.measure} may be lost"
    return Group(table, Text(wanted if allocation.kept else f"{wanted}: no point keeps that, the finest was taken"))


def tuning_table(summary: TuningSummary) -> RenderableType:
    """Loss and accuracy after each epoch, the one that was written in bold."""
    goal = f"towards {summary.teacher_name}" if summary.teacher == "source" else "towards the labels"
    table = titled_table(f"{summary.source}, fine-tuned {goal}")
    table.add_column("epoch", justify="right")
    for name in ("training loss", "loss", "agreement", "top-1", "seconds"):
        table.add_column(name, justify="right")
    for record in summary.epochs:
        table.add_row(
            str(record.epoch),
            "" if record.training_loss is None else f"{record.training_loss:.4g}",
            f"{record.loss:.4g}",
            percent(record.agreement, 2),
            percent(record.top1, 2),
            f"{record.seconds:.1f}",
            style="bold" if record.epoch == summary.best_epoch else None,
        )
    trained = f"trained on {summary.images} images of {summary.origin}; measured on images held out from them"
    written = f"epoch {summary.best_epoch} written to {summary.checkpoint}"
    return Group(table, Text(trained), Text(written, style="bold"))


def plan_table(plan: SitePlan, manifest: Manifest | None = None) -> RenderableType:
    """What becomes spikes, what stays analog and why; with the neurons, for a checkpoint."""
    calibrated = {site.name: site for site in manifest.calibration.sites} if manifest else {}
    table = titled_table("What becomes spikes")
    table.add_column("tensor", overflow="fold")
    table.add_column("read by", overflow="fold")
    for name in ("neurons", "MACs", "share"):
        table.add_column(name, justify="right")
    if manifest:
        for name in ("threshold", "levels"):
            table.add_column(name, justify="right")
    for site in plan.sites:
        readers = Counted(reader.op_type for reader in site.readers)
        analog = f"; as a value: {Counted(site.analog_readers)}" if site.analog_readers else ""
        share = percent(100 * site.macs / plan.total_macs) if plan.total_macs else "-"
        row = [site.name, f"{readers}{analog}", count(site.neurons), count(site.macs), share]
        if manifest:
            row += _neuron_cells(calibrated[site.name])
        table.add_row(*row)
    parts: list[RenderableType] = [table]
    if plan.analog_layers:
        rest = titled_table("What multiplies and accumulates without spikes")
        rest.add_column("layer", overflow="fold")
        rest.add_column("operator")
        rest.add_column("why", overflow="fold")
        rest.add_column("MACs", justify="right")
        for layer in plan.analog_layers:
            rest.add_row(layer.node, layer.op_type, layer.reason, count(layer.macs))
        parts.append(rest)
    others = ", ".join(f"{number} {op_type}" for op_type, number in plan.other_ops.items())
    parts.append(Text(f"Evaluated on running values: {others or 'nothing'}"))
    parts.append(
        Text(
            f"{len(plan.sites)} tensors become spikes and drive {percent(plan.spiking_share)} "
            f"of {count(plan.total_macs)} multiply-accumulates per image (products with padding not counted)",
            style="bold",
        )
    )
    return Group(*parts)


def calibration_table(calibration: Calibration) -> RenderableType:
    """Thresholds, levels and what they keep of the activations."""
    return CalibrationTable(calibration)


def evaluation_table(evaluation: Evaluation) -> RenderableType:
    """Accuracy at every step beside the source's, and the distance between their outputs."""
    table = titled_table(f"{evaluation.images} images")
    table.add_column("")
    columns = _error_columns(evaluation)
    for name in ("top-1", "top-5", "agreement", *columns):
        table.add_column(name, justify="right")
    if evaluation.ann:
        table.add_row("source", percent(evaluation.ann.top1, 2), percent(evaluation.ann.top5, 2))
    last = evaluation.timesteps - 1
    for step in range(evaluation.timesteps):
        agreements = evaluation.agreement_per_step
        table.add_row(
            f"spiking, T = {step + 1}",
            percent(evaluation.snn.top1_per_step[step] if evaluation.snn.top1_per_step else None, 2),
            percent(evaluation.snn.top5, 2) if step == last else "",
            percent(agreements[step] if agreements else None, 2),
            *(percent(errors[step] if errors else None, 2) for errors in columns.values()),
            style="bold" if step == last else None,
        )
    return table


def _error_columns(evaluation: Evaluation) -> dict[str, tuple[float, ...]]:
    """The errors of the outputs at each step, by the column that shows them; those of many outputs as their mean."""
    outputs = evaluation.outputs
    if len(outputs) > _MOST_COLUMNS:
        counted = sum(not each.whole_numbers for each in outputs) or len(outputs)
        return {f"output error, mean of {counted}": evaluation.output_errors}
    kinds = ["differing" if each.whole_numbers else "output error" for each in outputs] or ["output error"]
    if len(outputs) < 2:
        return {kinds[0]: evaluation.output_errors}
    return {f"{kind}: {each.name}": each.per_step for kind, each in zip(kinds, outputs, strict=True)}


def prediction_table(predictions: Iterable[Prediction]) -> RenderableType:
    """The best classes of each image, or what its outputs look like."""
    table = titled_table(None)
    table.add_column("image", overflow="fold")
    table.add_column("prediction", overflow="fold")
    table.add_column("score", justify="right")
    for prediction in predictions:
        name = prediction.image.encode(errors="backslashreplace").decode()  # as it is printed, so that columns stay
        for scored in prediction.top:
            table.add_row(name, scored.label or f"class {scored.index}", f"{scored.score:.3f}")
            name = ""
        for output in prediction.outputs:
            shape = "x".join(str(size) for size in output.shape) or "one number"
            limits = f"{output.lowest:.3g} to {output.highest:.3g}"
            table.add_row(name, f"{output.name}: {shape}, {limits}", f"mean {output.mean:.3g}")
            name = ""
    return table


class Counted:
    """Names with how often each occurs: `2 Conv, Gemm`."""

    def __init__(self, names: Iterable[str]) -> None:
        """Count the names."""
        self._counts: dict[str, int] = {}
        for name in names:
            self._counts[name] = self._counts.get(name, 0) + 1

    def __str__(self) -> str:
        """The names, each once."""
        return ", ".join(f"{number} {name}" if number > 1 else name for name, number in self._counts.items())


def titled_table(title: str | None) -> Table:
    """A table in the look that all of them have."""
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold cyan")


def _neuron_cells(site: SiteCalibration) -> Sequence[str]:
    parameters = site.parameters
    low, high = float(np.min(parameters.threshold)), float(np.max(parameters.threshold))
    threshold = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    return threshold, f"{-parameters.negative_levels} to {parameters.positive_levels}"

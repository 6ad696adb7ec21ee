"""What commands write beside their results: whether it can be written, and in which form."""

from collections.abc import Sequence
from enum import StrEnum
from json import dumps
from os.path import realpath  # which, unlike a Path's own, goes no circles where links do
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmsm_cli.errors import UsageError

if TYPE_CHECKING:
    from pmsm_cli.energy.records import EnergyReport


class ReportFormat(StrEnum):
    """The forms that a report comes in."""

    TABLE = "table"
    JSON = "json"
    MD = "md"
    HTML = "html"


Form = Annotated[ReportFormat, typer.Option("--format", help="The form of the report.")]


def check_outputs(outputs: Sequence[Path | None], *, inputs: Sequence[Path | None]) -> None:
    """Refuse outputs that cannot be written, or that would take the place of an input or of each other."""
    from pmsm_cli.checkpoint.file import check_writable

    given = [path for path in inputs if path]
    read, written = {realpath(path) for path in given}, set[str]()
    for path in outputs:
        if path:
            check_writable(path)
            if path.exists() and (realpath(path) not in read) and _is_part_of(path, given):
                raise UsageError("is part of what the command reads", subject=str(path), hint="name another file")
            for others, what in ((read, "is written and read by one command"), (written, "is written twice")):
                if realpath(path) in others:
                    raise UsageError(what, subject=str(path), hint="name another file")
            written.add(realpath(path))


def _is_part_of(path: Path, inputs: Sequence[Path]) -> bool:
    """Whether a file is an image in one of the folders, or holds weights of one of the networks."""
    from pmsm_cli.sources.images import IMAGE_SUFFIXES
    from pmsm_cli.sources.onnx_file import external_files

    target = Path(realpath(path))
    for each in inputs:
        own = Path(realpath(each))
        if own.is_dir() and target.suffix.lower() in IMAGE_SUFFIXES and target.is_relative_to(own):
            return True
        beside = own.suffix == ".onnx" and target.is_relative_to(own.parent)
        if beside and any(realpath(file) == str(target) for file in external_files(own)):
            return True
    return False


def report_form(path: Path | None, *, stated: ReportFormat = ReportFormat.TABLE) -> ReportFormat:
    """The form of a report: the stated one, or else what its file's ending means.

    Raises:
        UsageError: the ending means nothing, or another form than the stated one.
    """
    forms = {f".{form}": form for form in (ReportFormat.JSON, ReportFormat.MD, ReportFormat.HTML)}
    if stated is not ReportFormat.TABLE:
        if path is not None and forms.get(path.suffix, stated) is not stated:
            raise UsageError(f"--format {stated} and the ending of {path} contradict each other")
        return stated
    if path is not None and path.suffix not in forms:
        raise UsageError(
            f"a report is written as {', '.join(forms)}, not {path.suffix or 'without an ending'}", subject=str(path)
        )
    return forms[path.suffix] if path else ReportFormat.TABLE


def plot_form(path: Path | None) -> str:
    """The form that a picture's ending means; png where there is none to draw."""
    forms = (".png", ".svg", ".pdf")
    if path is not None and path.suffix.lower() not in forms:
        raise UsageError(
            f"a plot is written as {', '.join(forms)}, not {path.suffix or 'without an ending'}", subject=str(path)
        )
    return path.suffix.lower()[1:] if path else "png"


def rendered(result: "EnergyReport", form: ReportFormat) -> str:
    """A report as the text of a file."""
    from pmsm_cli.report.markdown import energy_markdown
    from pmsm_cli.report.page import energy_page
    from pmsm_cli.report.records import to_json

    if form is ReportFormat.HTML:
        return energy_page(result)
    return energy_markdown(result) if form is ReportFormat.MD else dumps(to_json(result), indent=2) + "\n"

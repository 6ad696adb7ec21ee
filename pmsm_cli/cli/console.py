"""The two consoles (results on stdout, everything else on stderr) and the progress bar."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from pmsm_cli.errors import SetupError

_WIDTH_IN_A_FILE = 120  # rich takes 80 where there is no terminal, too narrow for the names of nodes
_MOST_NAMED = 5


def results() -> Console:
    """The console for results."""
    width = None if sys.stdout.isatty() else shutil.get_terminal_size((_WIDTH_IN_A_FILE, 24)).columns
    return Console(width=width, markup=False, emoji=False)  # names of files and nodes may look like either


def messages() -> Console:
    """The console for progress, warnings and errors."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_result(result: RenderableType) -> None:
    """Print a table or a text as the command's result."""
    with _until_the_reader_leaves():
        results().print(result)


def print_json(record: Any) -> None:
    """Print one JSON object as the command's result."""
    print_text(json.dumps(record, indent=2) + "\n")


def print_text(text: str) -> None:
    """Print text as it is, as the command's result."""
    with _until_the_reader_leaves():
        sys.stdout.write(text)


def say(text: str) -> None:
    """A remark beside the result."""
    messages().print(text)


def warn(text: str) -> None:
    """A warning that does not stop the command."""
    messages().print(Text.assemble(("warning:", "yellow"), " ", text))


def warn_skipped(skipped: "tuple[Any, ...]") -> None:
    """Say how many images could not be read, and which."""
    if skipped:
        warn(f"{len(skipped)} image(s) could not be read and were skipped:")
        for image in skipped[:_MOST_NAMED]:
            say(f"  {image.name}: {image.reason}")
        if len(skipped) > _MOST_NAMED:
            say(f"  ... and {len(skipped) - _MOST_NAMED} more")


def print_error(text: str) -> None:
    """The message that a failed command ends with."""
    with contextlib.suppress(OSError):  # as a full disk has it: the exit code says as much
        messages().print(Text.assemble(("error:", "bold red"), " ", text))


@contextlib.contextmanager
def _until_the_reader_leaves() -> Iterator[None]:
    """Print to the end, or until whoever reads has had enough: `pmsm inspect ... | head` is no failure."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich turns the one into the other
        drop_what_is_left()
    except OSError as error:
        drop_what_is_left()
        raise SetupError(f"cannot be written ({error.strerror})", subject="the standard output") from error


def drop_what_is_left() -> None:
    """Print nowhere what could not be printed, so that Python does not fail on it at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ProgressBar:
    """Progress of the stages of one command; a `with` block around them clears it in the end."""

    def __init__(self) -> None:
        """A bar without stages yet."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=messages(),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` images begins."""
        self._task = self._bar.add_task(stage, total=total)

    def advance(self, images: int) -> None:
        """So many more images are done."""
        if self._task is not None:
            self._bar.advance(self._task, images)

    def say(self, text: str) -> None:
        """A remark above the bar, which stays."""
        self._bar.console.print(text)

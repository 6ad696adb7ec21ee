"""Results as JSON lines in a file that grows while they come, and that a later run goes on with."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pmsm_cli.errors import DataError, SetupError

KEY = "image"  # what every line names
CHECKPOINT = "checkpoint"  # and by what it was made: the first digits of the file's sha256
_DIGITS = 12
_BEGINNING = f'{{"{KEY}": '.encode()  # of every line


class LineFile:
    """A file of JSON objects, one a line; whatever interrupts the run, what was written before is whole."""

    def __init__(self, path: Path, *, sha256: str, resume: bool) -> None:
        """Open a new file, or go on with one that is there; `done` are the images that it has by then.

        `sha256` is that of the checkpoint whose results these are.

        Raises:
            SetupError: it is there already and is not to be resumed, or cannot be written.
            DataError: what is there are no results of ours, or those of another checkpoint.
        """
        self.path, self.checkpoint = path, sha256[:_DIGITS]
        if path.exists() and not resume:
            raise SetupError(
                "is there already", subject=str(path), hint="pass --resume to go on with it, or name another file"
            )
        self._new = not path.exists()
        try:
            self.done = _whole_lines(path, self.checkpoint) if path.exists() else frozenset()
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise SetupError(f"cannot be written ({error.strerror})", subject=str(path)) from error

    def write(self, record: dict[str, Any]) -> None:
        """Add one result.

        Raises:
            SetupError: the disk is full.
        """
        try:
            self._file.write(json.dumps({**record, CHECKPOINT: self.checkpoint}) + "\n")
            self._file.flush()
        except OSError as error:
            raise SetupError(
                f"cannot be written ({error.strerror})", subject=str(self.path), hint="make room, then pass --resume"
            ) from error

    def close(self) -> None:
        """Let go of the file; a new one without any result is taken away again."""
        with contextlib.suppress(OSError):
            self._file.close()
            if self._new and not self.path.stat().st_size:
                self.path.unlink()


@contextlib.contextmanager
def line_file(path: Path, *, sha256: str, resume: bool) -> Iterator[LineFile]:
    """A `LineFile` for the length of a block."""
    lines = LineFile(path, sha256=sha256, resume=resume)
    try:
        yield lines
    finally:
        lines.close()


def _whole_lines(path: Path, checkpoint: str) -> frozenset[str]:
    """The images that a file has results of; a last line that was cut short is taken off it."""
    names, end = set(), 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") and line.startswith(_BEGINNING[: len(line)]):
                break
            try:
                record = json.loads(line)
                names.add(str(record[KEY]))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"its line {number} is no result of `pmsm run --lines`", subject=str(path), hint="name another file"
                ) from error
            # Lines of earlier versions do not say.
            if record.get(CHECKPOINT, checkpoint) != checkpoint:
                raise DataError(
                    f"its line {number} is of another checkpoint", subject=str(path), hint="name another file"
                )
            end += len(line)
        file.truncate(end)
    return frozenset(names)

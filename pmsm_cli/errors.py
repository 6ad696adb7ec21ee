"""The errors that a user can cause, and the exit code that each of them ends the program with.

Everything else that escapes is a bug of ours and ends with Python's own traceback and exit code 1.
"""

from collections.abc import Sequence


class PmsmError(Exception):
    """A failure that the user can mend: the fact, what it is about, the culprits, and one remedy.

    `problem` states the fact in one line. `subject` is the file, folder or option that it is about. `details` lists
    the culprits, one a line (nodes by their ONNX names, files by their paths). `hint` is one thing to try.
    """

    exit_code = 1

    def __init__(
        self, problem: str, *, subject: str | None = None, details: Sequence[str] = (), hint: str | None = None
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.subject = subject
        self.details = tuple(details)
        self.hint = hint

    def __str__(self) -> str:
        """The whole message, as the command line prints it after `error: `."""
        lines = [f"{self.subject}: {self.problem}" if self.subject else self.problem]
        lines += [f"  {detail}" for detail in self.details]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class UsageError(PmsmError):
    """Options that contradict each other or that the command cannot act on."""

    exit_code = 2


class BadInputError(PmsmError):
    """Something that the user handed over cannot be used."""

    exit_code = 3


class ModelFileError(BadInputError):
    """A source network that cannot be read."""


class UnsupportedGraphError(BadInputError):
    """A source network that was read, but that has no spiking form."""


class DataError(BadInputError):
    """A folder of images or an array file that cannot be used."""


class UnreadableImageError(DataError):
    """One image among others is broken: streams skip it, count it and name it."""


class PreprocessingError(BadInputError):
    """A preprocessing description that cannot be used."""


class CalibrationError(BadInputError):
    """A calibration file that cannot be used, or activations that cannot be calibrated."""


class CheckpointError(BadInputError):
    """A file that is not a checkpoint of ours, or of a format that this version does not know."""


class ProfileError(BadInputError):
    """An energy profile that cannot be used."""


class SetupError(PmsmError):
    """The machine lacks something: a package, memory, room on the disk, the right to write."""

    exit_code = 4


class CheckFailedError(PmsmError):
    """A check that the user asked for did not hold."""

    exit_code = 5


class InterruptedRunError(PmsmError):
    """The user stopped a long run; what it had by then was written."""

    exit_code = 130


def shorten(names: Sequence[str], *, most: int = 8) -> list[str]:
    """The first few names of a long list, and a line saying how many more there are.

    >>> shorten(["a", "b", "c"], most=2)
    ['a', 'b', '... and 1 more']
    """
    if len(names) <= most:
        return list(names)
    return [*names[:most], f"... and {len(names) - most} more"]

"""The choices of a run that the command line offers, and their defaults; imports nothing, for `pmsm --help`."""

from enum import StrEnum

DEFAULT_EPOCHS = 2
_RATE, _SMALLEST_RATE, _LARGEST_RATE = 0.0256, 1e-5, 3e-3


class Device(StrEnum):
    """Where training runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def default_learning_rate(levels: int) -> float:
    """The learning rate for a network of so many levels a sign, in shares of each weight's size.

    Fine levels leave little to repair: a rate that repairs three levels harms seven before it helps. What they lose
    goes with the square of a level's width, and so does the rate.

    >>> default_learning_rate(1), default_learning_rate(3), default_learning_rate(7)
    (0.003, 0.0016, 0.0004)
    """
    return min(max(_RATE / (levels + 1) ** 2, _SMALLEST_RATE), _LARGEST_RATE)

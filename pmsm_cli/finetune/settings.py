"""The choices of a run that the command line offers, and their defaults; imports nothing, for `pmsm --help`."""

from enum import StrEnum

DEFAULT_EPOCHS = 2
DEFAULT_LEARNING_RATE = 3e-3  # of weights in units of their own size


class Device(StrEnum):
    """Where training runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"

"""How a checkpoint holds its weights."""

from enum import StrEnum


class Precision(StrEnum):
    """The numbers that weights are."""

    FLOAT = "float"  # the source's own, times thresholds and corrections
    INT8 = "int8"  # rounded to 8 bits an output channel, so that integer kernels can run them

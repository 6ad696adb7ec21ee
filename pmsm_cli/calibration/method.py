"""The ways to choose thresholds, by name."""

from enum import StrEnum


class Method(StrEnum):
    """The ways to choose thresholds."""

    ENTROPY = "entropy"
    MSE = "mse"
    KL = "kl"
    PERCENTILE = "percentile"
    MAX = "max"

"""Weights that make of spikes what the source makes of activations: ridge regression, from sums over images.

What a synapse sums up of spikes, U_t, differs from the source's U by what rounding and clipping took, here and in the
layers before. Part of the difference the spikes themselves tell: a change of weights and bias that minimises

    E |U - U_t - dW s - db|^2 + lambda dW' V dW + u |dW|^2

where V holds the variances of the inputs, and u is how uncertain each is (`_UNCERTAIN`). Everything follows from first
and second moments of a synapse's inputs and of what is missing, whatever the number of images.

How much to shrink is measured and not stated: each output gets the lambda that leaves the least error on places of
images held out, or no change where none lessens it there. After A. E. Hoerl, R. W. Kennard, "Ridge regression: biased
estimation for nonorthogonal problems", Technometrics 12, 1970, 55-67; layer by layer behind layers that are corrected
already as in E. Frantar, D. Alistarh, "Optimal brain compression" (NeurIPS 2022, section 5).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_SHRINKAGE = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # lambda, in input variances
# Variances below this share of the mean one count as much: an input that hardly varies tells little.
_SMALLEST_VARIANCE = 0.05
# Inputs are counts of spikes. One that hardly ever changes may yet change by a spike everywhere, by what is done to the
# layers before it. It is taken to do so in one place of a hundred, so that not too much is made of it.
_UNCERTAIN = 0.01


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sums:
    """Sums over places, for each group of inputs."""

    count: int
    inputs: Doubles  # [groups, inputs + 1, inputs + 1]: products of what is read, the last of it a constant 1
    targets: Doubles  # [groups, inputs + 1, outputs]: products with what is missing
    power: Doubles  # [groups, outputs]: squares of what is missing

    @classmethod
    def over(cls, read: npt.NDArray[np.float32], missing: npt.NDArray[np.float32]) -> "Sums":
        """The sums of rows [groups, places, inputs] and of what is missing in [groups, places, outputs]."""
        ones = np.ones((*read.shape[:2], 1), np.float32)
        rows = np.concatenate([read, ones], axis=2)
        across = rows.transpose(0, 2, 1)
        return cls(
            count=read.shape[1],
            inputs=np.matmul(across, rows).astype(np.float64),
            targets=np.matmul(across, missing).astype(np.float64),
            power=np.square(missing, dtype=np.float64).sum(axis=1),
        )

    def __add__(self, other: "Sums") -> "Sums":
        """The sums over both."""
        return Sums(
            count=self.count + other.count,
            inputs=self.inputs + other.inputs,
            targets=self.targets + other.targets,
            power=self.power + other.power,
        )

    def left(self, change: Doubles) -> Doubles:
        """The sum of squares that a change [groups, inputs + 1, outputs] leaves, [groups, outputs]."""
        explained = np.einsum("gio,gio->go", change, self.targets)
        own = np.einsum("gio,gio->go", change, np.matmul(self.inputs, change))
        return np.asarray(self.power - 2 * explained + own)


def change_that_helps(fitted: Sums, held: Sums) -> tuple[Doubles, Doubles] | None:
    """The change of the weights [groups, inputs, outputs] and of the bias [groups, outputs]; None: none helps.

    `held` are the sums over images that only judge; the change itself is found on both.
    """
    least, best = held.power, np.zeros(held.power.shape)
    for shrinkage, change in zip(_SHRINKAGE, _changes(fitted, _SHRINKAGE), strict=True):
        left = held.left(change)
        best = np.where(left < least, shrinkage, best)
        least = np.minimum(left, least)
    if not best.any():
        return None
    chosen = [shrinkage for shrinkage in _SHRINKAGE if (best == shrinkage).any()]
    total = np.zeros(held.targets.shape)
    for shrinkage, change in zip(chosen, _changes(fitted + held, chosen), strict=True):
        total = np.where((best == shrinkage)[:, None, :], change, total)
    return total[:, :-1], total[:, -1]


def _changes(sums: Sums, shrinkages: Sequence[float]) -> Iterator[Doubles]:
    """The ridge regression's change for each lambda, bias last, [groups, inputs + 1, outputs]."""
    mean, missing = sums.inputs[:, :-1, -1] / sums.count, sums.targets[:, -1] / sums.count
    covariance = sums.inputs[:, :-1, :-1] / sums.count - mean[:, :, None] * mean[:, None, :]
    shared = sums.targets[:, :-1] / sums.count - mean[:, :, None] * missing[:, None, :]
    variance = np.maximum(np.einsum("gii->gi", covariance), 0)
    penalised = np.maximum(variance, _SMALLEST_VARIANCE * variance.mean(axis=1, keepdims=True))
    for shrinkage in shrinkages:
        ridge = shrinkage * penalised + _UNCERTAIN
        slope = np.linalg.solve(covariance + ridge[:, :, None] * np.eye(ridge.shape[1]), shared)
        constant = missing[:, None] - np.matmul(mean[:, None, :], slope)
        yield np.concatenate([slope, constant], axis=1)

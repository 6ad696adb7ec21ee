"""Histograms of spike counts: which levels of its neurons a site uses, at the first step of the first images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.graph.insert import spikes_name
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.runtime.session import Array, Session, open_session

_MOST_IMAGES = 64  # each of them brings thousands of values
_MOST_VALUES = 2**25
_MOST_BARS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How often each level was emitted."""

    lowest: int  # the first bar begins at this spike count
    width: int  # how many levels a bar holds
    counts: tuple[int, ...]


class HistogramCount:
    """Counts the levels of all sites on as many of the first images as it takes."""

    def __init__(self, checkpoint: Checkpoint, neurons: Mapping[str, int], *, threads: int | None) -> None:
        """`neurons` are those of one image, by site."""
        self._checkpoint, self._threads = checkpoint, threads
        self._neurons = checkpoint.manifest.calibration.parameters
        self._wanted = max(1, min(_MOST_IMAGES, _MOST_VALUES // max(sum(neurons.values()), 1)))
        self._counts = {
            name: np.zeros(each.negative_levels + each.positive_levels + 1, np.int64)
            for name, each in self._neurons.items()
        }
        self._session: Session | None = None
        self.images = 0

    def add(self, inputs: Array) -> None:
        """Count the levels that a batch brings, unless there are enough."""
        inputs = inputs[: self._wanted - self.images]
        if not len(inputs):
            return
        self._session = self._session or self._open()
        self.images += len(inputs)
        for name, spikes in zip(self._counts, self._session.run(inputs), strict=True):
            levels = spikes.ravel().astype(np.int64) + self._neurons[name].negative_levels
            self._counts[name] += np.bincount(levels, minlength=len(self._counts[name]))

    def result(self) -> dict[str, Histogram]:
        """The histogram of each site; none without images."""
        named = self._counts if self.images else {}
        return {name: _barred(-self._neurons[name].negative_levels, counts) for name, counts in named.items()}

    def _open(self) -> Session:
        model = with_outputs(self._checkpoint.model, map(spikes_name, self._counts))
        return open_session(model, subject=self._checkpoint.subject, threads=self._threads)


def _barred(lowest: int, counts: "np.typing.NDArray[np.int64]") -> Histogram:
    """At most so many bars that they can be drawn: level by level, or several levels a bar."""
    width = -(-len(counts) // _MOST_BARS)
    padded = np.concatenate([counts, np.zeros(-len(counts) % width, np.int64)])
    return Histogram(lowest=lowest, width=width, counts=tuple(padded.reshape(-1, width).sum(axis=1).tolist()))

"""Running a network whose graph counts something beside its outputs."""

import numpy as np
import numpy.typing as npt

from pmsm_cli.graph.scan import PER_STEP
from pmsm_cli.runtime.session import Array, Session

Totals = npt.NDArray[np.float64]


class Counted:
    """A session that hands out the network's own outputs and adds up the counts, over all images that pass."""

    def __init__(self, session: Session, *, prefix: str, timesteps: int) -> None:
        """Outputs whose names begin with `prefix` are counts, [images] at the last step."""
        self._session, self._prefix, self._timesteps = session, prefix, timesteps
        self.images = 0
        self._totals: dict[str, Totals] = {}

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the network's own outputs."""
        return tuple(name for name in self._session.output_names if not name.startswith(self._prefix))

    def run(self, inputs: Array) -> list[Array]:
        """The network's own outputs for a batch."""
        results = dict(zip(self._session.output_names, self._session.run(inputs), strict=True))
        self.images += len(inputs)
        own = [results.pop(name) for name in self.output_names]
        for name, counts in results.items():
            if name.endswith(PER_STEP) or self._timesteps == 1:
                total = counts.reshape(self._timesteps, -1).sum(axis=1, dtype=np.float64)
                self._totals[name] = self._totals.get(name, np.zeros(self._timesteps)) + total
        return own

    def mean(self, name: str) -> Totals:
        """A count per image, [timesteps]."""
        stored = name if self._timesteps == 1 else f"{name}{PER_STEP}"
        return self._totals[stored] / max(self.images, 1)

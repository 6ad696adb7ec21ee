"""What calibration sets: threshold and levels of a site's neurons, and the correction of a synapse."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_LEVELS = 2**20  # counts stay exact in float32, also when summed over a few timesteps


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NeuronParameters:
    """Threshold theta and levels N and P of the neurons of one site."""

    threshold: npt.NDArray[np.float32]  # [] for the whole tensor, or [channels]; in the unit of the activations
    negative_levels: int  # N, 0 where the tensor cannot be negative
    positive_levels: int  # P

    def __post_init__(self) -> None:
        """Refuse what no neuron can work with."""
        if not (np.isfinite(self.threshold).all() and (self.threshold > 0).all()):
            raise ValueError("thresholds must be finite and positive")
        if not 0 <= self.negative_levels <= MOST_LEVELS or not 1 <= self.positive_levels <= MOST_LEVELS:
            raise ValueError(f"levels out of range: N={self.negative_levels}, P={self.positive_levels}")
        self.threshold.flags.writeable = False


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Correction:
    """What brings one synapse's output channels back to the source's mean and deviation: scale x output + shift."""

    node: str
    scale: npt.NDArray[np.float32]  # [output channels]
    shift: npt.NDArray[np.float32]  # [output channels], in the unit of the output

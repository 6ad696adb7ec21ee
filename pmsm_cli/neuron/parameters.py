"""What calibration sets: threshold, resting count and levels of a site's neurons, and the correction of a synapse."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

MOST_LEVELS = 2**20  # counts stay exact in float32, also when summed over a few timesteps


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NeuronParameters:
    """Threshold theta, resting count and levels N and P of the neurons of one site.

    A neuron emits s = clip(round_half_even((v - theta rest) / theta), -N, P) and carries theta (s + rest). With rest 0
    silence stands for 0. A channel that is nearly always active rests at its usual value instead, and emits, with sign,
    what differs from it: fewer spikes, and both signs of its levels in use.
    """

    threshold: npt.NDArray[np.float32]  # [] for the whole tensor, or [channels]; in the unit of the activations
    negative_levels: int  # N, 0 where no value lies below the resting one
    positive_levels: int  # P
    # [] or [channels], in thresholds: whole numbers, until training moves thresholds and resting values apart
    rest: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((), np.float32))

    def __post_init__(self) -> None:
        """Refuse what no neuron can work with."""
        if not (np.isfinite(self.threshold).all() and (self.threshold > 0).all()):
            raise ValueError("thresholds must be finite and positive")
        if not 0 <= self.negative_levels <= MOST_LEVELS or not 1 <= self.positive_levels <= MOST_LEVELS:
            raise ValueError(f"levels out of range: N={self.negative_levels}, P={self.positive_levels}")
        if not np.isfinite(self.rest).all():
            raise ValueError("resting counts must be finite")
        if self.rest.shape not in ((), self.threshold.shape):
            raise ValueError(f"{self.rest.shape} resting counts for {self.threshold.shape} thresholds")
        self.threshold.flags.writeable = False
        self.rest.flags.writeable = False

    @property
    def resting_value(self) -> npt.NDArray[np.float32]:
        """What silence stands for, theta rest, in the shape of the thresholds."""
        return np.asarray(self.threshold * self.rest, np.float32)

    @property
    def rests_at_zero(self) -> bool:
        """Whether silence stands for 0 in every channel."""
        return not self.rest.any()

    @property
    def resting_share(self) -> float:
        """Percent of the channels in which silence stands for another value than 0."""
        return 100 * float(np.mean(self.rest != 0))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Correction:
    """What brings one synapse's output channels back to the source's mean and deviation: scale x output + shift."""

    node: str
    scale: npt.NDArray[np.float32]  # [output channels]
    shift: npt.NDArray[np.float32]  # [output channels], in the unit of the output

    def __post_init__(self) -> None:
        """Refuse what would make every output not a number."""
        if not (np.isfinite(self.scale).all() and np.isfinite(self.shift).all()):
            raise ValueError(f"the correction of {self.node} must be finite")

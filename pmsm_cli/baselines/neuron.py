"""The neurons of the conversions that ours is compared with: their specification in numpy.

One timestep of a neuron with threshold theta, whose synapses bring the current I_t = sum of w theta' s'_t + b:

    V <- V + I_t
    integrate and fire          s_t = 1 if V >= theta, else 0
    signed neuron with memory   s_t = 1 if V >= theta, -1 if V <= -theta and M > 0, else 0      M <- M + s_t
    V <- V - theta s_t          (reset by subtraction)

Integrate and fire with this reset: Rueckauer et al., Front. Neurosci. 11 (2017); Bu et al., ICLR 2022, arXiv
2303.04347, section 3, where V starts at theta / 2. Signed neuron with memory: Wang et al., IJCAI 2022, where M is the
sum of the spikes so far: a negative spike takes back one that was too many, so that the sum never falls below 0.

All arithmetic is in float32, each operation rounded once and in the order written.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BaselineNeurons:
    """The neurons that take the place of one activation."""

    threshold: Floats  # positive; broadcasts against one image's values: [], [channels, 1, 1], [channels, h, w], ...
    start: float = 0.0  # the membrane before the first step, in thresholds
    signed: bool = False  # whether they have a memory, and take spikes back

    def __post_init__(self) -> None:
        """Refuse what no neuron can work with."""
        if not (np.isfinite(self.threshold).all() and (self.threshold > 0).all()):
            raise ValueError("thresholds must be finite and positive")
        if not 0 <= self.start < 1:
            raise ValueError(f"a membrane starts from below its threshold, not at {self.start} of it")
        self.threshold.flags.writeable = False

    @property
    def initial_membrane(self) -> Floats:
        """The membrane before the first step, in the shape of the thresholds."""
        return np.asarray(self.threshold * np.float32(self.start), np.float32)


class NeuronState(NamedTuple):
    """What neurons remember between timesteps."""

    membrane: Floats  # V, in the unit of the activations; the shape of the current
    emitted: Floats  # M, the sum of the spikes so far


def initial_state(shape: tuple[int, ...], neurons: BaselineNeurons) -> NeuronState:
    """The state before the first timestep, for currents of this shape."""
    membrane = np.broadcast_to(neurons.initial_membrane, shape).astype(np.float32)
    return NeuronState(membrane, np.zeros(shape, np.float32))


def step(current: Floats, state: NeuronState, neurons: BaselineNeurons) -> tuple[Floats, NeuronState]:
    """One timestep: the spikes emitted (-1, 0 or 1, in the shape of the current) and the new state.

    Of a constant current of 0.4 thresholds comes a spike at steps 2, 4 and 7 where the membrane starts at half:

    >>> neurons = BaselineNeurons(threshold=np.ones((), np.float32), start=0.5)
    >>> state, train = initial_state((1,), neurons), []
    >>> for _ in range(8):
    ...     spikes, state = step(np.array([0.4], np.float32), state, neurons)
    ...     train.append(int(spikes[0]))
    >>> train
    [0, 1, 0, 1, 0, 0, 1, 0]
    """
    membrane = state.membrane + current
    spikes = (membrane >= neurons.threshold).astype(np.float32)
    if neurons.signed:
        spikes -= ((membrane <= -neurons.threshold) & (state.emitted > 0)).astype(np.float32)
    return spikes, NeuronState(membrane - neurons.threshold * spikes, state.emitted + spikes)

"""What all timesteps together make of a value that does not change: one neuron of finer threshold and further reach."""

import numpy as np

from pmsm_cli.neuron.coding import Coding, later_negative_levels
from pmsm_cli.neuron.parameters import MOST_LEVELS, NeuronParameters

_FINEST = 10  # steps of `refine` beyond which a threshold of theta / 1024 is as good as none


def after_all_steps(neurons: NeuronParameters, timesteps: int, coding: Coding) -> NeuronParameters:
    """The neurons whose single step carries what these carry after `timesteps` steps of a constant value.

    Each step emits the nearest count that its bounds allow of what is still missing, so that the last step leaves the
    value on the nearest multiple of its quantum; what is out of reach of all steps together is clipped.

    >>> neurons = NeuronParameters(threshold=np.ones((), np.float32), negative_levels=0, positive_levels=3)
    >>> finer = after_all_steps(neurons, 3, Coding.REFINE)
    >>> float(finer.threshold), finer.negative_levels, finer.positive_levels
    (0.25, 9, 21)
    """
    steps = min(timesteps, _FINEST) if coding is Coding.REFINE else timesteps
    later = later_negative_levels(neurons.negative_levels, neurons.positive_levels)
    # In quanta of the last step, of which the first step's is so many.
    first = 2 ** (steps - 1) if coding is Coding.REFINE else 1
    others = first - 1 if coding is Coding.REFINE else steps - 1
    finer = np.float32(2.0 ** (steps - 1) if coding is Coding.REFINE else steps)
    return NeuronParameters(
        threshold=np.asarray(neurons.threshold / finer, np.float32),
        negative_levels=min(neurons.negative_levels * first + later * others, MOST_LEVELS),
        positive_levels=min(neurons.positive_levels * (first + others), MOST_LEVELS),
        rest=np.asarray(neurons.rest * finer, np.float32),
    )

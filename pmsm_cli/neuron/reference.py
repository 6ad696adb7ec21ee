"""The specification of the polarity multi-spike neuron, in numpy: every other form must give the same spikes.

One timestep, for a value v with threshold theta (source: Zhang, Yu, Li, "Quantization Meets Spikes", arXiv 2508.14520;
the codings for T > 1 are described in `pmsm_cli.neuron.coding`):

    s = clip(round_half_even((m v / theta - k) / r), -N, P)          k <- k + r s

At the first step k = 0 and m = r = 1, which leaves s = clip(round_half_even(v / theta), -N, P).

All arithmetic is in float32, each operation rounded once and in the order written, so that numpy, onnxruntime and the
native library agree bit for bit. Ties go to the even count. Plus infinity emits P, minus infinity -N. A value that is
not a number emits no spike.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pmsm_cli.neuron.coding import Coding, later_negative_levels

Floats = npt.NDArray[np.float32]


class NeuronState(NamedTuple):
    """What a neuron remembers between timesteps."""

    emitted: Floats  # k_t, the weighted count emitted so far, in thresholds; the shape of the value
    timestep: int  # the step that was taken last; 0 before the first


def initial_state(value: Floats) -> NeuronState:
    """The state before the first timestep, for values of this shape."""
    return NeuronState(np.zeros(value.shape, np.float32), 0)


def step(
    value: Floats,
    state: NeuronState,
    threshold: Floats,
    *,
    negative_levels: int,
    positive_levels: int,
    coding: Coding = Coding.REFINE,
) -> tuple[Floats, NeuronState]:
    """One timestep: the spikes emitted (whole numbers, the shape of `value`) and the new state.

    `value` is the running value Z_t (float32, any shape); `threshold` is positive and broadcasts against it.
    A value of 2.6 thresholds emits three spikes, and at the next step (threshold halved) one negative spike:

    >>> theta = np.float32(1.0)
    >>> value = np.array([2.6], np.float32)
    >>> spikes, state = step(value, initial_state(value), theta, negative_levels=0, positive_levels=3)
    >>> spikes, state = step(value, state, theta, negative_levels=0, positive_levels=3)
    >>> float(spikes[0]), float(running_value(state, theta, Coding.REFINE)[0])
    (-1.0, 2.5)
    """
    timestep = state.timestep + 1
    numbers = coding.at(timestep)
    horizon, quantum = np.float32(numbers.horizon), np.float32(numbers.quantum)
    lowest = negative_levels if timestep == 1 else later_negative_levels(negative_levels, positive_levels)
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = (value / threshold * horizon - state.emitted) / quantum
    wanted = np.where(np.isnan(wanted), np.float32(0), wanted)
    spikes = np.clip(np.round(wanted), np.float32(-lowest), np.float32(positive_levels)).astype(np.float32)
    return spikes, NeuronState(state.emitted + quantum * spikes, timestep)


def running_value(state: NeuronState, threshold: Floats, coding: Coding) -> Floats:
    """The value A_t that the spikes so far stand for, in the unit of the threshold."""
    if state.timestep == 0:
        return np.zeros_like(state.emitted)
    return np.asarray(threshold * state.emitted / np.float32(coding.at(state.timestep).horizon), np.float32)

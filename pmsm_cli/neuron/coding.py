"""How a value is spread over timesteps: two numbers a step are all that a coding is.

With `horizon` m_t and `quantum` r_t, a neuron that has emitted the weighted count k_t = sum of r_i s_i so far stands
for the running value A_t = theta k_t / m_t, and a membrane that has gathered the weighted currents C_t stands for the
running value U_t = C_t / m_t. The two codings differ in nothing else:

    refine   m_t = 1, r_t = 2^(1-t)   each step halves the threshold: corrections ever finer and sparser
    rate     m_t = t, r_t = 1         spikes averaged over time, the convention of the field

At the first step both are m_1 = r_1 = 1, so that T = 1 is the same network in either coding.
"""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, kw_only=True, slots=True)
class CodingStep:
    """The two numbers of one timestep (both without unit)."""

    horizon: float
    quantum: float


class Coding(StrEnum):
    """The codings of a value over timesteps."""

    REFINE = "refine"
    RATE = "rate"

    def at(self, timestep: int) -> CodingStep:
        """The horizon and the quantum of a timestep, counted from 1.

        >>> Coding.REFINE.at(3)
        CodingStep(horizon=1.0, quantum=0.25)
        >>> Coding.RATE.at(3)
        CodingStep(horizon=3.0, quantum=1.0)
        """
        if timestep < 1:
            raise ValueError(f"timesteps count from 1, not {timestep}")
        if self is Coding.REFINE:
            return CodingStep(horizon=1.0, quantum=2.0 ** (1 - timestep))
        return CodingStep(horizon=float(timestep), quantum=1.0)


def later_negative_levels(negative_levels: int, positive_levels: int) -> int:
    """The bound N_t on negative spikes after the first step: corrections go both ways even where the value cannot.

    >>> later_negative_levels(0, 15)
    15
    """
    return max(negative_levels, positive_levels)

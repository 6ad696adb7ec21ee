"""The neuron in torch: the same spikes as `pmsm_cli.neuron.reference`, and its form for training.

Spikes have no useful derivative. Training takes the straight-through estimate (Bengio, Leonard, Courville, "Estimating
or Propagating Gradients Through Stochastic Neurons", arXiv 1308.3432): inside the range that spikes can carry, the
neuron passes gradients on as if it did not round; outside it passes none. The threshold is learned by the gradient of
Esser et al., "Learned Step Size Quantization" (ICLR 2020, section 2.1):

    d (theta s) / d theta = s - v / theta   inside,   -N or P   outside
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pmsm_cli.neuron.coding import Coding, later_negative_levels


class TorchState(NamedTuple):
    """What a neuron remembers between timesteps, as `reference.NeuronState`."""

    emitted: Tensor
    timestep: int


def initial_state(value: Tensor) -> TorchState:
    """The state before the first timestep, for values of this shape."""
    return TorchState(torch.zeros_like(value), 0)


def emit(wanted: Tensor, *, negative_levels: int, positive_levels: int) -> Tensor:
    """The spikes for counts that a neuron would like to emit (any shape); what is not a number emits none."""
    return torch.clamp(torch.round(torch.where(wanted.isnan(), 0.0, wanted)), -negative_levels, positive_levels)


def step(
    value: Tensor,
    state: TorchState,
    threshold: Tensor,
    *,
    negative_levels: int,
    positive_levels: int,
    coding: Coding = Coding.REFINE,
) -> tuple[Tensor, TorchState]:
    """One timestep, as `reference.step`: the spikes (the shape of `value`) and the new state."""
    timestep = state.timestep + 1
    numbers = coding.at(timestep)
    lowest = negative_levels if timestep == 1 else later_negative_levels(negative_levels, positive_levels)
    wanted = (value / threshold * numbers.horizon - state.emitted) / numbers.quantum
    spikes = emit(wanted, negative_levels=lowest, positive_levels=positive_levels)
    return spikes, TorchState(state.emitted + numbers.quantum * spikes, timestep)


def carried(value: Tensor, threshold: Tensor, *, negative_levels: int, positive_levels: int) -> Tensor:
    """What the first timestep's spikes stand for, theta s, with the gradients above for value and threshold.

    `threshold` is positive and broadcasts against `value`. Unlike spikes, values that are not numbers stay what they
    are: a training run that diverges must show it.
    """
    result: Tensor = _Carried.apply(value, threshold, negative_levels, positive_levels)
    return result


class _Carried(torch.autograd.Function):
    """One function for both passes: what autograd would keep and compute for each step costs most of an epoch."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, threshold: Tensor, negative: int, positive: int) -> Tensor:
        wanted = value / threshold
        result = torch.round(wanted).clamp_(-negative, positive).mul_(threshold)
        ctx.save_for_backward(value, wanted, result, threshold)
        ctx.levels = negative, positive
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        value, wanted, result, threshold = ctx.saved_tensors
        negative, positive = ctx.levels
        # One vectorised pass; masks of booleans take four times as long.
        passed = torch.ops.aten.hardtanh_backward(gradient, wanted, -negative, positive)
        of_threshold = None
        if ctx.needs_input_grad[1]:
            # theta times the gradient of the threshold: (theta s - v) inside, theta s outside, where s is -N or P
            share = (result * gradient).addcmul_(value, passed, value=-1.0)
            of_threshold = share.sum_to_size(threshold.shape) / threshold
        return passed, of_threshold, None, None

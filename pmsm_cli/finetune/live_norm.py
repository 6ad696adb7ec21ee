"""Batch norm brought back to life: convolutions that it was folded into train far better with it (and spread less).

A convolution's sums U (its bias left out) leave as

    scale d (U - mean) / sqrt(variance + eps) + b + d shift

with the moments of each batch while training and their running means afterwards, which is when all of it folds into
weights and bias again. d is the deviation and b the mean, with the bias, before training: scale = 1 and shift = 0 leave
the network as it was.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pmsm_cli.finetune.operators import Call
from pmsm_cli.finetune.operators.layers import convolution

_MEMORY = 0.05  # share of the newest batch in the running moments
_LEAST_VARIANCE = 1e-8


class LiveNorm(torch.nn.Module):
    """The norm behind one convolution; `running_*` and the parameters are [output channels]."""

    mean: Tensor
    variance: Tensor
    deviation: Tensor
    centre: Tensor

    def __init__(self, bias: Tensor) -> None:
        """`bias` is the convolution's own, [output channels]."""
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones_like(bias))
        self.shift = torch.nn.Parameter(torch.zeros_like(bias))
        for name, value in (("mean", 0 * bias), ("variance", 0 * bias + 1), ("deviation", 0 * bias + 1)):
            self.register_buffer(name, value)
        self.register_buffer("centre", bias.clone())
        self._sums: list[Tensor] | None = None  # count, sums and sums of squares, while measuring

    def start_measuring(self) -> None:
        """The next batches give the moments before training; they pass as they are."""
        self._sums = [torch.zeros((), dtype=torch.float64) for _ in range(3)]

    def stop_measuring(self) -> None:
        """Take what was measured as the moments; from now on batches are normalised."""
        assert self._sums is not None
        count, total, squares = self._sums
        mean = total / count
        self.mean.copy_(mean)
        self.variance.copy_((squares / count - mean.square()).clamp_min(0))
        self.deviation.copy_((self.variance + _LEAST_VARIANCE).sqrt())
        self.centre.add_(self.mean)
        self._sums = None

    def forward(self, call: Call, x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        """The convolution's output, normalised; the interpreter calls this in the place of `convolution`."""
        if not self.training and self._sums is None:
            weights, bias = self.folded(weights)
            return _convolve(call, x, weights, bias)
        sums = _convolve(call, x, weights)
        if self._sums is None and sums.numel() == sums.shape[1]:  # one value a channel has no deviation
            weights, bias = self.folded(weights)
            return _convolve(call, x, weights, bias)
        if self._sums is not None:
            others = [axis for axis in range(sums.ndim) if axis != 1]
            exact = sums.double()
            seen = (torch.as_tensor(sums.numel() / sums.shape[1]), exact.sum(others), exact.square().sum(others))
            self._sums = [old.to(new.device) + new for old, new in zip(self._sums, seen, strict=True)]
            return sums + bias.reshape(-1, *([1] * (sums.ndim - 2)))
        scale, shift = self.scale * self.deviation, self.centre + self.shift * self.deviation
        return F.batch_norm(sums, self.mean, self.variance, scale, shift, True, _MEMORY, _LEAST_VARIANCE)

    def folded(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and bias that give the same by themselves, with the running moments."""
        factor = self.scale * self.deviation / (self.variance + _LEAST_VARIANCE).sqrt()
        bias = self.centre + self.shift * self.deviation - self.mean * factor
        return weights * factor.reshape(-1, *([1] * (weights.ndim - 1))), bias


def _convolve(call: Call, x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    result = convolution(call, x, weights, bias)
    assert isinstance(result, Tensor)
    return result

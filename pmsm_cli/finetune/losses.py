"""What a spiking network is trained towards: its source's outputs (distillation), or the images' labels.

Distillation: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. Class
scores are compared as shares at a temperature tau (section 2; the factor tau^2 keeps the size of the gradients), any
other output by its squared error, relative to the source's own power.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 2.0
_LEAST_POWER = 1e-12


class Distillation:
    """The distance between a student's outputs and its teacher's."""

    def __init__(self, outputs: Sequence[str], teacher_outputs: Sequence[str], *, classes: str | None, shares: bool):
        """`classes` is the output that holds class scores, if any; `shares`: after a softmax already."""
        self._pairs = list(zip(outputs, teacher_outputs, strict=True))
        self.classes = classes
        self._shares = shares

    def __call__(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """One number, the mean over the images of a batch."""
        parts = []
        for name, theirs in self._pairs:
            own, wanted = student[name], teacher[theirs]
            if name == self.classes:
                logits, goal = ((_scores(each, self._shares) / TEMPERATURE).log_softmax(1) for each in (own, wanted))
                # A class that is masked has no share, whatever the student gives it.
                apart = torch.where(goal.isneginf(), 0, goal.exp() * (goal - logits))
                parts.append(apart.sum() / len(goal) * TEMPERATURE**2)
            elif wanted.is_floating_point():
                parts.append((own - wanted).square().mean() / wanted.square().mean().clamp_min(_LEAST_POWER))
        return torch.stack(parts).sum()


def label_loss(scores: Tensor, labels: Tensor, *, shares: bool) -> Tensor:
    """Cross entropy with the classes of the images, their mean."""
    return F.cross_entropy(_scores(scores, shares), labels)


def _scores(values: Tensor, shares: bool) -> Tensor:
    """Scores [images, classes] before the softmax, of which the logarithm of shares differs by a constant only.

    The constant cancels.
    """
    return (values.clamp_min(1e-12).log() if shares else values).flatten(1)

"""Teacher and loss as one thing to ask: how far is the student on this batch?"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from pmsm_cli.finetune.interpreter import TorchGraph
from pmsm_cli.finetune.losses import Distillation, label_loss
from pmsm_cli.graph.scores import class_scores


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Goal:
    """What the student should give for one batch."""

    outputs: Mapping[str, Tensor] | None  # the teacher's; None: there are the labels alone
    labels: Tensor | None  # [images]


class Objective:
    """The loss of a student's outputs, and how many of them name the teacher's class and the right one."""

    def __init__(self, model: ir.Model, teacher: TorchGraph | None) -> None:
        """`model` is the spiking graph; without a `teacher` the labels are the goal."""
        outputs = [value.name or "" for value in model.graph.outputs]
        self.classes = class_scores(model)
        producer = next((value.producer() for value in model.graph.outputs if value.name == self.classes), None)
        self._shares = producer is not None and producer.op_type == "Softmax"
        self._teacher = teacher
        self._theirs = dict(zip(outputs, teacher.output_names if teacher else outputs, strict=True))
        self._distance = Distillation(outputs, list(self._theirs.values()), classes=self.classes, shares=self._shares)

    @property
    def distils(self) -> bool:
        """Whether there is a teacher."""
        return self._teacher is not None

    def goal(self, images: Tensor, labels: Tensor | None) -> Goal:
        """What the student should give for these images."""
        if self._teacher is None:
            return Goal(outputs=None, labels=labels)
        with torch.no_grad():
            return Goal(outputs=self._teacher(images), labels=labels)

    def loss(self, student: Mapping[str, Tensor], goal: Goal) -> Tensor:
        """The mean over the images of a batch."""
        if goal.outputs is not None:
            return self._distance(student, goal.outputs)
        assert self.classes is not None
        assert goal.labels is not None
        return label_loss(student[self.classes], goal.labels, shares=self._shares)

    def loss_of_silence(self, goal: Goal) -> float:
        """The loss of a network that gives the same, the mean of its goal, whatever it sees."""
        if goal.outputs is not None:
            theirs = {own: goal.outputs[name] for own, name in self._theirs.items()}
            silent = {name: value.float().mean(0, keepdim=True).expand_as(value) for name, value in theirs.items()}
            return float(self._distance(silent, goal.outputs))
        assert goal.labels is not None
        shares = torch.bincount(goal.labels).float() / len(goal.labels)
        return float(-(shares * shares.clamp_min(1e-12).log()).sum())

    def hits(self, student: Mapping[str, Tensor], goal: Goal) -> tuple[int | None, int | None]:
        """How many images get the teacher's class, and how many their own; None where that is not known."""
        if self.classes is None:
            return None, None
        chosen = student[self.classes].flatten(1).argmax(1)
        wanted = None if goal.outputs is None else goal.outputs[self._theirs[self.classes]].flatten(1).argmax(1)
        same = None if wanted is None else int((chosen == wanted).sum())
        return same, None if goal.labels is None else int((chosen == goal.labels).sum())

"""The training loop: Adam with warm-up and cosine decay, the best state by the loss on held-out images."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor

from pmsm_cli.errors import CheckFailedError, DataError, SetupError
from pmsm_cli.finetune.images import TrainingImages, augment
from pmsm_cli.finetune.interpreter import TorchGraph, is_out_of_memory
from pmsm_cli.finetune.objective import Goal, Objective
from pmsm_cli.finetune.records import EpochRecord, Listener, Outcome, Stop, TuningSettings
from pmsm_cli.finetune.settings import Device
from pmsm_cli.finetune.student import Student
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.sources.preprocessing import Preprocessing

HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 2000
_LARGEST_BATCH, _SMALLEST_BATCH, _STEPS_AN_EPOCH = 64, 16, 64
_FEW_IMAGES = 2000  # of fewer, training seldom comes closer to the source than refitted weights
_MEASURED = 512  # images that give the moments before training
_WARM_UP, _LONGEST_WARM_UP = 0.05, 200  # share of all steps, and steps
_LARGEST_GRADIENT = 5.0  # norm over all parameters
_MEMORY = 0.9  # of the running mean of the loss, from step to step
_DIVERGED = 3.0  # times the loss at the start, or that of a network which says the same of every image

_SMALL_LOSS = 0.1  # where the goal hardly differs from image to image, noise is no divergence

Indices = npt.NDArray[np.int64]


def finetune(
    model: ir.Model,
    plan: SitePlan,
    neurons: Mapping[str, NeuronParameters],
    teacher: ir.Model | None,
    images: TrainingImages,
    preprocessing: Preprocessing,
    settings: TuningSettings,
    listener: Listener,
    *,
    subject: str,
    fixed_batch: int | None = None,
) -> Outcome:
    """Train a one-timestep spiking graph towards a teacher, or towards the labels where there is none.

    A part of the images (a tenth, 2,000 at most) is held out; the best epoch by the loss on it is handed back. An
    interruption or a divergence after an epoch that was better than the start ends the run early; the outcome says so.
    Equal seeds give equal results on a CPU with an equal number of threads.

    Raises:
        CheckFailedError: the loss diverged, or no epoch was better than the start.
        DataError: there are fewer than two images.
        SetupError: CUDA is asked for and not there, or there is not enough memory.
        UnsupportedGraphError: some operators have no torch function here.
        KeyboardInterrupt: interrupted before there was anything to keep.
    """
    device = _device(settings.device)
    with _threads(settings.threads):
        live_norm = fixed_batch is None or fixed_batch >= _SMALLEST_BATCH  # moments of fewer images say little
        student = Student(model, plan, neurons, subject=subject, live_norm=live_norm).to(device)
        guide = TorchGraph(teacher, subject=subject).to(device) if teacher is not None else None
        run = _Run(student, Objective(model, guide), images, preprocessing, settings, device, fixed_batch)
        try:
            return run.train(listener, subject=subject)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise SetupError(
                "there is not enough memory to train the network",
                subject=subject,
                hint=f"--batch {max(run.size // 4, 1)}",
            ) from error


class _Run:
    """The state of one run."""

    def __init__(
        self,
        student: Student,
        objective: Objective,
        images: TrainingImages,
        preprocessing: Preprocessing,
        settings: TuningSettings,
        device: torch.device,
        fixed_batch: int | None,
    ) -> None:
        self.student, self.objective, self.settings = student, objective, settings
        self.images, self.preprocessing, self.device = images, preprocessing, device
        self.size = fixed_batch or settings.batch or _LARGEST_BATCH
        self.whole_batches = fixed_batch is not None
        self.random = np.random.default_rng(settings.seed)
        self.limit = math.inf  # of the running loss
        self.epochs: list[EpochRecord] = []
        self.best, self.best_state = 0, self._state()
        self.goals: list[Goal] = []

    def train(self, listener: Listener, *, subject: str) -> Outcome:
        """All epochs, or as many as there were before it stopped."""
        if not self.images.cached:
            listener.start("Reading the images", len(self.images.readable))
            self.images.decode(listener.advance)
        held_out, training = self._parts(subject)
        if self.settings.batch is None and not self.whole_batches:
            self.size = min(max(len(training) // _STEPS_AN_EPOCH, _SMALLEST_BATCH), _LARGEST_BATCH)
        steps = len(training) // self.size if self.whole_batches else -(-len(training) // self.size)
        optimiser = self._optimiser()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _schedule(self.settings.epochs * steps))
        stopped = None
        try:
            start = time.perf_counter()
            with self.student.measuring():
                for inputs, _ in self._batches(self.random.permutation(training)[:_MEASURED]):
                    self.student(inputs)
            loss, agreement, top1 = self._measure(held_out)
            self._note(listener, loss, None, agreement, top1, 0, start)
            if not math.isfinite(loss):
                raise CheckFailedError(
                    f"the loss is {loss} before any training: an output or a weight is not finite",
                    subject=subject,
                    hint="leave out fine-tuning",
                )
            self.limit = _DIVERGED * max(loss, self._loss_of_silence(), _SMALL_LOSS)
            for epoch in range(1, self.settings.epochs + 1):
                listener.start(f"Epoch {epoch} of {self.settings.epochs}", len(training))
                start = time.perf_counter()
                mean = self._epoch(training, optimiser, schedule, listener)
                if mean is None:
                    stopped = Stop.DIVERGED
                    break
                loss, agreement, top1 = self._measure(held_out)
                self._note(listener, loss, mean, agreement, top1, len(training), start)
        except KeyboardInterrupt:
            if self.best == 0:
                raise
            stopped = Stop.INTERRUPTED
        if self.best == 0:
            raise self._failure(subject, diverged=stopped is Stop.DIVERGED)
        self.student.load_state_dict(self.best_state)
        self.student.eval()
        folded, neurons = self.student.folded()
        return Outcome(model=folded, neurons=neurons, epochs=tuple(self.epochs), best=self.best, stopped=stopped)

    def _parts(self, subject: str) -> tuple[Indices, Indices]:
        """Which images are held out, and which are trained on; whole batches where the graph fixes their size."""
        order = self.random.permutation(self.images.readable)
        unit = self.size if self.whole_batches else 1
        count = max(min(int(len(order) * HELD_OUT_SHARE), MOST_HELD_OUT) // unit, 1) * unit
        if len(order) - count < unit:
            raise DataError(
                f"{len(order)} image(s) are too few to train on some and measure on others",
                subject=subject,
                hint="a few thousand images serve well, a few hundred help",
            )
        return np.sort(order[:count]), order[count:]

    def _optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            [
                {
                    "params": [*self.student.weights.values(), *self.student.norms.parameters()],
                    "lr": self.settings.learning_rate,
                },
                {"params": list(self.student.log_thresholds.values()), "lr": self.settings.threshold_rate},
            ]
        )

    def _epoch(
        self,
        training: Indices,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        listener: Listener,
    ) -> float | None:
        """The mean loss, or None where it diverged."""
        flip = self.objective.distils  # a mirrored image may belong to another class; a teacher says to which
        total, count, running = 0.0, 0, math.nan
        self.student.train()
        for inputs, labels in self._batches(self.random.permutation(training), augmented=True, flip=flip):
            goal = self.objective.goal(inputs, labels)
            loss = self.objective.loss(self.student(inputs), goal)
            value = float(loss.detach())
            running = value if math.isnan(running) else _MEMORY * running + (1 - _MEMORY) * value
            if not math.isfinite(value) or running > self.limit:
                return None
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), _LARGEST_GRADIENT)
            optimiser.step()
            schedule.step()
            total, count = total + value * len(inputs), count + len(inputs)
            listener.advance(len(inputs))
        return total / max(count, 1)

    def _measure(self, held_out: Indices) -> tuple[float, float | None, float | None]:
        """Loss, agreement and top-1 (percent) on the held-out images; the teacher sees them only once."""
        total, count, same, right = 0.0, 0, 0, 0
        known: tuple[int | None, int | None] = (None, None)
        self.student.eval()
        with torch.no_grad():
            for position, (inputs, labels) in enumerate(self._batches(held_out)):
                if position == len(self.goals):
                    self.goals.append(self.objective.goal(inputs, labels))
                goal, outputs = self.goals[position], self.student(inputs)
                total += float(self.objective.loss(outputs, goal)) * len(inputs)
                known = self.objective.hits(outputs, goal)
                same, right, count = same + (known[0] or 0), right + (known[1] or 0), count + len(inputs)
        agreement = None if known[0] is None else 100.0 * same / count
        return total / count, agreement, None if known[1] is None else 100.0 * right / count

    def _loss_of_silence(self) -> float:
        """The loss of a network that gives the mean of its goal whatever it sees."""
        goal = self.goals[0]
        with torch.no_grad():
            return self.objective.loss_of_silence(goal)

    def _batches(
        self, order: Indices, *, augmented: bool = False, flip: bool = False
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        least = self.size if self.whole_batches else self.size // 2 if augmented and len(order) > self.size else 0
        for batch in self.images.batches(order, self.size):
            inputs = batch.inputs
            if len(inputs) < least:  # a remainder whose moments say little
                continue
            if augmented:
                inputs = augment(inputs, self.preprocessing, self.random, flip=flip)
            labels = None if batch.labels is None else torch.from_numpy(batch.labels).to(self.device)
            tensor = torch.from_numpy(inputs).to(self.device)
            yield tensor.contiguous(memory_format=torch.channels_last), labels

    def _note(
        self,
        listener: Listener,
        loss: float,
        training_loss: float | None,
        agreement: float | None,
        top1: float | None,
        images: int,
        start: float,
    ) -> None:
        record = EpochRecord(
            epoch=len(self.epochs),
            loss=loss,
            training_loss=training_loss,
            agreement=agreement,
            top1=top1,
            images=images,
            seconds=time.perf_counter() - start,
        )
        self.epochs.append(record)
        if loss < self.epochs[self.best].loss:
            self.best, self.best_state = record.epoch, self._state()
        listener.epoch(record)

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.student.state_dict().items()}

    def _failure(self, subject: str, *, diverged: bool) -> CheckFailedError:
        rate = self.settings.learning_rate
        few = len(self.images.readable)
        more = f"more images than {few}, or " if few < _FEW_IMAGES and not diverged else ""
        hint = f"{more}a smaller learning rate: --learning-rate {rate / 10:g}"
        if diverged:
            fact = (
                f"training diverged at learning rate {rate:g}: the loss left {self.epochs[0].loss:.3g}, where it began"
            )
        else:
            losses = min(record.loss for record in self.epochs[1:])
            fact = (
                f"no epoch at learning rate {rate:g} came closer than the start "
                f"(loss {losses:.3g}, before training {self.epochs[0].loss:.3g})"
            )
        return CheckFailedError(fact, subject=subject, hint=hint)


def _schedule(steps: int) -> Callable[[int], float]:
    warm = max(1, min(round(_WARM_UP * steps), _LONGEST_WARM_UP))

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * min(step / max(steps, 1), 1.0)))

    return factor


def _device(wanted: Device) -> torch.device:
    available = torch.cuda.is_available()
    if wanted is Device.CUDA and not available:
        raise SetupError("there is no CUDA device that torch can use", subject="--device", hint="--device cpu")
    return torch.device("cuda" if available and wanted is not Device.CPU else "cpu")


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """So many threads inside the block: their number belongs to the process, and others may count on it."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)

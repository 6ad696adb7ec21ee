"""What the training scripts for CIFAR-10 share: the images, the loop that resumes where it stopped, and the ONNX file.

Needs torch and onnxruntime, and a folder with one folder of images a class.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

# These scripts stand apart from the package and are never imported by it, so torch may load at once.
import torch  # noqa: TID251
from PIL import Image
from torch import nn  # noqa: TID251
from torch.nn import functional  # noqa: TID251

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SIZE, PADDING = 32, 4
BATCH = 128
WARM_UP = 0.06  # share of all steps
LABEL_WEIGHT = 0.3  # of the loss, where a teacher answers for the rest


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one network is built and trained: `build` takes the number of classes, `optimizer` the parameters."""

    name: str
    build: Callable[[int], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    mixed_share: float  # of the batches: each image blended with another one
    smoothing: float = 0.0  # of the labels
    memory_format: torch.memory_format = torch.contiguous_format


def load_folder(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the folder's images (N x 3 x 32 x 32 uint8) and labels (class folders in alphabetical order)."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(file, label) for label, path in enumerate(classes) for file in sorted(path.iterdir())]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label in files])


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Map bytes to the network's input: values / 255, less the mean, over the deviation of each colour."""
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float() / 255 - mean) / deviation


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return each image moved by up to four pixels and mirrored half the time, as network input."""
    count = len(pixels)
    padded = functional.pad(pixels, [PADDING] * 4)
    top, left = torch.randint(0, 2 * PADDING + 1, (2, count), generator=generator)
    steps = torch.arange(SIZE)
    columns = torch.where(torch.rand(count, 1, generator=generator) < 0.5, steps, steps.flip(0)) + left[:, None]
    rows = top[:, None] + steps
    index = torch.arange(count)[:, None, None, None]
    moved = padded[index, torch.arange(3)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]
    return normalise(moved)


class Teacher:
    """A trained ONNX network (same input as ours) whose answers are learned beside the labels."""

    def __init__(self, path: Path) -> None:
        """Load the network for the CPU, on as many threads as torch has."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the teacher's logits."""
        (logits,) = self._session.run(None, {self._input: images.cpu().numpy()})
        return torch.from_numpy(logits).to(images.device)


def learning_rate(step: int, steps: int) -> float:
    """Return the share of the peak rate: a linear warm-up, then half a cosine down to nothing."""
    warm = WARM_UP * steps
    return step / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def loss_of(logits: torch.Tensor, targets: torch.Tensor, taught: torch.Tensor | None, smoothing: float) -> torch.Tensor:
    """Return the cross entropy with the labels, joined with the teacher's probabilities where there is one."""
    if taught is not None:
        targets = LABEL_WEIGHT * targets + (1 - LABEL_WEIGHT) * taught.softmax(dim=1)
    return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def train_epoch(network, optimizer, schedule, data, teacher, generator, device, recipe: Recipe) -> float:
    """Go once through the images in random order; return the mean loss."""
    pixels, labels = data
    batches = torch.randperm(len(pixels), generator=generator)[: len(pixels) // BATCH * BATCH].split(BATCH)
    total = 0.0
    network.train()
    for batch in batches:
        images = augment(pixels[batch], generator).to(device, memory_format=recipe.memory_format)
        targets = functional.one_hot(labels[batch], int(labels.max()) + 1).float().to(device)
        if torch.rand((), generator=generator) < recipe.mixed_share:
            other = torch.randperm(len(batch), generator=generator).to(device)
            share = float(torch.rand((), generator=generator))
            images = share * images + (1 - share) * images[other]
            targets = share * targets + (1 - share) * targets[other]
        taught = teacher(images) if teacher else None
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_of(network(images), targets, taught, recipe.smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
    return total / len(batches)


def export(network: nn.Module, path: Path) -> None:
    """Write the network as ONNX with a free batch dimension, batch normalisation kept."""
    network = network.eval().cpu().to(memory_format=torch.contiguous_format)
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, SIZE, SIZE),),
        dynamo=True,
        optimize=False,  # the optimizer folds batch normalisation into the weights
        external_data=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    program.save(path)
    onnx.checker.check_model(onnx.load(path), full_check=True)


def accuracy(path: Path, folder: Path) -> float:
    """Return the percentage of the folder's images that onnxruntime classifies as their folder says."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels, labels = load_folder(folder)
    guesses = [session.run(None, {"image": normalise(part).numpy()})[0].argmax(axis=1) for part in pixels.split(250)]
    return float((np.concatenate(guesses) == labels.numpy()).mean() * 100)


def parse_arguments(recipe: Recipe, epochs: int) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=f"Train {recipe.name} on CIFAR-10 from random weights; write it as ONNX."
    )
    parser.add_argument("train", type=Path, help="folder with one folder of training images a class")
    parser.add_argument("--test", type=Path, help="the same of test images, looked at once, after training")
    parser.add_argument("--teacher", type=Path, help="ONNX network whose answers are learned beside the labels")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / f"{recipe.name}.onnx")
    parser.add_argument(
        "--epochs", type=int, default=epochs, help=f"passes over the training images (default: {epochs})"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def train(recipe: Recipe, *, epochs: int) -> None:
    """Train (from where the last run stopped, if it did), export, and measure what was written."""
    arguments = parse_arguments(recipe, epochs)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = load_folder(arguments.train)
    network = recipe.build(int(data[1].max()) + 1).to(device, memory_format=recipe.memory_format)
    teacher = Teacher(arguments.teacher) if arguments.teacher else None
    optimizer = recipe.optimizer(network)
    steps = arguments.epochs * (len(data[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    kept = arguments.out.with_suffix(".training.pt")
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    first = 1
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        generator.set_state(state["generator"])
        first = state["epoch"] + 1
    for epoch in range(first, arguments.epochs + 1):
        start = time.perf_counter()
        loss = train_epoch(network, optimizer, schedule, data, teacher, generator, device, recipe)
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save(state | {"generator": generator.get_state(), "epoch": epoch}, kept.with_suffix(".new"))
        kept.with_suffix(".new").replace(kept)
        print(f"epoch {epoch} of {arguments.epochs}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    export(network, arguments.out)
    if arguments.test:
        print(f"{arguments.out}: {accuracy(arguments.out, arguments.test):.2f} % of the test images")

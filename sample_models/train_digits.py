"""Train the demo's network on scikit-learn's 8 x 8 digits; write `digits.onnx` and the image folders beside it.

Needs torch and scikit-learn, which the light install of pmsm leaves out. The files that it writes are kept in the
repository, so this script is only needed to make them anew.
"""

import argparse
import json
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

# This script stands apart from the package and is never imported by it, so torch may load at once.
import torch  # noqa: TID251
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn  # noqa: TID251

CLASSES = [str(digit) for digit in range(10)]
TRAINING_IMAGES = 1200
CALIBRATION_IMAGES_PER_CLASS = 20
# The split stays the same whatever --seed is, so that no seed trains on another one's test images.
SPLIT_SEED = 0
BATCH = 64
PEAK_LEARNING_RATE = 4e-3
# A fixed number, since the order of float additions (and so the weights) depends on it.
THREADS = 2


def conv_norm(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, suffix: str = ""
) -> dict[str, nn.Module]:
    """Return by name a convolution that keeps the image's size (divided by stride) and its batch normalisation."""
    padding = kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False)
    return {f"conv{suffix}": conv, f"norm{suffix}": nn.BatchNorm2d(outputs)}


def chain(layers: dict[str, nn.Module]) -> nn.Sequential:
    """Run the layers in order; their names become the names of the ONNX nodes."""
    return nn.Sequential(OrderedDict(layers))


class Residual(nn.Module):
    """Two convolutions beside a shortcut; with a stride or a new width the shortcut is a 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, depthwise: bool = False) -> None:
        """Build the block; with depthwise, the first convolution is one filter a channel and the second is 1 x 1."""
        super().__init__()
        width, groups, kernel = (inputs, inputs, 1) if depthwise else (outputs, 1, 3)
        first = conv_norm(inputs, width, 3, stride=stride, groups=groups, suffix="1")
        second = conv_norm(width, outputs, kernel, suffix="2")
        self.body = chain(first | {"relu": nn.ReLU()} | second)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else chain(conv_norm(inputs, outputs, 1, stride=stride))
        self.relu = nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map N x inputs x H x W to N x outputs x H/stride x W/stride."""
        return self.relu(self.body(images) + self.shortcut(images))


class DigitsNet(nn.Module):
    """Ten convolutions (four residual blocks, one strided, one depthwise), global average pooling, a linear head."""

    def __init__(self) -> None:
        """Build the layers with torch's default random weights."""
        super().__init__()
        self.stem = chain(conv_norm(1, 16, 3) | {"relu": nn.ReLU()})
        self.block1 = Residual(16, 16)
        self.block2 = Residual(16, 24, stride=2)
        self.block3 = Residual(24, 24, depthwise=True)
        self.block4 = Residual(24, 24)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(24, len(CLASSES))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map N x 1 x 8 x 8 grey values in 0..1 to N x 10 logits."""
        features = self.block4(self.block3(self.block2(self.block1(self.stem(image)))))
        return self.head(self.flatten(self.pool(features)))


def load_pixels() -> tuple[np.ndarray, np.ndarray]:
    """Return the images (1797 x 8 x 8 uint8, 0..255) and their labels (1797 int64, 0..9)."""
    digits = load_digits()
    return np.round(digits.images * 255 / 16).astype(np.uint8), digits.target.astype(np.int64)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ascending indices of the training, calibration (part of training) and test images."""
    everything = np.arange(len(labels))
    train, test = train_test_split(
        everything, train_size=TRAINING_IMAGES, stratify=labels, random_state=SPLIT_SEED, shuffle=True
    )
    train, test = np.sort(train), np.sort(test)
    per_class = [train[labels[train] == digit][:CALIBRATION_IMAGES_PER_CLASS] for digit in range(len(CLASSES))]
    return train, np.sort(np.concatenate(per_class)), test


def write_images(folder: Path, pixels: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
    """Write `<class>/NNNN.png` (8-bit grey, NNNN the index in load_digits), in place of the PNG files there."""
    for stale in folder.glob("[0-9]/*.png"):
        stale.unlink()
    for index in indices:
        path = folder / CLASSES[labels[index]] / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[index]).save(path, optimize=True)


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Map N x 8 x 8 bytes to the network's input, N x 1 x 8 x 8 float32 in 0..1."""
    return torch.from_numpy(pixels.astype(np.float32) / 255).unsqueeze(1)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the images moved by up to one pixel, resized by up to 10 %, rotated by up to 0.15 rad, with noise."""
    count, size = images.shape[0], images.shape[-1]

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    scale, angle, pixel = 1 + uniform(0.1), uniform(0.15), 2 / size
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    rows = [torch.stack([cos, -sin, uniform(pixel)], dim=1), torch.stack([sin, cos, uniform(pixel)], dim=1)]
    grid = nn.functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, align_corners=False)
    noise = torch.randn(images.shape, generator=generator) * 0.03
    return (moved + noise).clamp(0, 1)


def train(images: torch.Tensor, labels: torch.Tensor, *, epochs: int, seed: int) -> DigitsNet:
    """Train on a fixed schedule and return the last weights, in evaluation mode; no other images are looked at."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = DigitsNet()
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=0.15)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(1, epochs + 1):
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        batches = order[: len(images) // BATCH * BATCH].split(BATCH)
        for batch in batches:
            loss = loss_of(network(augment(images[batch], generator)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if epoch % 10 == 0 or epoch == epochs:
            print(f"epoch {epoch:3d} of {epochs}: training loss {total / len(batches):.4f}")
    return network.eval()


def unshare_weights(graph: onnx.GraphProto) -> None:
    """Give each weight its own initialiser: the exporter stores equal ones once and adds an Identity for the others."""
    weights = {weight.name: weight for weight in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in weights]:
        copy = graph.initializer.add()
        copy.CopyFrom(weights[node.input[0]])
        copy.name = node.output[0]
        graph.node.remove(node)


def export(network: DigitsNet, path: Path) -> None:
    """Write the network as ONNX (opset 17), batch normalisation kept, class names in the metadata."""
    with warnings.catch_warnings():
        # The newer exporter folds batch normalisation away; the tool wants to see gamma and beta.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, 8, 8),),
            str(path),
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )
    model = onnx.load(path)
    model.graph.name = "digits"
    unshare_weights(model.graph)
    onnx.helper.set_model_props(model, {"classes": json.dumps(CLASSES)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def largest_difference(network: DigitsNet, path: Path, images: torch.Tensor) -> float:
    """Return the largest absolute difference between torch's and onnxruntime's logits."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(images).numpy()
    return float(np.abs(session.run(["logits"], {"image": images.numpy()})[0] - expected).max())


def count_correct(model: Path, folder: Path) -> tuple[int, int]:
    """Return how many of the folder's PNG files onnxruntime classifies as their folder says, and how many there are."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    files = sorted(folder.glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(file), dtype=np.float32) / 255 for file in files])[:, None]
    guesses = session.run(["logits"], {"image": images})[0].argmax(axis=1)
    return sum(CLASSES[guess] == file.parent.name for guess, file in zip(guesses, files, strict=True)), len(files)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train the demo's digits network; write digits.onnx and its image folders.",
        epilog="Needs torch and scikit-learn, which the light install of pmsm leaves out.",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: here)")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training images (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation (default: 0)")
    return parser.parse_args()


def main() -> None:
    """Write the images, train, export, and measure what was written."""
    arguments = parse_arguments()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    pixels, labels = load_pixels()
    training, calibration, test = split(labels)
    folder, model = arguments.out / "digits", arguments.out / "digits.onnx"
    write_images(folder / "calibration", pixels, labels, calibration)
    write_images(folder / "test", pixels, labels, test)
    print(f"{len(training)} training images ({len(calibration)} kept for calibration), {len(test)} held out")
    images = to_tensor(pixels[training])
    network = train(images, torch.from_numpy(labels[training]), epochs=arguments.epochs, seed=arguments.seed)
    export(network, model)
    print(f"onnxruntime and torch differ by at most {largest_difference(network, model, images):.1e}")
    correct, total = count_correct(model, folder / "test")
    print(f"held-out accuracy of {model}: {correct} of {total} PNG files ({correct / total:.2%})")


if __name__ == "__main__":
    main()

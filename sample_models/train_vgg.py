"""Train VGG-16 with batch normalisation on CIFAR-10 from random weights; write it as ONNX; resume where it stopped.

The network of the papers on conversion: thirteen convolutions, each with batch normalisation and ReLU, five poolings,
one linear layer (K. Simonyan, A. Zisserman, 2015; for 32 x 32 images with a single linear layer). 15 M parameters: the
file, 59 MB, is too large for the repository. Needs torch and onnxruntime.

    python sample_models/train_vgg.py .cache/cifar10/train --test .cache/cifar10/test --out .cache/vgg16_cifar10.onnx
"""

# This script stands apart from the package and is never imported by it, so torch may load at once.
import torch  # noqa: TID251
from cifar10_training import Recipe, train
from torch import nn  # noqa: TID251

POOL = 0
LAYERS = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512, POOL)


def build_network(classes: int) -> nn.Module:
    """Return the untrained network; it pools by means, since no spiking method with one spike a step has a maximum."""
    modules: list[nn.Module] = []
    inputs = 3
    for width in LAYERS:
        if width == POOL:
            modules.append(nn.AvgPool2d(2))
            continue
        modules += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(inputs, classes))


def optimizer_for(network: nn.Module) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with Nesterov's momentum."""
    return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)


if __name__ == "__main__":
    recipe = Recipe(
        name="vgg16_cifar10",
        build=build_network,
        optimizer=optimizer_for,
        mixed_share=0.0,
        smoothing=0.1,
        memory_format=torch.channels_last,
    )
    train(recipe, epochs=12)

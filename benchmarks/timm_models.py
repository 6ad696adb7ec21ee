"""timm's models with random weights that are worth converting, and images for them: for the benchmarks.

As timm makes them, many models hardly depend on their blocks: the last scale of a residual branch is 0, layer scales
are 1e-5, class tokens and heads are 0, and batch norms that have seen nothing let signals die away or explode. `revive`
gives such parameters seeded values of a trained network's size, and each batch norm the power of what it reads as its
variance (its mean stays 0), so that every block counts. Everything else stays what timm itself draws.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import timm
import torch
from timm.models import get_pretrained_cfg

from pmsm_cli.sources.images import open_images
from pmsm_cli.sources.preprocessing import Channels, Layout, Preprocessing
from pmsm_cli.sources.synthetic import SyntheticImages

Array = npt.NDArray[np.float32]

SEED = 0
MADE_UP = 544  # images, where there is no folder: calibration and test draw from one order of them
MOST_PARAMETERS = 150_000_000  # of larger ones two blocks are taken: several copies would not fit into memory
FEW_BLOCKS = {"depth": 2}
_SIZES = (128, 160, 192, 224, 256)  # pixels, tried from the smallest on
_POWER_IMAGES = range(1000, 1032)  # what batch norms are shown; of a folder, counted on from its first image again


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The model that stands for a module."""

    model: str
    parameters: int
    size: int  # of its images, in pixels
    arguments: dict[str, Any]  # beside its name


def choose(module: str) -> Choice:
    """The smallest model of a module of timm.models, at the smallest size that it accepts.

    No weights are drawn for this: everything happens on torch's device without memory.
    """
    counted = {}
    for name in timm.list_models(module=module):
        with torch.device("meta"):
            model = timm.create_model(name, exportable=True)
        counted[name] = sum(parameter.numel() for parameter in model.parameters())
    name = min(counted, key=lambda each: (counted[each], each))
    blocks = FEW_BLOCKS if counted[name] > MOST_PARAMETERS else {}
    size, arguments = _smallest_size(name, blocks)
    return Choice(model=name, parameters=counted[name], size=size, arguments=arguments)


def _smallest_size(name: str, blocks: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    config = get_pretrained_cfg(name)
    least = (config.min_input_size or (3, 0, 0))[1]
    own = config.input_size[1]
    sizes = sorted({size for size in (*_SIZES, least) if max(least, 1) <= size < own})
    for size in sizes:
        for arguments in ({**blocks, "img_size": size}, blocks):
            try:
                with torch.device("meta"):
                    timm.create_model(name, exportable=True, **arguments).eval()(torch.empty(2, 3, size, size))
            except Exception:  # its own way of saying that the size does not fit
                continue
            return size, arguments
    return own, blocks


def make(choice: Choice) -> torch.nn.Module:
    """The model with seeded random weights, in evaluation mode."""
    torch.manual_seed(SEED)
    return timm.create_model(choice.model, exportable=True, **choice.arguments).eval()


def revive(module: torch.nn.Module, choice: Choice, folder: Path | None) -> None:
    """Bring every block of a model into use, on images as `images` gives them; see the top of this file."""
    random = torch.Generator().manual_seed(SEED)
    normal = functools.partial(torch.randn, generator=random)
    with torch.no_grad():
        for parameter in module.parameters():
            value = parameter.reshape(-1)
            if not len(value) or (value != value[0]).any():
                continue
            constant, shape = float(value[0]), parameter.shape
            if constant == 0 and parameter.ndim > 1:
                parameter.copy_(normal(shape) / parameter[0].numel() ** 0.5)
            elif constant == 0:
                parameter.copy_(0.1 * normal(shape))
            elif constant == 1:
                parameter.add_(0.1 * normal(shape))
            elif abs(constant) < 0.1:
                parameter.copy_(0.1 + 0.9 * torch.rand(shape, generator=random))
        norms = [each for each in module.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            if norm.weight is not None and not norm.weight.abs().mean() > 0.3:  # the last of a residual branch
                norm.weight.copy_(0.1 + 0.9 * torch.rand(norm.weight.shape, generator=random))
        hooks = [norm.register_forward_pre_hook(_set_power) for norm in norms]
        module(torch.from_numpy(images(_POWER_IMAGES, choice, folder)))
        for hook in hooks:
            hook.remove()


def with_weights_of(proto: onnx.ModelProto, module: torch.nn.Module) -> onnx.ModelProto:
    """A copy of an exported model with the weights that the module has now."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    state = module.state_dict()
    for tensor in copy.graph.initializer:
        if tensor.name in state:
            tensor.CopyFrom(onnx.numpy_helper.from_array(state[tensor.name].numpy(), tensor.name))
    return copy


def _set_power(norm: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    norm.running_mean.zero_()
    norm.running_var.fill_(float(inputs[0].square().mean()))


def images(numbers: Iterable[int], choice: Choice, folder: Path | None) -> Array:
    """Images in the model's own preprocessing, by number: of a folder, in seeded order; None: made up."""
    config = get_pretrained_cfg(choice.model)
    preprocessing = Preprocessing(
        height=choice.size,
        width=choice.size,
        channels=Channels.RGB,
        layout=Layout.NCHW,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )
    pictures = open_images(folder) if folder else SyntheticImages(count=MADE_UP, seed=SEED)
    order = np.random.default_rng(SEED).permutation(len(pictures))
    return np.stack([pictures.load(int(order[number % len(order)]), preprocessing) for number in numbers])

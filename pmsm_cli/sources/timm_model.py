"""Reading a network from timm by its name: its weights, its own preprocessing, and its export to ONNX.

torch and timm are needed here and nowhere behind it: what leaves is an ONNX model like that of any file.
"""

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from pmsm_cli.sources.records import Source, Weights

if TYPE_CHECKING:
    import torch

PREFIX = "timm:"
# The exporter's translations are written in this opset: any other would pass through a converter. It is new enough for
# layer norm in one node, and every onnxruntime that pmsm supports runs it.
OPSET = 18


def open_timm(name: str, weights: Weights, *, image_size: int | None = None) -> Source:
    """Create a timm model with its weights and export it; `image_size` in pixels, where it is not to be its own."""
    import torch

    with _quiet(), torch.random.fork_rng(devices=()):
        torch.manual_seed(weights.seed)
        module = create_module(name, image_size=image_size)
    shape = _image_shape(module, image_size)
    return Source(
        name=name,
        path=Path(f"{PREFIX}{name}"),
        sha256=_identity(name, module, shape),
        proto=export_module(module, shape),
        preset=f"{PREFIX}{name}",
    )


def create_module(name: str, **arguments: Any) -> "torch.nn.Module":
    """A timm model as it is exported: in evaluation mode, its attention spelled out."""
    import timm

    sizes = {"img_size": arguments.pop("image_size", None)}
    # `exportable` picks the plain form of attention, activations and padding.
    module: torch.nn.Module = timm.create_model(name, exportable=True, **sizes, **arguments)
    return module.eval()


def export_module(module: "torch.nn.Module", shape: tuple[int, int, int]) -> onnx.ModelProto:
    """An ONNX model of a torch module in evaluation mode, batch norm as nodes of its own, the batch open.

    `shape` is that of one image, [channels, height, width] in pixels.
    """
    import torch

    images = torch.zeros(2, *shape)  # the exporter takes a batch of one for a constant
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (images,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["image"],
            output_names=["output"],
            opset_version=OPSET,
            optimize=False,  # it folds batch norm away, and with it the moments that thresholds without images need
            external_data=False,
            verbose=False,
        )
    assert program is not None  # noqa: S101
    proto: onnx.ModelProto = program.model_proto
    return proto


def _image_shape(module: "torch.nn.Module", image_size: int | None) -> tuple[int, int, int]:
    from timm.data import resolve_model_data_config

    channels, height, width = resolve_model_data_config(module)["input_size"]
    return (channels, image_size or height, image_size or width)


def _identity(name: str, module: "torch.nn.Module", shape: tuple[int, int, int]) -> str:
    digest = hashlib.sha256(f"{name.partition('.')[0]} {shape}".encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter and timm remark to their developers off the user's screen."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)

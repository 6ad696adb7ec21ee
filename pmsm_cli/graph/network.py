"""A cleaned network, and what can be read off it: its image input, its outputs, its shapes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import onnx_ir as ir

from pmsm_cli.errors import UnsupportedGraphError
from pmsm_cli.graph.moments import ChannelMoments

Shape = tuple[int, ...]  # the batch first

IMAGE_CHANNELS = (1, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInput:
    """The one input of a network; `None` where the graph leaves a size open."""

    name: str
    batch: int | None
    height: int | None
    width: int | None
    channels: int
    channels_last: bool

    def shape(self, *, height: int, width: int) -> Shape:
        """The shape of one image (or of the fixed batch) in the network's own layout, batch first."""
        if self.channels_last:
            return (self.batch or 1, height, width, self.channels)
        return (self.batch or 1, self.channels, height, width)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Network:
    """A clean graph in a current opset: weights are initialisers, batch norm is folded, every node has a name."""

    subject: str  # the file, for messages
    model: ir.Model
    image: ImageInput
    outputs: tuple[str, ...]
    class_names: tuple[str, ...] = ()  # where the file's metadata states them
    # Of each tensor that a batch norm puts out, folded or not, on the training data; empty where a file has none.
    moments: Mapping[str, ChannelMoments] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return self.model.graph.opset_imports[""]


def find_image_input(graph: ir.Graph, *, subject: str) -> ImageInput:
    """The image input of a network.

    Raises:
        UnsupportedGraphError: there are several inputs, or the one there is cannot hold images.
    """
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    if len(inputs) != 1:
        raise UnsupportedGraphError(
            f"needs {len(inputs)} inputs, not one batch of images",
            subject=subject,
            details=[_describe(value) for value in inputs],
        )
    (value,) = inputs
    sizes = None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]
    if value.dtype is not ir.DataType.FLOAT:
        raise UnsupportedGraphError(
            "its input does not hold 32-bit floats",
            subject=subject,
            details=[_describe(value)],
            hint="export the network in float32, with normalised images as input",
        )
    if sizes is None or len(sizes) != 4:
        raise UnsupportedGraphError(
            "its input is not a batch of images (four axes)", subject=subject, details=[_describe(value)]
        )
    # A size of 0 is how some exporters write "open".
    batch, *rest = (size or None for size in sizes)
    first, middle, last = rest
    assert value.name is not None
    if first in IMAGE_CHANNELS or (first is None and last not in IMAGE_CHANNELS):
        channels = first if first is not None else _channels_read(value)
        if channels in IMAGE_CHANNELS:
            return ImageInput(
                name=value.name, batch=batch, height=middle, width=last, channels=channels, channels_last=False
            )
    elif last in IMAGE_CHANNELS:
        return ImageInput(name=value.name, batch=batch, height=first, width=middle, channels=last, channels_last=True)
    raise UnsupportedGraphError(
        "its input is not a batch of grey or colour images (1 or 3 channels)",
        subject=subject,
        details=[_describe(value)],
    )


def _channels_read(value: ir.Value) -> int | None:
    """How many channels the convolution, or the scale of each channel, that reads a value of open shape expects."""
    for node, index in value.uses():
        constant = node.inputs[1].const_value if index == 0 and len(node.inputs) > 1 and node.inputs[1] else None
        if constant is None:
            continue
        shape = constant.shape.numpy()
        if node.op_type == "Conv":
            group = node.attributes.get_int("group", 1)
            assert group is not None
            return int(shape[1]) * group
        if node.op_type == "Mul" and shape[1:] == (1, 1) and shape[0] > 1:  # one number for all tells nothing
            return int(shape[0])
    return None


def _describe(value: ir.Value) -> str:
    shape = "of unknown shape" if value.shape is None else "x".join(str(dim) for dim in value.shape)
    return f"{value.name}: {value.dtype.name.lower() if value.dtype else 'unknown type'} {shape}"

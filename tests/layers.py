"""Shapes of convolutions, channels last, and what their sums are."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The shape of a layer."""

    image: tuple[int, int] = (6, 7)  # height, width
    channels: int = 16
    outputs: int = 16
    kernel: tuple[int, int] = (3, 3)
    depthwise: bool = False
    strides: tuple[int, int] = (1, 1)
    steps: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)  # top, left, bottom, right

    @property
    def attributes(self) -> dict[str, int]:
        names = ("stride_y", "stride_x", "step_y", "step_x", "top", "left", "bottom", "right")
        numbers = dict(zip(names, (*self.strides, *self.steps, *self.pads), strict=True))
        return {**numbers, "group": self.channels if self.depthwise else 1}


LAYERS = {
    "one channel": Layer(image=(1, 1), channels=1, outputs=1, kernel=(1, 1), pads=(0, 0, 0, 0)),
    "channels that fill no word": Layer(channels=3, outputs=5),
    "a word and a part of one": Layer(channels=13, outputs=20, kernel=(1, 1), pads=(0, 0, 0, 0)),
    "one block": Layer(channels=64, outputs=64, kernel=(1, 1), pads=(0, 0, 0, 0)),
    "several blocks, the last one with few": Layer(channels=24, outputs=144),
    "a part of a vector": Layer(channels=17, outputs=33, strides=(2, 1)),
    "many places": Layer(image=(40, 33), channels=8, outputs=96),
    "heavy weights": Layer(image=(4, 4), channels=256, outputs=200),
    "tiles and a part of one": Layer(image=(5, 7), channels=100, outputs=112, kernel=(1, 1), pads=(0,) * 4),
    "more windows than a cache holds": Layer(image=(10, 7), channels=512, outputs=20),
    "not square": Layer(channels=8, outputs=100, kernel=(3, 1), pads=(1, 0, 1, 0)),
    "dilated": Layer(image=(12, 12), channels=5, outputs=48, steps=(2, 2), pads=(2, 2, 2, 2)),
    "dilated across": Layer(image=(9, 12), channels=6, outputs=16, steps=(1, 3), pads=(1, 3, 1, 3)),
    "padded on one side": Layer(channels=2, outputs=16, pads=(2, 0, 1, 3)),
    "padded further than its kernel": Layer(image=(2, 2), channels=4, outputs=16, pads=(4, 4, 4, 4)),
    "strides that leave out": Layer(image=(9, 9), channels=4, outputs=16, kernel=(1, 1), strides=(3, 2), pads=(0,) * 4),
    "each channel": Layer(channels=70, outputs=70, depthwise=True),
    "each of few channels": Layer(
        image=(12, 12), channels=40, outputs=40, kernel=(5, 5), depthwise=True, pads=(2,) * 4
    ),
    "each channel, strides": Layer(image=(11, 10), channels=128, outputs=128, depthwise=True, strides=(2, 2)),
    "each channel, dilated": Layer(
        image=(9, 9), channels=64, outputs=64, kernel=(2, 3), depthwise=True, steps=(2, 2), pads=(1, 2, 1, 2)
    ),
}
DENSE = {name: layer for name, layer in LAYERS.items() if not layer.depthwise}


def sums(layer: Layer, codes: np.ndarray, weights: np.ndarray, padding: int) -> np.ndarray:
    """The sums of (codes - padding) x weights, [images, height, width, outputs]."""
    top, left, bottom, right = layer.pads
    above = np.pad(codes.astype(np.int64) - padding, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (kernel_y, kernel_x), (step_y, step_x), (stride_y, stride_x) = layer.kernel, layer.steps, layer.strides
    height = (above.shape[1] - (kernel_y - 1) * step_y - 1) // stride_y + 1
    width = (above.shape[2] - (kernel_x - 1) * step_x - 1) // stride_x + 1
    total = np.zeros((len(codes), height, width, layer.outputs), np.int64)
    for y in range(kernel_y):
        for x in range(kernel_x):
            rows, columns = slice(y * step_y, None, stride_y), slice(x * step_x, None, stride_x)
            seen = above[:, rows, columns][:, :height, :width]
            tap = weights[:, :, y, x].astype(np.int64)
            total += seen * tap[:, 0] if layer.depthwise else seen @ tap.T
    return total

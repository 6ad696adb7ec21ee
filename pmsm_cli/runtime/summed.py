"""What a synapse sums up, and what comes of it, at some of the places where it sums."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.synapse import Floats, Synapse, kernel_reach
from pmsm_cli.graph.weight_rows import groups_of

Integers = npt.NDArray[np.int64]


class Places(NamedTuple):
    """Where outputs are looked at: `at` counts along the rest of one image's places."""

    image: Integers
    at: Integers


def draw_places(synapse: Synapse, output: Shape, most: int, random: np.random.Generator) -> Places:
    """At most so many places in each image of an output [images, ...], drawn for each image."""
    positions = int(np.prod(_positions(synapse, output)))
    number, images = min(positions, most), output[0]
    chosen = [random.choice(positions, number, replace=False) for _ in range(images)]
    return Places(np.repeat(np.arange(images), number), np.concatenate(chosen or [np.zeros(0, np.int64)]))


def rows_read(synapse: Synapse, data: Floats, output: Shape, places: Places) -> Floats:
    """What is summed up there, [groups, places, inputs of the group]; what pads is 0.

    Precondition: the synapse is a two-dimensional convolution, or its weights are a matrix.
    """
    if synapse.node.op_type != "Conv":
        return _along(data, synapse.channel_axis, places)[None]
    reach = kernel_reach(synapse.node, synapse.weights.shape, data.shape, output)
    before = [max(-int(steps.min()), 0) for steps in reach]
    after = [max(int(steps.max()) - size + 1, 0) for steps, size in zip(reach, data.shape[2:], strict=True)]
    padded = np.pad(data, ((0, 0), (0, 0), *zip(before, after, strict=True)))
    row, column = np.divmod(places.at, output[3])
    rows, columns = reach[0][row] + before[0], reach[1][column] + before[1]
    taken = padded[places.image[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [places, kh, kw, channels]
    groups = groups_of(synapse)
    apart = taken.reshape(*taken.shape[:3], groups, -1)
    return np.ascontiguousarray(apart.transpose(3, 0, 4, 1, 2)).reshape(groups, len(taken), -1)


def rows_put_out(synapse: Synapse, outputs: Floats, places: Places) -> Floats:
    """What comes of it, [groups, places, outputs of the group]."""
    rows = _along(outputs, synapse.output_axis, places)
    groups = groups_of(synapse)
    return rows.reshape(len(rows), groups, -1).transpose(1, 0, 2)


def is_summed_up(synapse: Synapse, data: Floats) -> bool:
    """Whether `rows_read` knows what the synapse does with such data: its images lie along the first axis."""
    if synapse.node.op_type == "Conv":
        return data.ndim == synapse.weights.ndim == 4
    return data.ndim + synapse.channel_axis > 0


def _positions(synapse: Synapse, output: Shape) -> Shape:
    axis = len(output) + synapse.output_axis
    return tuple(size for place, size in enumerate(output) if place not in (0, axis))


def _along(values: Floats, axis: int, places: Places) -> Floats:
    rows = np.moveaxis(values, axis, -1)
    return rows.reshape(len(rows), -1, rows.shape[-1])[places.image, places.at]

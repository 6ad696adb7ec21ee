"""What the library counts of a site, from its spikes."""

import numpy as np


def _as_two(sums: np.ndarray) -> np.ndarray:
    return np.stack([sums // 2**20, sums % 2**20], axis=-1)


def defined_counts(
    codes: np.ndarray, zero: int, axis: int, levels: tuple[int, int], synapses: np.ndarray | None = None
) -> np.ndarray:
    """Sizes and neurons that fire, what both reach where a map says it, each as two numbers, and counts by channel.

    `axis` is that of the channels, 0 where there are none; `synapses` are of all places before it.
    """
    spikes, images = codes.astype(np.int64) - zero, len(codes)
    sizes, firing = np.abs(spikes), spikes != 0
    limited = (spikes >= levels[1]) | (spikes <= -levels[0] if levels[0] else False)
    parts = [_as_two(each.sum(axis=tuple(range(1, each.ndim)))) for each in (sizes, firing)]
    if synapses is not None:
        by_position = [each.sum(axis=-1).reshape(images, len(synapses)) for each in (sizes, firing)]
        parts += [_as_two((each * synapses).sum(axis=1)) for each in by_position]
    others = tuple(each for each in range(1, spikes.ndim) if each != axis)
    parts += [each.sum(axis=others).reshape(images, codes.shape[axis] if axis else 1) for each in (firing, limited)]
    return np.concatenate(parts, axis=1)

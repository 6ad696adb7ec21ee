"""What all keys of an attention have in common, and how far they lie from it."""

import numpy as np

from pmsm_cli.calibration.statistics import Doubles, Floats
from pmsm_cli.graph.keys import Keys


class KeyObserver:
    """The mean of one site of keys over images, their windows and the keys themselves, and their range about it."""

    def __init__(self, keys: Keys) -> None:
        """An observer before any value."""
        self._shape = keys.shape
        self._total: Doubles = np.zeros(keys.shape)
        self._images = 0
        self._lowest = np.full(keys.shape, np.inf, np.float32)
        self._highest = np.full(keys.shape, -np.inf, np.float32)

    def update(self, values: Floats, images: int) -> None:
        """Take in keys of so many images, [images (x windows), ..., channels, keys]."""
        others = (*range(values.ndim - len(self._shape)), -1)
        mean = values.mean(axis=others, dtype=np.float64)
        self._total += images * mean.reshape(self._shape)
        self._images += images
        np.minimum(self._lowest, values.min(axis=others).reshape(self._shape), out=self._lowest)
        np.maximum(self._highest, values.max(axis=others).reshape(self._shape), out=self._highest)

    @property
    def centre(self) -> Floats:
        """The mean, in the shape that broadcasts against the keys."""
        return np.asarray(self._total / max(self._images, 1), np.float32)

    @property
    def limits(self) -> tuple[Floats, Floats]:
        """The lowest and the highest key about the mean, in its shape."""
        return self._lowest - self.centre, self._highest - self.centre

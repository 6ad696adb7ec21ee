"""Training images: decoded once where they fit into a bounded memory, in streams where they do not; augmented."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pmsm_cli.errors import DataError
from pmsm_cli.sources.images import Batch, ImageSet, SkippedImage, Subset, read_batches
from pmsm_cli.sources.preprocessing import Floats, Layout, Preprocessing

MOST_CACHED = 2**29  # bytes of decoded images that are held; CIFAR-10's 50,000 take 154 MB
_DECODED_AT_ONCE = 256
_SHIFT = 16  # images move by up to a 16th of their side

Labels = npt.NDArray[np.int64]


class TrainingImages:
    """Images in any order, again and again.

    Preprocessed images come from bytes (`Preprocessing.apply`), so bytes are what is kept: four times as many fit, and
    they give the same floats again.
    """

    def __init__(self, images: ImageSet, preprocessing: Preprocessing, *, most_cached: int = MOST_CACHED) -> None:
        """`most_cached` bounds the memory, in bytes."""
        self._images = images
        self._preprocessing = preprocessing
        self._most = most_cached
        self._cache: npt.NDArray[Any] | None = None  # pixels, or floats that come from none
        self._skipped: dict[str, SkippedImage] = {}
        self.readable = np.arange(len(images))  # indices of the images that are not known to be broken

    @property
    def labels(self) -> Labels | None:
        """The class index of every image of the set, where known."""
        return self._images.labels

    @property
    def skipped(self) -> tuple[SkippedImage, ...]:
        """The images that could not be read so far."""
        return tuple(self._skipped.values())

    @property
    def cached(self) -> bool:
        """Whether the images are held in memory."""
        return self._cache is not None

    def decode(self, on_batch: Callable[[int], None] = lambda images: None) -> None:
        """Read all images into memory, if that is large enough for them.

        Raises:
            DataError: not one image could be read.
        """
        size = len(self._images) * math.prod(self._preprocessing.shape)
        if size > self._most:
            return
        cache: npt.NDArray[Any] | None = None
        kept = np.ones(len(self._images), bool)
        start = 0
        for batch in read_batches(self._images, self._preprocessing, _DECODED_AT_ONCE):
            stop = min(start + _DECODED_AT_ONCE, len(self._images))
            broken = {image.name for image in batch.skipped}
            readable = [index for index in range(start, stop) if not broken or self._images.name(index) not in broken]
            kept[start:stop] = np.isin(np.arange(start, stop), readable)
            self._note(batch)
            if len(batch.inputs):
                pixels = to_pixels(batch.inputs, self._preprocessing)
                if cache is None:
                    if pixels is None and 4 * size > self._most:
                        return
                    dtype = np.float32 if pixels is None else np.uint8
                    cache = np.zeros((len(self._images), *batch.inputs.shape[1:]), dtype)
                elif pixels is None and cache.dtype == np.uint8:
                    raise DataError("holds both pixels and other floats", subject=self._images.origin)
                cache[readable] = batch.inputs if cache.dtype == np.float32 else pixels
            on_batch(stop - start)
            start = stop
        self._cache, self.readable = cache, np.flatnonzero(kept)

    def batches(self, order: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """The images of these indices, `size` at a time; the broken ones are left out.

        Raises:
            DataError: not one of them could be read.
        """
        if self._cache is None:
            chosen = Subset(whole=self._images, indices=tuple(int(index) for index in order))
            for batch in read_batches(chosen, self._preprocessing, size):
                self._note(batch)
                if len(batch.inputs):
                    yield batch
            return
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            values = self._cache[indices]
            labels = self.labels
            yield Batch(
                inputs=from_pixels(values, self._preprocessing) if values.dtype == np.uint8 else values,
                labels=None if labels is None else labels[indices],
                names=(),
            )

    def _note(self, batch: Batch) -> None:
        self._skipped.update({image.name: image for image in batch.skipped})


def to_pixels(inputs: Floats, preprocessing: Preprocessing) -> npt.NDArray[np.uint8] | None:
    """The bytes that preprocessed images come from, in the same layout; None where they come from other floats."""
    mean, std = _moments(preprocessing)
    with np.errstate(all="ignore"):
        wanted = np.round((inputs * std + mean) * np.float32(255))
        if not (wanted.min() >= 0 and wanted.max() <= 255):
            return None
    pixels = wanted.astype(np.uint8)
    return pixels if np.array_equal(from_pixels(pixels, preprocessing), inputs) else None


def from_pixels(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> Floats:
    """The inverse of `to_pixels`, bit for bit what `Preprocessing.normalise` gives."""
    mean, std = _moments(preprocessing)
    values: Floats = pixels.astype(np.float32)
    values /= np.float32(255)
    values -= mean
    values /= std
    return values


def augment(inputs: Floats, preprocessing: Preprocessing, random: np.random.Generator, *, flip: bool) -> Floats:
    """Each image mirrored left to right (or not) and moved by a few pixels, the border mirrored into the gap.

    `inputs` are [images, *preprocessing.shape] and stay as they are.
    """
    rows = 2 if preprocessing.layout is Layout.NCHW else 1
    height, width = preprocessing.height, preprocessing.width
    reach = min(height, width) // _SHIFT
    around = [(reach, reach) if axis in (rows, rows + 1) else (0, 0) for axis in range(4)]
    padded = np.pad(inputs, around, mode="reflect") if reach else inputs
    result = np.empty_like(inputs)
    moved = random.integers(0, 2 * reach + 1, (len(inputs), 2))
    mirrored = random.random(len(inputs)) < 0.5 if flip else np.zeros(len(inputs), bool)
    for index, (down, right) in enumerate(moved):
        across = slice(right, right + width)
        window = (slice(None),) * (rows - 1) + (slice(down, down + height), across)
        part = padded[index][window]
        result[index] = np.flip(part, axis=rows) if mirrored[index] else part
    return result


def _moments(preprocessing: Preprocessing) -> tuple[Floats, Floats]:
    shape = (-1, 1, 1) if preprocessing.layout is Layout.NCHW else (-1,)
    mean = np.asarray(preprocessing.mean, np.float32).reshape(shape)
    return mean, np.asarray(preprocessing.std, np.float32).reshape(shape)

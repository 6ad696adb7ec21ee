"""Images in array files: .npy, or .npz with labels beside them."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pmsm_cli.errors import DataError, UnreadableImageError
from pmsm_cli.sources.preprocessing import Floats, Preprocessing

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageArray:
    """Images from an .npy or .npz file.

    Bytes (uint8, images x height x width x channels) are pixels, neither scaled nor cropped where they have the
    network's own size; floats are inputs that were preprocessed before, in the network's own layout.
    """

    origin: str
    values: npt.NDArray[Any]
    labels: Labels | None = None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many images the array holds."""
        return len(self.values)

    def name(self, index: int) -> str:
        """The file and the position in it."""
        return f"{self.origin}[{index}]"

    def load(self, index: int, preprocessing: Preprocessing) -> Floats:
        """One image of the array, preprocessed if it is pixels."""
        value = self.values[index]
        if value.dtype == np.uint8:
            image = Image.fromarray(value[..., 0] if value.shape[-1] == 1 else value)
            return preprocessing.apply(image, keep_own_size=True)
        if value.shape != preprocessing.shape:
            raise DataError(
                f"holds inputs of shape {value.shape}, the network reads {preprocessing.shape}", subject=self.origin
            )
        with np.errstate(over="ignore"):
            inputs = np.asarray(value, np.float32)
        if not np.isfinite(inputs).all():
            raise UnreadableImageError(
                "holds values beyond float32 or such that are no numbers", subject=self.name(index)
            )
        return inputs


def open_array(path: Path) -> ImageArray:
    """The images of an array file.

    Raises:
        DataError: it cannot be read, or what it holds are no images or no labels of them.
    """
    values, labels = _read_arrays(path)
    if values.ndim == 4 and values.size == 0:
        raise DataError("holds no images", subject=str(path))
    if values.ndim != 4:
        raise DataError(
            f"must hold images x 3 more axes, not an array of shape {values.shape}",
            subject=str(path),
            hint="uint8: images x height x width x channels; float: inputs as the network reads them",
        )
    if values.dtype == np.uint8:
        if values.shape[-1] not in (1, 3):
            raise DataError(f"pixels must have 1 or 3 channels last, not shape {values.shape}", subject=str(path))
    elif not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"must hold uint8 pixels or floats, not {values.dtype}", subject=str(path))
    return ImageArray(origin=str(path), values=values, labels=_checked_labels(labels, len(values), subject=str(path)))


def _read_arrays(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """The images of an array file, and its labels where it has any."""
    try:
        opened = np.load(path, mmap_mode="r", allow_pickle=False)  # looks at the content, whatever the ending says
        if isinstance(opened, np.ndarray):
            return opened, None
        with opened as archive:
            if "x" not in archive:
                raise DataError(f"has no array `x`, only {', '.join(archive) or 'nothing'}", subject=str(path))
            return archive["x"], archive.get("y", None)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"is not a readable array file ({short_reason(error)})", subject=str(path)) from error


def _checked_labels(labels: npt.NDArray[Any] | None, images: int, *, subject: str) -> Labels | None:
    if labels is None:
        return None
    if labels.shape != (images,):
        raise DataError(f"`y` must hold one label an image, shape ({images},) and not {labels.shape}", subject=subject)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"`y` must hold whole numbers, not {labels.dtype}", subject=subject)
    if labels.min() < 0:
        raise DataError(f"`y` must hold class indices from 0 on, not {labels.min()}", subject=subject)
    return labels.astype(np.int64)


def short_reason(error: Exception) -> str:
    """Why a file cannot be read, in one line."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    plain = {"cannot identify image file": "not an image file", "pickled": "no array, or one of Python objects"}
    return next((better for part, better in plain.items() if part in text), text)

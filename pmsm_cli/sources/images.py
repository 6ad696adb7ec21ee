"""Images from folders and array files: found, sampled, decoded and preprocessed in a stream.

Memory does not grow with the number of images: only paths are kept, and two batches are decoded ahead.
"""

import errno
import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from pmsm_cli.errors import DataError, UnreadableImageError
from pmsm_cli.sources.arrays import ARRAY_SUFFIXES, ImageArray, Labels, open_array, short_reason
from pmsm_cli.sources.preprocessing import Floats, Preprocessing

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_DECODED_AHEAD = 2
_MOST_NAMED = 5  # of names in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedImage:
    """An image that could not be read."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Preprocessed images, in the order of their set; skipped ones are left out of the arrays."""

    inputs: Floats  # [images, *Preprocessing.shape]
    labels: Labels | None  # [images], class indices
    names: tuple[str, ...]  # [images]
    skipped: tuple[SkippedImage, ...] = ()


class ImageSet(Protocol):
    """Anything that yields preprocessed images by index."""

    @property
    def origin(self) -> str:
        """Where the images come from, for messages."""
        ...

    @property
    def labels(self) -> Labels | None:
        """The class index of every image, where known."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their indices; empty where unknown."""
        ...

    def __len__(self) -> int:
        """How many images there are, readable or not."""
        ...

    def name(self, index: int) -> str:
        """How messages and results call an image."""
        ...

    def load(self, index: int, preprocessing: Preprocessing) -> Floats:
        """One preprocessed image.

        Raises:
            UnreadableImageError: this one is broken; the rest of the set may be fine.
            DataError: the whole set does not fit the network.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageFiles:
    """Image files, by path."""

    origin: str
    paths: tuple[Path, ...]
    labels: Labels | None = None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.paths[index])

    def load(self, index: int, preprocessing: Preprocessing) -> Floats:
        """Decode one file, turned as its EXIF tag says."""
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                decoded = ImageOps.exif_transpose(image)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file makes a decoder trip over anything: struct.error, zlib.error, ...
            raise UnreadableImageError(short_reason(error), subject=str(path)) from error
        try:
            return preprocessing.apply(decoded)
        except ValueError as error:  # a colour space that cannot be converted
            raise UnreadableImageError(short_reason(error), subject=str(path)) from error


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subset:
    """Some images of another set, in a given order."""

    whole: ImageSet
    indices: tuple[int, ...]

    @property
    def origin(self) -> str:
        """Where the whole set comes from."""
        return self.whole.origin

    @property
    def labels(self) -> Labels | None:
        """The class indices of the chosen images."""
        return None if self.whole.labels is None else self.whole.labels[list(self.indices)]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The whole set's class names."""
        return self.whole.class_names

    def __len__(self) -> int:
        """How many images were chosen."""
        return len(self.indices)

    def name(self, index: int) -> str:
        """The image's name in the whole set."""
        return self.whole.name(self.indices[index])

    def load(self, index: int, preprocessing: Preprocessing) -> Floats:
        """One chosen image."""
        return self.whole.load(self.indices[index], preprocessing)


def open_images(path: Path) -> ImageSet:
    """The images of a folder (class sub-folders give labels), of an array file, or a single image file.

    Class folders in alphabetical order are the class indices; an empty one keeps its index.

    Raises:
        DataError: there is no such path, or nothing in it is an image.
    """
    try:
        if not path.exists():
            raise DataError("no such file or folder", subject=str(path))
        if path.is_dir():
            return _open_folder(path)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", subject=str(path)) from error
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return open_array(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFiles(origin=str(path), paths=(path,))
    raise DataError("is neither a folder, an image nor an .npy or .npz file", subject=str(path))


def labelled_as(images: ImageSet, classes: Sequence[str]) -> ImageSet:
    """The same with labels that count in `classes`, where class folders have names among these; else unchanged.

    A folder that lacks some of a network's classes then counts right. An empty one of another name counts for nothing.

    Raises:
        DataError: some of the folders with images have names of classes, and others have not.
    """
    names = images.class_names
    if not isinstance(images, ImageFiles | ImageArray) or images.labels is None or not names or names == tuple(classes):
        return images
    place = {name: index for index, name in enumerate(classes)}
    used = [names[index] for index in np.unique(images.labels)]
    unknown = [name for name in used if name not in place]
    in_order = len(used) == len(classes) and all(place.get(name, n) == n for n, name in enumerate(used))
    if len(unknown) == len(used) or len(place) != len(classes) or (unknown and in_order):
        return images  # other names, be it that only some are spelt otherwise
    if unknown:
        raise DataError(
            f"sub-folders that are none of the network's classes: {', '.join(unknown[:_MOST_NAMED])}",
            subject=images.origin,
            details=[f"the classes begin with {', '.join(classes[:_MOST_NAMED])}"],
            hint="rename them, or move them away",
        )
    labels = np.array([place.get(name, -1) for name in names])[images.labels]
    return replace(images, labels=labels, class_names=tuple(classes))


def join_images(sets: Sequence[ImageSet]) -> ImageSet:
    """Image files of several paths as one set; labels are dropped unless there is only one set."""
    if len(sets) == 1:
        return sets[0]
    files = [part for part in sets if isinstance(part, ImageFiles)]
    if len(files) != len(sets):
        raise DataError("array files cannot be mixed with other paths", hint="pass one .npy or .npz file at a time")
    paths = tuple(path for part in files for path in part.paths)
    return ImageFiles(origin=f"{len(sets)} paths", paths=paths)


def sample_images(images: ImageSet, samples: int | None, seed: int) -> ImageSet:
    """At most `samples` images, drawn without replacement; in the set's own order, so that reading stays sequential."""
    if samples is None or samples >= len(images):
        return images
    drawn = np.random.default_rng(seed).permutation(len(images))[:samples]
    return Subset(whole=images, indices=tuple(int(index) for index in np.sort(drawn)))


def without_images(images: ImageSet, names: Collection[str]) -> ImageSet:
    """The images that do not have one of these names, in the set's own order."""
    left = tuple(index for index in range(len(images)) if images.name(index) not in names)
    return images if len(left) == len(images) else Subset(whole=images, indices=left)


def read_batches(images: ImageSet, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
    """All images in order, `batch_size` at a time (fewer in the last batch, and where some cannot be read).

    Raises:
        DataError: not one image could be read.
    """
    starts = iter(range(0, len(images), batch_size))
    ahead: deque[Future[Batch]] = deque()
    read_any = False
    pool = ThreadPoolExecutor(max_workers=_DECODED_AHEAD, thread_name_prefix="pmsm-decode")

    def submit() -> None:
        start = next(starts, None)
        if start is not None:
            indices = range(start, min(start + batch_size, len(images)))
            ahead.append(pool.submit(_load_batch, images, preprocessing, indices))

    try:
        for _ in range(_DECODED_AHEAD):
            submit()
        while ahead:
            batch = ahead.popleft().result()
            submit()
            read_any = read_any or len(batch.inputs) > 0
            if not ahead and not read_any:
                raise DataError(
                    f"none of the {len(images)} images can be read",
                    subject=images.origin,
                    details=[f"{image.name}: {image.reason}" for image in batch.skipped[:3]],
                )
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load_batch(images: ImageSet, preprocessing: Preprocessing, indices: range) -> Batch:
    inputs: list[Floats] = []
    kept: list[int] = []
    skipped: list[SkippedImage] = []
    for index in indices:
        try:
            inputs.append(images.load(index, preprocessing))
            kept.append(index)
        except UnreadableImageError as error:
            skipped.append(SkippedImage(name=images.name(index), reason=error.problem))
    return Batch(
        inputs=np.stack(inputs) if inputs else np.empty((0, *preprocessing.shape), np.float32),
        labels=None if images.labels is None else images.labels[kept],
        names=tuple(images.name(index) for index in kept),
        skipped=tuple(skipped),
    )


def _open_folder(folder: Path) -> ImageFiles:
    loose = _image_paths(folder, recursive=False)
    classes = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    by_class = [_image_paths(child, recursive=True) for child in classes if not loose or os.access(child, os.R_OK)]
    if loose and any(by_class):
        raise DataError(
            "holds both images and sub-folders with images, so the labels are unclear",
            subject=str(folder),
            hint="name one of the sub-folders, or move the loose images away",
        )
    if loose:
        return ImageFiles(origin=str(folder), paths=tuple(loose))
    if not any(by_class):
        raise DataError(
            "holds no images", subject=str(folder), hint=f"known endings: {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(paths) for paths in by_class])
    return ImageFiles(
        origin=str(folder),
        paths=tuple(path for paths in by_class for path in paths),
        labels=labels,
        class_names=tuple(child.name for child in classes),
    )


def _image_paths(folder: Path, *, recursive: bool) -> list[Path]:
    """Hidden files and folders hold thumbnails and remains of other systems, never images of the set."""
    found = list[tuple[str, ...]]()
    folders: list[tuple[str, ...]] = [()]  # below this one
    while folders:
        above = folders.pop()
        inside = folder.joinpath(*above)
        if recursive and not os.access(inside, os.R_OK | os.X_OK):
            raise DataError("cannot be read (Permission denied)", subject=str(inside))
        with os.scandir(inside) as entries:
            for entry in entries:
                if entry.name.startswith(".") or _leads_nowhere(entry):
                    continue
                if recursive and entry.is_dir():
                    if not entry.is_symlink():
                        folders.append((*above, entry.name))
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file():
                    found.append((*above, entry.name))
    return [folder.joinpath(*parts) for parts in sorted(found)]


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link in a circle."""
    try:
        entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise
    return False

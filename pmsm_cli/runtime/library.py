"""The native library of neuron operators: finding it, checking it, and putting it on an onnxruntime session.

The library is optional. A checkpoint carries its operators as ONNX functions as well, and onnxruntime uses those
wherever the library is not registered: the spikes are the same, only slower. So nothing here raises when the library is
missing, broken or switched off; `library_status` says why.
"""

import ctypes
import functools
import importlib
import os
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Protocol

# The operators that this version of the package knows how to use (`pmsm_library_version` in the C++ source).
LIBRARY_VERSION = 13
# Setting this environment variable to 0 turns the library off.
SWITCH = "PMSM_NATIVE"
# The first onnxruntime with the version of the C interface that the library asks for.
OLDEST_ONNXRUNTIME = (1, 20)


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeLibrary:
    """A library that was loaded and may be registered."""

    path: Path
    version: int
    multiplies_fast: bool  # it has kernels for this processor's products of bytes
    multiplies_slices: bool  # which are so fast that float weights, in three slices of bytes, gain by them


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryStatus:
    """Whether the native library can be used, and if it cannot, why."""

    available: bool
    path: Path | None  # the file found, usable or not
    reason: str  # why it cannot be used, in one line; empty where it can


class SessionOptions(Protocol):
    """What is asked of `onnxruntime.SessionOptions`, which onnxruntime does not export for type checkers."""

    def register_custom_ops_library(self, path: str, /) -> None:
        """Load the file and add its operators."""


def find_library() -> NativeLibrary | None:
    """The library built with this package, or None where it is missing, unusable or switched off."""
    status = library_status()
    if not status.available or status.path is None:
        return None
    speed = _speed_of_products(status.path)
    return NativeLibrary(
        path=status.path, version=LIBRARY_VERSION, multiplies_fast=speed > 0, multiplies_slices=speed > 1
    )


def library_status() -> LibraryStatus:
    """Whether `find_library` finds one, and if not, why."""
    if os.environ.get(SWITCH) == "0":
        return LibraryStatus(available=False, path=None, reason=f"switched off by {SWITCH}=0")
    return _status_beside_this_module()


def unusable_library() -> LibraryStatus | None:
    """A file that is there but was no use, where somebody has asked for a library by now; None otherwise."""
    if not _status_beside_this_module.cache_info().currsize:
        return None
    status = _status_beside_this_module()
    return status if status.path is not None and not status.available else None


def inspect_library(path: Path) -> LibraryStatus:
    """Load the file and see whether onnxruntime takes it as a library of ours."""
    reason = _why_unusable(path)
    return LibraryStatus(available=reason is None, path=path, reason=reason or "")


def register(options: SessionOptions, library: NativeLibrary) -> None:
    """Give the sessions made with these options the native operators instead of the functions in the file."""
    options.register_custom_ops_library(str(library.path))


@functools.cache
def _status_beside_this_module() -> LibraryStatus:
    folder = Path(__file__).parent
    candidates = (folder / f"_native{suffix}" for suffix in EXTENSION_SUFFIXES)
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        return LibraryStatus(available=False, path=None, reason="not built: no C++ compiler when pmsm was installed")
    return inspect_library(path)


@functools.cache
def _speed_of_products(path: Path) -> int:
    asked = ctypes.CDLL(str(path)).pmsm_multiplies_fast
    asked.argtypes, asked.restype = (), ctypes.c_int
    return int(asked())


def _why_unusable(path: Path) -> str | None:
    onnxruntime = importlib.import_module("onnxruntime")
    if _major_and_minor(onnxruntime.__version__) < OLDEST_ONNXRUNTIME:
        oldest = ".".join(map(str, OLDEST_ONNXRUNTIME))
        return f"onnxruntime {onnxruntime.__version__} is older than {oldest}"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"cannot be loaded: {error}"
    try:
        library_version = library.pmsm_library_version
    except AttributeError:
        return "not a library of ours: it has no version"
    library_version.argtypes, library_version.restype = (), ctypes.c_int
    version = library_version()
    if version != LIBRARY_VERSION:
        return f"version {version}, where this pmsm needs version {LIBRARY_VERSION}: install pmsm again"
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(path))
    except Exception as error:  # onnxruntime's own exceptions share no other base class
        return f"onnxruntime does not take it: {error}"
    return None


def _major_and_minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)

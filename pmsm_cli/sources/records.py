"""A source network as it was handed over, and where the weights of one that is only named come from."""

from dataclasses import dataclass
from pathlib import Path

import onnx


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """A network as it was handed over."""

    name: str  # how messages and reports call it: the file's stem, or timm:NAME
    path: Path  # as it was written: a file, or timm:NAME
    # What tells it from all others. Of a file: of its bytes, followed by those of the files with its external data.
    # Of a timm model: of its name, its input's shape and its weights; exporters do not promise the same bytes again.
    sha256: str
    proto: onnx.ModelProto  # external data loaded
    preset: str | None = None  # the preprocessing that it was trained with, where that is known
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Which weights a timm model gets: its pretrained ones, unless a file or random ones are asked for."""

    file: Path | None = None
    random: bool = False
    seed: int = 0  # of random ones


PRETRAINED = Weights()

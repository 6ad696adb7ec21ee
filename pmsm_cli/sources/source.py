"""Opening a source network by what a user writes for it: the path of an ONNX file, or `timm:` and a model's name."""

import re
from collections.abc import Callable
from pathlib import Path

from pmsm_cli.errors import UsageError
from pmsm_cli.sources.onnx_file import open_onnx
from pmsm_cli.sources.records import PRETRAINED, Source, Weights
from pmsm_cli.sources.timm_model import open_timm
from pmsm_cli.sources.timm_names import PREFIX, is_timm


def open_source(
    path: Path,
    weights: Weights = PRETRAINED,
    *,
    image_size: int | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Source:
    """Read an ONNX file, or create and export a timm model.

    `weights` and `image_size` (pixels; None: the model's own) are for timm models. `on_stage` is told what takes long.

    Raises:
        ModelFileError: there is no such file or model, it cannot be read or exported, or the weights do not fit.
        SetupError: timm is missing, or pretrained weights cannot be fetched.
    """
    if is_timm(path):
        return open_timm(timm_name(path), weights, image_size=image_size, on_stage=on_stage)
    return open_onnx(path)


def timm_name(path: Path) -> str:
    """What stands behind `timm:`."""
    return str(path).removeprefix(PREFIX)


def source_path(name: str) -> Path:
    """What to write for a source whose `Source.name` is known.

    >>> str(source_path("resnet20")), str(source_path("timm:resnet50"))
    ('resnet20.onnx', 'timm:resnet50')
    """
    return Path(name if is_timm(name) else f"{name}.onnx")


def source_stem(path: Path) -> str:
    """What files that are made from a source are called by default; any character in it suits a file name.

    >>> source_stem(Path("networks/resnet20.onnx")), source_stem(Path("timm:resnet50.a1_in1k"))
    ('resnet20', 'resnet50.a1_in1k')
    """
    return re.sub(r"[^\w.-]", "_", timm_name(path)) if is_timm(path) else path.stem


def check_weights(path: Path | None, *, file: Path | None, random: bool, seed: int) -> Weights:
    """Which weights the options of a command ask for.

    Raises:
        UsageError: they contradict each other, or the source brings its own weights.
    """
    given = [name for name, stated in (("--weights-file", file), ("--random-weights", random)) if stated]
    if len(given) > 1:
        raise UsageError("--weights-file and --random-weights contradict each other", hint="leave out one of the two")
    if given and (path is None or not is_timm(path)):
        fact = f"{path} brings its own weights" if path else "no source is named"
        raise UsageError(
            f"{given[0]} is for timm models, and {fact}",
            hint=f"name the model as {PREFIX}NAME, or leave out {given[0]}",
        )
    return Weights(file=file, random=random, seed=seed)

"""What timm knows of a model before it is created: whether there is one of that name, and how it was trained."""

import contextlib
import difflib
import logging
import math
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from pmsm_cli.errors import ModelFileError, PmsmError, PreprocessingError, SetupError

PREFIX = "timm:"
_INSTALL = "pip install 'pmsm-cli[timm]'"
_LIST_HINT = 'python -c "import timm; print(timm.list_models())" lists all'
_MOST_SUGGESTED = 5


def is_timm(path: Path | str) -> bool:
    """Whether a source, or a preset, is a timm model."""
    return str(path).startswith(PREFIX)


def check_timm(subject: str) -> None:
    """Fail where timm cannot be imported.

    Raises:
        SetupError: it or torch is missing, or torchvision was built for another torch.
    """
    try:
        with quiet():
            import timm  # noqa: F401
    except ModuleNotFoundError as error:
        problem = f"needs {error.name}, which is not installed"
        raise SetupError(problem, subject=subject, hint=_INSTALL) from error
    except Exception as error:  # a torchvision of another torch raises whatever that makes it trip over
        raise SetupError(
            "timm cannot be imported: torchvision has to fit torch",
            subject=subject,
            details=[*_versions("torch", "torchvision", "timm"), f"{type(error).__name__}: {first_line(error)}"],
            hint=f"{_INSTALL} --upgrade torch torchvision",
        ) from error


def resolve_name(name: str) -> str:
    """The current name of a model, with its tag where one is stated.

    Raises:
        SetupError: timm cannot be imported.
        ModelFileError: there is no such model, or none with these weights.
    """
    subject = f"{PREFIX}{name}"
    check_timm(subject)
    import timm.models as zoo

    if not name:
        raise ModelFileError("a model's name has to follow", subject=subject, hint=_LIST_HINT)
    architecture, _, tag = name.partition(".")
    current = zoo.get_deprecated_models().get(architecture)
    if current:
        return resolve_name(f"{current.partition('.')[0]}.{tag}" if tag else current)
    known = zoo.list_models()
    if architecture not in known:
        raise _unknown("timm has no model of this name", subject, architecture, known)
    tagged = [each for each in zoo.list_models(architecture, include_tags=True) if "." in each]
    if tag and name not in tagged:
        raise _unknown(f"timm has no weights {tag!r} for {architecture}", subject, name, tagged, fallback=architecture)
    return name


def _unknown(problem: str, subject: str, name: str, known: list[str], *, fallback: str | None = None) -> PmsmError:
    """The names that are nearest, above all those that go on as this one does."""
    longer = sorted((each for each in known if name and each.startswith(name)), key=len)
    near = difflib.get_close_matches(name, known, n=_MOST_SUGGESTED, cutoff=0.6)
    nearest = list(dict.fromkeys([*longer, *near]))[:_MOST_SUGGESTED]
    hint = _LIST_HINT
    if nearest or fallback:
        hint = f"did you mean {PREFIX}{nearest[0] if nearest else fallback}?"
    return ModelFileError(problem, subject=subject, details=nearest, hint=hint)


def data_config(name: str) -> dict[str, Any]:
    """The input that a model was trained on, as timm describes it: `input_size` [channels, height, width], and so on.

    Raises:
        SetupError: timm cannot be imported.
        ModelFileError: there is no such model.
    """
    resolved = resolve_name(name)
    import timm.data
    import timm.models as zoo

    config = zoo.get_pretrained_cfg(resolved) or zoo.PretrainedCfg()
    described: dict[str, Any] = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    return described


def preset_of(preset: str, *, height: int | None, width: int | None) -> dict[str, Any]:
    """The preprocessing of `timm:NAME`, by the keys of `Preprocessing`; sizes in pixels, None: the model's own.

    Raises:
        SetupError: timm cannot be imported.
        PreprocessingError: there is no such model.
    """
    try:
        config = data_config(preset.removeprefix(PREFIX))
    except ModelFileError as error:
        raise PreprocessingError(
            error.problem, subject=error.subject, details=error.details, hint=error.hint
        ) from error
    own_height, own_width = config["input_size"][1:]
    height, width = height or own_height, width or own_width
    # timm rounds the size before the crop down; the fraction that gives this very size survives our rounding.
    scaled = math.floor(height / config["crop_pct"])
    fit = {"center": "crop", "squash": "squash", "border": "pad"}[config["crop_mode"]]
    return {
        "height": height,
        "width": width,
        "fit": "stretch" if fit == "squash" and scaled == height else fit,
        "crop_fraction": height / scaled,
        "interpolation": config["interpolation"],
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what timm and the exporter remark to their developers off the user's screen."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def first_line(error: BaseException) -> str:
    """What an error of another package says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _versions(*packages: str) -> list[str]:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package}: not installed")
    return found

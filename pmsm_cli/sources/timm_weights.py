"""Weights for a timm model: from a file, without running any code that it may hold, or timm's own from the network."""

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmsm_cli.errors import ModelFileError, SetupError, shorten
from pmsm_cli.sources.timm_names import first_line

if TYPE_CHECKING:
    import torch

    State = Mapping[str, torch.Tensor]

_PATIENCE = 10.0  # seconds to wait for a server that does not answer
_MOST_NAMED = 4  # of the keys that do not fit, of each kind
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")  # where training scripts put the weights; best first
_OF_THE_MODEL = (RuntimeError, ValueError, TypeError, AssertionError)  # what timm's models raise when they are created
_SAVE_HINT = "save the weights alone: torch.save(model.state_dict(), FILE), or as .safetensors"


def read_weights(path: Path) -> "State":
    """The tensors of a .safetensors, .pth or .pt file by their names; nothing that is pickled in it is run.

    Raises:
        ModelFileError: the file is missing, damaged, holds code, or holds no tensors by name.
    """
    start = check_readable(path)
    # What safetensors calls its header: the length in eight bytes, then JSON.
    content = _read_safetensors(path) if start[8:9] == b"{" else _read_pickle(path)
    return _named_tensors(content, str(path))


def check_readable(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        ModelFileError: it is missing, empty or cannot be read.
    """
    subject = str(path)
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError as error:
        raise ModelFileError("no such file", subject=subject) from error
    except IsADirectoryError as error:
        raise ModelFileError("is a folder, not a file of weights", subject=subject) from error
    except OSError as error:
        raise ModelFileError(f"cannot be read ({error.strerror})", subject=subject) from error
    if not start:
        raise ModelFileError("is empty", subject=subject, hint="was the file downloaded or copied completely?")
    return start


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged(path) from error


def _read_pickle(path: Path) -> Any:
    import argparse
    import pickle

    import torch

    try:
        # timm's training script keeps its options beside the weights, as a Namespace: plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower():
            raise _damaged(path) from error
        problem = "holds more than weights: Python objects, which could run code when they are read"
        raise ModelFileError(problem, subject=str(path), hint=_SAVE_HINT) from error
    except (RuntimeError, ValueError, OSError, EOFError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> ModelFileError:
    return ModelFileError(
        "is not a file of weights (.safetensors, .pth, .pt), or is damaged",
        subject=str(path),
        hint="was the file downloaded or copied completely?",
    )


def _named_tensors(content: Any, subject: str) -> "State":
    """The tensors of what a file holds, out of the records and under the names that training scripts put them into."""
    import torch
    from timm.models import clean_state_dict

    inner = next((content[key] for key in _NESTED if content.get(key)), content) if isinstance(content, dict) else None
    if not isinstance(inner, dict) or not inner or not all(isinstance(each, torch.Tensor) for each in inner.values()):
        raise ModelFileError("holds no tensors by their names", subject=subject, hint=_SAVE_HINT)
    state: State = clean_state_dict(inner)
    return state


def class_count(state: "State", classifier: str | tuple[str, ...] | None) -> int | None:
    """How many classes the weights tell apart; None: not known. `classifier` is the layer, or layers, that does."""
    layers = (classifier,) if isinstance(classifier, str) else classifier or ()
    weights = (state.get(f"{layer}.weight") for layer in layers)
    return next((len(each) for each in weights if each is not None), None)


def put_weights(module: "torch.nn.Module", state: "State", *, subject: str, model: str) -> tuple[str, ...]:
    """Give a model the weights of a file, all of them and no others; what should be said of it is returned.

    `subject` is the file and `model` the model, for messages.

    Raises:
        ModelFileError: some are missing, left over, or of another shape.
    """
    misfits, resized = _misfits(module, state), []
    if misfits:  # as its authors published them, before timm renamed and reshaped them?
        renamed = _renamed(module, state)
        if renamed is None or _misfits(module, renamed):
            hint = "is it the model that they were trained for, with its tag and the --image-size?"
            problem = f"its weights do not fit {model}"
            raise ModelFileError(problem, subject=subject, details=misfits, hint=hint)
        resized = [key for key in state if key in renamed and state[key].shape != renamed[key].shape]
        state = renamed
    module.load_state_dict(dict(state), strict=False)  # batch norm's counters may be missing
    remark = f"{subject}: timm resized {', '.join(shorten(resized, most=_MOST_NAMED))} to fit {model}"
    return (remark,) if resized else ()


def _misfits(module: "torch.nn.Module", state: "State") -> list[str]:
    own = module.state_dict()
    counters = ("num_batches_tracked",)  # of training, of no use after it; many files leave them out
    missing = [key for key in own if key not in state and not key.endswith(counters)]
    left_over = [key for key in state if key not in own]
    shapes = [
        f"{key}: {_shape(state[key])} in the file, {_shape(own[key])} in the model"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    kinds = {
        "of another shape": shapes,
        "missing": missing,
        "not in the model": left_over,
    }
    return [
        f"{kind}: {key}" if not key.startswith("...") else f"  {key} {kind}"
        for kind, keys in kinds.items()
        for key in shorten(keys, most=_MOST_NAMED)
    ]


def _shape(tensor: "torch.Tensor") -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _renamed(module: "torch.nn.Module", state: "State") -> "State | None":
    """The weights as timm's own loader would prepare them for this kind of model."""
    prepare = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if prepare is None:
        return None
    try:
        prepared: State = prepare(dict(state), module)
    except Exception:  # weights of something else make it trip over anything
        return None
    return prepared


def fetch_pretrained(create: "Callable[..., torch.nn.Module]", config: Any, *, subject: str) -> "torch.nn.Module":
    """A model with the weights that timm publishes, from the cache or the network.

    `create` makes the model with the arguments of `timm.create_model`; `config` is timm's description of the weights.

    Raises:
        ModelFileError: there are none.
        SetupError: they cannot be fetched.
        RuntimeError, ValueError, TypeError, AssertionError: the model cannot be created.
    """
    if not config.has_weights:
        raise ModelFileError(
            "timm has no pretrained weights for it",
            subject=subject,
            hint="--weights-file FILE brings some, --random-weights does without (a dry run)",
        )
    cached = _cached(config)
    try:
        if cached:
            return create(pretrained=True, pretrained_cfg_overlay={"file": cached})
        with _impatient():
            if config.hf_hub_id:
                _ask_hub()
            return create(pretrained=True)
    except Exception as error:  # of four packages, depending on where the weights lie
        if isinstance(error, _OF_THE_MODEL) and not isinstance(error, OSError):
            raise
        raise SetupError(
            "its pretrained weights cannot be fetched",
            subject=subject,
            details=[f"{type(error).__name__}: {first_line(error)}"],
            hint="--weights-file FILE brings weights from elsewhere, --random-weights does without (a dry run)",
        ) from error


def _cached(config: Any) -> str | None:
    """The file that an earlier run fetched from the hub, which needs no network then."""
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id or "@" in config.hf_hub_id:
        return None
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = (try_to_load_from_cache(config.hf_hub_id, name) for name in names)
    return next((path for path in found if isinstance(path, str)), None)


def _ask_hub() -> None:
    """Fail at once where the hub is out of reach: its own client tries again for most of a minute."""
    from huggingface_hub import constants, get_session

    get_session().head(constants.ENDPOINT, timeout=_PATIENCE)


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Downloads that stall fail after a while, and draw no bars of their own."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before, bars = socket.getdefaulttimeout(), not are_progress_bars_disabled()
    socket.setdefaulttimeout(_PATIENCE)
    disable_progress_bars()
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
        if bars:
            enable_progress_bars()

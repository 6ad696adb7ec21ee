"""Weights for timm models: every kind of file, what does not fit, and the hub with and without a network."""

import argparse
import functools
import pickle
import time
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="timm is not installed")

import huggingface_hub.constants as hub
import torch
import zoo
from safetensors.torch import save_file

from pmsm_cli.errors import ModelFileError, SetupError
from pmsm_cli.sources import timm_weights
from pmsm_cli.sources.timm_weights import class_count, fetch_pretrained, put_weights, read_weights

INCOMPLETE = "hint: was the file downloaded or copied completely?"
ALONE = "hint: save the weights alone: torch.save(model.state_dict(), FILE), or as .safetensors"


def fill(file: Path, model: torch.nn.Module, name: str = "timm:pmsm_plain") -> tuple[str, ...]:
    return put_weights(model, read_weights(file), subject=str(file), model=name)


def refusal(file: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        fill(file, zoo.plain(1))
    return str(caught.value)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


# Files

WRAPPED = {
    "as they are": lambda state: state,
    "of a training script": lambda state: {"epoch": 3, "args": argparse.Namespace(lr=0.1), "state_dict": state},
    "averaged ones first": lambda state: {"state_dict": {}, "state_dict_ema": state},
    "under model": lambda state: {"model": state, "optimizer": {"step": torch.zeros(1)}},
    "of several machines": lambda state: {"state_dict": {f"module.{key}": each for key, each in state.items()}},
    "without counters": lambda state: {key: each for key, each in state.items() if "num_batches" not in key},
    "as their authors named them": lambda state: {key.replace("head.", "fc."): each for key, each in state.items()},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_weights_are_found_however_they_are_wrapped(tmp_path: Path, wrap):
    file, model = tmp_path / "weights.pth", zoo.plain(1)
    torch.save(wrap(zoo.plain().state_dict()), file)
    assert not same(model, zoo.plain())
    assert fill(file, model) == ()
    assert same(model, zoo.plain())


def test_safetensors_are_read_whatever_the_ending(tmp_path: Path):
    file, model = tmp_path / "weights.bin", zoo.plain(1)
    save_file(zoo.plain().state_dict(), file)
    fill(file, model)
    assert same(model, zoo.plain())


@pytest.mark.parametrize(
    ("classifier", "classes"),
    [("head", 9), (("head", "other"), 9), (("other", "head"), 9), ("other", None), (None, None)],
)
def test_the_weights_say_how_many_classes_there_are(classifier, classes):
    assert class_count(zoo.plain(num_classes=9).state_dict(), classifier) == classes


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_code_in_a_file_is_not_run(tmp_path: Path, save):
    file, trace = tmp_path / "weights.pth", tmp_path / "trace"
    save({"state_dict": zoo.plain().state_dict(), "more": Trap(trace)}, file)
    assert refusal(file).startswith(f"{file}: ")
    assert not trace.exists()


def test_a_whole_module_is_refused_with_what_to_save_instead(tmp_path: Path):
    file = tmp_path / "weights.pth"
    torch.save(zoo.plain(), file)
    assert refusal(file) == (
        f"{file}: holds more than weights: Python objects, which could run code when they are read\n{ALONE}"
    )


def whole_file(folder: Path) -> bytes:
    torch.save(zoo.plain().state_dict(), folder / "whole.pth")
    return (folder / "whole.pth").read_bytes()


def whole_safetensors(folder: Path) -> bytes:
    save_file(zoo.plain().state_dict(), folder / "whole.safetensors")
    return (folder / "whole.safetensors").read_bytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: whole_file(folder)[:2000],
        lambda folder: whole_safetensors(folder)[:300],
        lambda folder: whole_safetensors(folder)[:-1],
        lambda folder: b"no weights at all",
        lambda folder: b"PK\x03\x04",
    ],
    ids=["cut short", "header cut short", "tensors cut short", "text", "an empty archive"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, make):
    file = tmp_path / "weights.pth"
    file.write_bytes(make(tmp_path))
    assert refusal(file) == (f"{file}: is not a file of weights (.safetensors, .pth, .pt), or is damaged\n{INCOMPLETE}")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path):
    assert refusal(tmp_path / "x") == f"{tmp_path / 'x'}: no such file"
    assert refusal(tmp_path) == f"{tmp_path}: is a folder, not a file of weights"
    (tmp_path / "empty").touch()
    assert refusal(tmp_path / "empty") == f"{tmp_path / 'empty'}: is empty\n{INCOMPLETE}"


@pytest.mark.parametrize("content", [[torch.zeros(1)], {}, {"state_dict": 3}, {"epoch": 1, "weights": torch.zeros(1)}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content):
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    assert refusal(file) == f"{file}: holds no tensors by their names\n{ALONE}"


def test_weights_that_do_not_fit_are_named(tmp_path: Path):
    state = dict(zoo.plain().state_dict())
    state["stem.weight"] = torch.zeros(4, 3, 5, 5)
    del state["block.0.bias"]
    state |= {f"extra.{index}": torch.zeros(1) for index in range(6)}
    file = tmp_path / "weights.pth"
    torch.save(state, file)
    assert refusal(file) == (
        f"{file}: its weights do not fit timm:pmsm_plain\n"
        "  of another shape: stem.weight: 4x3x5x5 in the file, 4x3x3x3 in the model\n"
        "  missing: block.0.bias\n"
        "  not in the model: extra.0\n"
        "  not in the model: extra.1\n"
        "  not in the model: extra.2\n"
        "  not in the model: extra.3\n"
        "    ... and 2 more not in the model\n"
        "hint: is it the model that they were trained for, with its tag and the --image-size?"
    )


def test_weights_of_another_image_size_are_resized_with_a_remark(tmp_path: Path):
    import timm

    file = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_vit", img_size=96).state_dict(), file)
    smaller = timm.create_model("test_vit", img_size=64)
    assert fill(file, smaller, "timm:test_vit") == (f"{file}: timm resized pos_embed to fit timm:test_vit",)


# Pretrained weights


def fetched(name: str = "pmsm_plain") -> torch.nn.Module:
    import timm

    create = functools.partial(timm.create_model, name)
    return fetch_pretrained(create, timm.models.get_pretrained_cfg(name), subject=f"timm:{name}")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no hub where one is asked."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens at the port of the discard protocol
    return folder


def test_pretrained_weights_come_from_the_cache_without_a_network(cache):
    zoo.put_into_cache(zoo.plain().state_dict(), cache)
    assert same(fetched(), zoo.plain())


def test_pretrained_weights_come_from_the_hub_where_it_answers(cache, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(timm_weights, "_ask_hub", lambda: asked.append("hub"))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: zoo.plain().state_dict())
    assert same(fetched(), zoo.plain())
    assert asked == ["hub"]


def test_a_hub_out_of_reach_is_said_at_once(cache):
    start = time.monotonic()
    with pytest.raises(SetupError) as caught:
        fetched()
    assert time.monotonic() - start < 30  # its client alone goes on trying for 47 s
    first, second, third = str(caught.value).splitlines()
    assert first == "timm:pmsm_plain: its pretrained weights cannot be fetched"
    assert second.startswith("  ConnectError: ")
    assert third == (
        "hint: --weights-file FILE brings weights from elsewhere, --random-weights does without (a dry run)"
    )


def test_a_model_without_pretrained_weights_is_refused():
    with pytest.raises(ModelFileError) as caught:
        fetched("pmsm_plain.squashed")
    assert str(caught.value) == (
        "timm:pmsm_plain.squashed: timm has no pretrained weights for it\n"
        "hint: --weights-file FILE brings some, --random-weights does without (a dry run)"
    )

"""The walls of the house: which room may import which, and who may print."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pmsm_cli"

# room -> the rooms that it may import (itself and `errors` always); the order is the way of the data
ALLOWED = {
    "errors": set(),
    "neuron": set(),
    "sources": set(),
    "graph": {"neuron"},
    "calibration": {"neuron"},
    "checkpoint": {"neuron", "sources", "graph", "calibration"},
    "runtime": {"neuron", "sources", "graph", "calibration", "checkpoint"},
    "finetune": {"neuron", "sources", "graph"},
    "energy": {"neuron", "sources", "graph", "calibration", "checkpoint", "runtime"},
    "report": {"sources", "graph", "calibration", "checkpoint", "runtime", "finetune", "energy"},
    "pipeline": {
        "neuron",
        "sources",
        "graph",
        "calibration",
        "checkpoint",
        "runtime",
        "finetune",
        "energy",
        "report",
    },
    "__main__": {"cli"},
    "cli": {"neuron", "sources", "calibration", "checkpoint", "runtime", "finetune", "energy", "report", "pipeline"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


HEAVY = {"torch", "torchvision", "timm", "safetensors", "huggingface_hub"}
FREE_OF_TORCH = {"pmsm_cli.finetune", "pmsm_cli.finetune.records", "pmsm_cli.finetune.settings"}
NEED_TORCH = {module_of(path) for path in FILES if "finetune" in path.parent.parts} - FREE_OF_TORCH
NEED_TORCH |= {"pmsm_cli.neuron.torch_form"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pmsm_cli."):
            rooms.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "pmsm_cli":
            rooms.update(alias.name for alias in node.names if alias.name in ALLOWED)
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_the_rooms_before_it(path: Path):
    room = room_of(path)
    if room == "__init__":
        return
    assert imported_rooms(path) <= ALLOWED[room] | {room, "errors"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_is_imported_only_by_what_is_imported_when_it_is_wanted(path: Path):
    """At the top of a file: in `finetune/` and the torch neuron alone, which in turn nobody imports at the top."""
    at_the_top = [
        name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    ]
    wants_torch = any(name.split(".")[0] in HEAVY or name in NEED_TORCH for name in at_the_top)
    assert not wants_torch or module_of(path) in NEED_TORCH


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_timm_is_imported_only_where_its_models_are_read(path: Path):
    if room_of(path) == "sources" and path.name.startswith("timm_"):
        return
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & (HEAVY - {"torch"})


def test_every_room_is_on_the_plan():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path: Path):
    if room_of(path) == "cli":
        return
    calls = (node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_stays_short_enough_to_read(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420

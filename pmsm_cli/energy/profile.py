"""Reading energy profiles: those of the package by name, the user's own from a TOML or JSON file."""

import dataclasses
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pmsm_cli.energy.constants import (
    EnergyProfile,
    MemoryLevel,
    NeuronPicojoule,
    Picojoule,
    RestPicojoule,
    SpikeSize,
)
from pmsm_cli.errors import ProfileError

__all__ = ["EnergyProfile", "Picojoule", "bundled_profiles", "open_profile"]

_ENDINGS = (".toml", ".json")
_SMALLEST, _LARGEST = 1e-9, 1e12  # pJ: what no machine takes is a slip of the pen, and overflows in sums
_KEYS = frozenset(field.name for field in dataclasses.fields(EnergyProfile))
_LEVEL = {"name", "size", "access"}


def bundled_profiles() -> list[str]:
    """The names of the profiles that come with the package."""
    folder = resources.files("pmsm_cli.energy").joinpath("profiles")
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml"))


def open_profile(name: str) -> EnergyProfile:
    """A bundled profile by name, or one of the user's own from a .toml or .json file.

    Raises:
        ProfileError: there is none, or a constant is missing, unknown, negative or not a number.
    """
    if name in bundled_profiles():
        text = resources.files("pmsm_cli.energy").joinpath("profiles", f"{name}.toml").read_text(encoding="utf-8")
        return _from_record(tomllib.loads(text), subject=name)
    if not name.endswith(_ENDINGS):
        known = ", ".join(bundled_profiles())
        raise ProfileError(
            f"unknown energy profile {name!r}; known: {known}, or a .toml or .json file", subject="--profile"
        )
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
        record = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        kind = "JSON" if name.endswith(".json") else "TOML"
        raise ProfileError(f"is not {kind} ({error})", subject=name) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"cannot be read ({error})", subject=name) from error
    if not isinstance(record, dict):
        raise ProfileError("is no table of constants", subject=name)
    return _from_record(record, subject=name)


def _from_record(record: dict[str, Any], *, subject: str) -> EnergyProfile:
    if unknown := sorted(set(record) - _KEYS):
        raise ProfileError(
            "holds what no profile has",
            subject=subject,
            details=[f"unknown: {key}" for key in unknown],
            hint=f"known are {', '.join(sorted(_KEYS))}",
        )
    spike = _spike(record.get("spike", SpikeSize.UNIT), subject)
    optional = () if spike is SpikeSize.GRADED else ("graded_event",)
    numbers = _table(record, "picojoule", Picojoule, subject, optional=optional)
    if "graded_event" in numbers and spike is SpikeSize.UNIT:
        raise ProfileError('graded_event is for machines of graded spikes: add spike = "graded"', subject=subject)
    rest = _table(record, "rest", RestPicojoule, subject) if "rest" in record else None
    neuron = _table(record, "neuron", NeuronPicojoule, subject) if "neuron" in record else None
    profile = EnergyProfile(
        name=_text(record, "name", Path(subject).stem, subject),
        description=_text(record, "description", "", subject),
        source=_text(record, "source", "not stated", subject),
        assumptions=_lines(record, subject),
        picojoule=Picojoule(**numbers),
        spike=spike,
        rest=RestPicojoule(**rest) if rest else None,
        neuron=NeuronPicojoule(**neuron) if neuron else None,
        memory=_memory(record.get("memory", []), subject),
        sources=_sources(record.get("sources", {}), subject),
    )
    names = {constant.name for constant in profile.constants}
    if strangers := sorted(set(profile.sources) - names):
        details = [f"unknown: {name}" for name in strangers]
        raise ProfileError("[sources] names constants that there are not", subject=subject, details=details)
    return profile


def _table(
    record: dict[str, Any], name: str, wanted: type, subject: str, *, optional: tuple[str, ...] = ()
) -> dict[str, float]:
    """The numbers of one table, all that a record of them has and no others."""
    table = record.get(name)
    constants = table if isinstance(table, dict) else {}
    known = {field.name for field in dataclasses.fields(wanted)}
    missing, unknown = sorted(known - set(optional) - set(constants)), sorted(set(constants) - known)
    if missing or unknown:
        raise ProfileError(
            f"[{name}] does not hold the constants needed",
            subject=subject,
            details=[f"missing: {each}" for each in missing] + [f"unknown: {each}" for each in unknown],
        )
    return {each: _number(value, each, subject) for each, value in constants.items()}


def _number(value: Any, name: str, subject: str) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (value == 0 or _SMALLEST <= value <= _LARGEST):
        raise ProfileError(
            f"{name} must be a number of pJ, 0 or from {_SMALLEST:g} to {_LARGEST:g}, not {value!r}", subject=subject
        )
    return float(value)


def _memory(levels: Any, subject: str) -> tuple[MemoryLevel, ...]:
    """A hierarchy, the smallest memory first, the last one of any size."""
    if not isinstance(levels, list) or not all(isinstance(level, dict) for level in levels):
        raise ProfileError("memory must be a list of levels, [[memory]] each", subject=subject)
    read: list[MemoryLevel] = []
    for place, level in enumerate(levels):
        last = place == len(levels) - 1
        wanted = _LEVEL - {"size"} if last else _LEVEL
        if set(level) != wanted:
            missing, unknown = sorted(wanted - set(level)), sorted(set(level) - wanted)
            raise ProfileError(
                f"level {place + 1} of its memory does not hold what it has to",
                subject=subject,
                details=[f"missing: {each}" for each in missing] + [f"unknown: {each}" for each in unknown],
                hint="name, size in bytes and access in pJ for 64 bits; the last level holds everything: no size",
            )
        size = level.get("size")
        smaller = read[-1].size if read else 0
        if not last and (not isinstance(size, int) or isinstance(size, bool) or size <= (smaller or 0)):
            raise ProfileError(
                f"the size of {level['name']} must be a number of bytes, more than the level before, not {size!r}",
                subject=subject,
            )
        access = _number(level["access"], f"access of {level['name']}", subject)
        read.append(MemoryLevel(name=str(level["name"]), size=size, access=access))
    return tuple(read)


def _spike(value: Any, subject: str) -> SpikeSize:
    try:
        return SpikeSize(value)
    except ValueError as error:
        known = " or ".join(f'"{each}"' for each in SpikeSize)
        raise ProfileError(f"spike must be {known}, not {value!r}", subject=subject) from error


def _text(record: dict[str, Any], key: str, default: str, subject: str) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        raise ProfileError(f"{key} must be a text, not {value!r}", subject=subject)
    return value


def _lines(record: dict[str, Any], subject: str) -> tuple[str, ...]:
    lines = record.get("assumptions", [])
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ProfileError("assumptions must be a list of lines", subject=subject)
    return tuple(lines)


def _sources(table: Any, subject: str) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise ProfileError("[sources] must hold a text for each constant that it names", subject=subject)
    return dict(table)

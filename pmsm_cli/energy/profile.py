"""Energy profiles: files of constants, each with its source."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pmsm_cli.errors import ProfileError


@dataclass(frozen=True, kw_only=True, slots=True)
class Picojoule:
    """The energy of one operation, in pJ."""

    mac_fp32: float
    accumulate_fp32: float
    mac_int8: float
    accumulate_int8: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyProfile:
    """Constants, where they come from, and what they leave out."""

    name: str
    description: str
    source: str
    assumptions: tuple[str, ...]
    picojoule: Picojoule


def bundled_profiles() -> list[str]:
    """The names of the profiles that come with the package."""
    folder = resources.files("pmsm_cli.energy").joinpath("profiles")
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml"))


def open_profile(name: str) -> EnergyProfile:
    """A bundled profile by name, or one of the user's own from a .toml file.

    Raises:
        ProfileError: there is none, or a constant is missing, negative or not a number.
    """
    if name in bundled_profiles():
        text = resources.files("pmsm_cli.energy").joinpath("profiles", f"{name}.toml").read_text(encoding="utf-8")
    elif name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileError(f"cannot be read ({error})", subject=name) from error
    else:
        known = ", ".join(bundled_profiles())
        raise ProfileError(f"unknown energy profile {name!r}; known: {known}, or a .toml file", subject="--profile")
    try:
        return _from_record(tomllib.loads(text), subject=name)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"is not TOML ({error})", subject=name) from error


def _from_record(record: dict[str, Any], *, subject: str) -> EnergyProfile:
    table = record.get("picojoule")
    constants = table if isinstance(table, dict) else {}
    wanted = {field.name for field in dataclasses.fields(Picojoule)}
    if set(constants) != wanted:
        missing, unknown = sorted(wanted - set(constants)), sorted(set(constants) - wanted)
        raise ProfileError(
            "[picojoule] does not hold the constants needed",
            subject=subject,
            details=[f"missing: {name}" for name in missing] + [f"unknown: {name}" for name in unknown],
        )
    for name, value in constants.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            raise ProfileError(f"{name} must be a number of pJ, 0 or more, not {value!r}", subject=subject)
    assumptions = record.get("assumptions", [])
    if not isinstance(assumptions, list):
        raise ProfileError("assumptions must be a list of lines", subject=subject)
    return EnergyProfile(
        name=str(record.get("name", Path(subject).stem)),
        description=str(record.get("description", "")),
        source=str(record.get("source", "not stated")),
        assumptions=tuple(str(line) for line in assumptions),
        picojoule=Picojoule(**{name: float(value) for name, value in constants.items()}),
    )

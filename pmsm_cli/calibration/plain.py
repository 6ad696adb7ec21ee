"""Records of plain fields from JSON: whatever another program has put there, each is of the type that is stated."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

_Record = TypeVar("_Record")

_LARGEST = 2**63  # what any count of a network stays below
_PLAIN = (str, int, float, bool, types.NoneType)


def plain_record(kind: type[_Record], record: Mapping[str, Any]) -> _Record:
    """A dataclass from its fields by name; fields that are no text, number or yes or no are taken as they are.

    Raises:
        TypeError: a field is unknown or missing.
        ValueError: a field is of another type, no number at all (NaN), or a count that no network has.
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # there is no type for "a dataclass"
        allowed = typing.get_args(hints[field.name]) or (hints[field.name],)
        if field.name in record and set(allowed) <= set(_PLAIN) and not _is_one_of(record[field.name], allowed):
            raise ValueError(f"{field.name} is {record[field.name]!r}")
    return kind(**record)


def _is_one_of(value: object, allowed: tuple[type, ...]) -> bool:
    if isinstance(value, bool | str | types.NoneType):
        return type(value) in allowed
    if isinstance(value, int) and int in allowed:
        return abs(value) < _LARGEST
    return isinstance(value, int | float) and float in allowed and not math.isnan(value)

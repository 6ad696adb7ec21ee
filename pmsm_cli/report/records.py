"""Records as plain JSON values, with stable keys."""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np


def to_json(record: Any) -> Any:
    """A record, or any nesting of records, as what `json.dumps` takes; NaN and infinities become null."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_json(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, Enum):
        return record.value
    if isinstance(record, np.ndarray):
        return to_json(record.tolist())
    if isinstance(record, (list, tuple)):
        return [to_json(value) for value in record]
    if isinstance(record, float):
        return record if np.isfinite(record) else None
    if isinstance(record, Path):
        return str(record)
    return record

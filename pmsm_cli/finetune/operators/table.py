"""The dispatch table of the interpreter: one function an ONNX operator, and what such a function is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Result = Tensor | tuple[Tensor, ...]
Function = Callable[..., Result]  # (call, *inputs), an input that is left out being None

OPERATORS: dict[tuple[str, str], Function] = {}  # (domain, operator) -> its function


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What a node states beside its inputs."""

    attributes: Mapping[str, Any] = field(default_factory=dict)  # numbers, lists, strings, tensors
    outputs: int = 1  # how many the node has

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)


def operator(*names: str, domain: str = "") -> Callable[[Function], Function]:
    """Enter a function into the table under the names of the operators that it computes."""

    def enter(function: Function) -> Function:
        for name in names:
            OPERATORS[domain, name] = function
        return function

    return enter


def integers(values: Tensor | list[int]) -> list[int]:
    """Whole numbers from an input or an attribute."""
    return [int(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]

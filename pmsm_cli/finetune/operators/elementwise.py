"""Operators that act on each element by itself: arithmetic, comparisons, activations."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pmsm_cli.finetune.operators.table import Call, operator

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,  # both round half to even
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
}
_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}


def _enter_simple_ones() -> None:
    for name, unary in _UNARY.items():
        operator(name)(functools.partial(_unary, unary))
    for name, binary in _BINARY.items():
        operator(name)(functools.partial(_binary, binary))
    for name, step in _VARIADIC.items():
        operator(name)(functools.partial(_variadic, step))


def _unary(function: Callable[[Tensor], Tensor], call: Call, x: Tensor) -> Tensor:
    return function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor], call: Call, a: Tensor, b: Tensor) -> Tensor:
    return function(*_on_one_device(a, b))


def _variadic(function: Callable[[Tensor, Tensor], Tensor], call: Call, *values: Tensor) -> Tensor:
    return functools.reduce(lambda a, b: function(*_on_one_device(a, b)), values)


def _on_one_device(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Shape arithmetic stays on the CPU; where it meets activations, it comes to them."""
    if a.device == b.device:
        return a, b
    return (a.to(b.device), b) if a.device.type == "cpu" else (a, b.to(a.device))


@operator("Div")
def divide(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """A quotient; whole numbers are cut towards zero."""
    a, b = _on_one_device(a, b)
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Mod")
def modulo(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """A remainder, of the divisor's sign, or with `fmod` of the dividend's."""
    a, b = _on_one_device(a, b)
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


@operator("Pow")
def power(call: Call, base: Tensor, exponent: Tensor) -> Tensor:
    """A power, of the base's type."""
    if exponent.numel() == 1 and exponent.device.type == "cpu":
        return torch.pow(base, exponent.item()).to(base.dtype)  # a number has faster kernels than a tensor
    return torch.pow(*_on_one_device(base, exponent)).to(base.dtype)


@operator("Clip")
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Values bound on either side, or on both."""
    lowest, highest = (None if bound is None else bound.item() for bound in (low, high))
    return x if lowest is None and highest is None else torch.clamp(x, lowest, highest)


@operator("Where")
def where(call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One of two values, element by element."""
    a, b = _on_one_device(a, b)
    return torch.where(condition.to(a.device), a, b)


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """Negative values times `alpha`."""
    return F.leaky_relu(x, call.get("alpha", 0.01))


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """Values above `alpha`, else 0."""
    return F.threshold(x, call.get("alpha", 1.0), 0.0)


@operator("PRelu")
def p_relu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """Negative values times a slope that broadcasts."""
    return torch.where(x < 0, x * slope, x)


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    """Negative values as alpha (e^x - 1)."""
    return F.elu(x, call.get("alpha", 1.0))


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    """Negative values as alpha (e^(x / alpha) - 1)."""
    return F.celu(x, call.get("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    """A scaled Elu."""
    alpha, gamma = call.get("alpha", 1.67326319217681884765625), call.get("gamma", 1.05070102214813232421875)
    return torch.as_tensor(gamma * F.elu(x, alpha))


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """A straight line between 0 and 1."""
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0.0, 1.0)


@operator("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    """Exact, or by tanh as `approximate` says."""
    return F.gelu(x, approximate=call.get("approximate", "none"))


_enter_simple_ones()

"""Layers of running counts for the library's ConvolutionSteps, and what its definition makes of them."""

from collections.abc import Iterable

import numpy as np
from layers import Layer, sums
from native import run_operator

LEVELS = {"negative_levels": 5, "positive_levels": 7}
ZERO = 100
QUANTA = {1: [1.0], 3: [0.5, 0.25, 0.125]}
FURTHER = ("map", "others", "reciprocal", "rest", "quanta", "finest", "zero")


class Made:
    """A layer's inputs: numbers that float32 holds exactly, so that there is one right answer."""

    def __init__(self, layer: Layer, *, steps: int, images: int = 2, padding: int = 77) -> None:
        random = np.random.default_rng((layer.channels, layer.outputs, steps))
        outputs, inputs = layer.outputs, 1 if layer.depthwise else layer.channels
        self.layer, self.steps = layer, steps
        self.codes = random.integers(0, 256, (steps * images, *layer.image, layer.channels)).astype(np.uint8)
        self.weights = random.integers(-127, 128, (outputs, inputs, *layer.kernel)).astype(np.int8)
        self.padding = np.array([padding], np.uint8)
        self.factor = 2.0 ** -random.integers(8, 11, outputs).astype(np.float32)
        self.bias = random.integers(-40, 40, outputs).astype(np.float32) / 4
        self.sums = sums(layer, self.codes, self.weights, padding)
        self.once = (images, *self.sums.shape[1:])
        self.further: dict[str, np.ndarray] = {}
        self.low, self.high = -np.inf, np.inf
        self._random = random

    def add_map(self) -> None:
        self.further["map"] = self._quarters(1, *self.once[1:])

    def add_others(self, *, once: bool) -> None:
        self.further["others"] = self._quarters(*(self.once if once else self.sums.shape))

    def add_neurons(self, *, before: bool) -> None:
        outputs = self.layer.outputs
        self.further |= {
            "reciprocal": 2.0 ** -self._random.integers(0, 4, outputs).astype(np.float32),
            "rest": self._random.integers(-3, 4, outputs).astype(np.float32),
            "quanta": np.array(QUANTA[self.steps], np.float32),
            "finest": np.array([0.125], np.float32),
            "zero": np.array([ZERO], np.uint8),
        }
        if before:
            self.further["before"] = self._random.integers(ZERO - 40, ZERO + 56, self.once).astype(np.uint8)

    def _quarters(self, *shape: int) -> np.ndarray:
        return self._random.integers(-40, 40, shape).astype(np.float32) / 4

    def values(self) -> np.ndarray:
        values = self.sums * self.factor.astype(np.float64) + self.bias + self.further.get("map", 0)
        by_step = values.reshape(self.steps, *self.once)
        others = self.further.get("others", np.zeros(()))
        whole = by_step + (others.reshape(by_step.shape) if others.shape == values.shape else others)
        return np.clip(whole, self.low, self.high).reshape(values.shape)

    def emitted(self) -> np.ndarray:
        counted = (self.further["before"].astype(float) - ZERO) / 8 if "before" in self.further else 0.0
        codes = []
        for quantum, value in zip(QUANTA[self.steps], self.values().reshape(self.steps, *self.once), strict=True):
            above = value * self.further["reciprocal"] - self.further["rest"]
            wanted = np.clip(np.round((above - counted) / quantum), -5, 7)
            counted = counted + quantum * wanted
            codes.append(counted * 8 + ZERO)
        return np.concatenate(codes)

    def numbers(self, prefix: str = "") -> dict[str, np.ndarray]:
        """The inputs that a pass through the layer has of its own, from the factor on."""
        limits = {name: np.array([limit], np.float32) for name, limit in (("low", self.low), ("high", self.high))}
        own = {"factor": self.factor, "bias": self.bias, **limits}
        for name in FURTHER:
            own[name if name in self.further else f"none_{name}"] = self.further.get(name, np.empty(0))
        return {name if name.startswith("none") else f"{prefix}{name}": array for name, array in own.items()}

    def flags(self, prefix: str = "") -> dict[str, int]:
        """The attributes that a pass through the layer has of its own."""
        return {f"{prefix}{name}": number for name, number in ({"maps": int("map" in self.further)} | LEVELS).items()}

    def run(self, *, values: bool, threads: int = 2, **attributes: int) -> list[np.ndarray]:
        fires = "zero" in self.further
        inputs = {"codes": self.codes, "weights": self.weights, "padding": self.padding, **self.numbers()}
        for name in ("before", "reached"):
            inputs[name if name in self.further else f"none_{name}"] = self.further.get(name, np.empty(0))
        outputs = {"values" if values else "": "float32"} | ({"emitted": "uint8"} if fires else {})
        outputs |= {"counts": "float32"} if attributes.get("counted") else {}
        flags = self.flags() | {"fires": int(fires), "sliced": 0, "counted": 0}
        every = self.layer.attributes | flags | attributes
        return run_operator("ConvolutionSteps", inputs, outputs, constant=constants(inputs), threads=threads, **every)


def constants(inputs: Iterable[str]) -> list[str]:
    """What a node knows beforehand."""
    fed = ("codes", "others", "before", "reached", "later_codes", "later_others")
    return [name for name in inputs if name not in fed]

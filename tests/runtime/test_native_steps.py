"""The native neurons of several timesteps against the specification, step by step."""

import numpy as np
import pytest
from native import run_operator

from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.reference import NeuronState, step
from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

NAMES = ("value", "threshold", "rest", "before", "horizons", "quanta")
LEVELS = {"negative_levels": 7, "positive_levels": 7}


def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
    inputs = {name: feeds[name] for name in NAMES}
    return run_operator("PolarityNeuronSteps", inputs, {"emitted": "float32"}, **LEVELS)[0]


def numbers(coding: Coding, steps: int, first: int = 2) -> dict[str, np.ndarray]:
    each = [coding.at(number) for number in range(first, first + steps)]
    return {
        "horizons": np.array([one.horizon for one in each], np.float32),
        "quanta": np.array([one.quantum for one in each], np.float32),
    }


def expected(feeds: dict[str, np.ndarray], coding: Coding, shape: tuple[int, ...], first: int = 2) -> np.ndarray:
    """The running counts of the specification, step by step."""
    steps = len(feeds["horizons"])
    given = len(feeds["value"]) // shape[0] if shape[0] else steps
    values = feeds["value"].reshape(given, *shape) - feeds["rest"]
    state = NeuronState(np.broadcast_to(feeds["before"], shape).astype(np.float32), first - 1)
    counts = []
    for index in range(steps):
        value = values[index % len(values)]
        _, state = step(value, state, feeds["threshold"], negative_levels=7, positive_levels=7, coding=coding)
        counts.append(state.emitted / feeds["horizons"][index])
    return np.concatenate(counts)


def tensors(shape: tuple[int, ...], steps: int, numbers_like: tuple[int, ...], *, held: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    rows = shape[0] if held else shape[0] * steps
    return {
        "value": np.asarray(4 * random.normal(size=(rows, *shape[1:])), np.float32),
        "threshold": np.asarray(0.25 + random.random(numbers_like), np.float32),
        "rest": np.asarray(random.normal(size=numbers_like), np.float32),
        "before": np.round(3 * random.normal(size=shape)).astype(np.float32),
    }


@pytest.mark.parametrize("coding", list(Coding))
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    ("shape", "along"),
    [
        ((2, 5, 4, 6), (5, 1, 1)),
        ((1, 64, 56, 56), (64, 1, 1)),
        ((3, 7, 600), (600,)),
        ((2, 9, 20), (20,)),
        ((2, 5, 3), (3,)),
        ((2, 4, 9), (4, 9)),
        ((2, 4, 33), ()),
        ((0, 4, 9), (4, 1)),
        ((1, 1), ()),
        ((1,), ()),
    ],
)
def test_running_counts_are_those_of_the_specification(shape, along, steps, held, coding):
    feeds = tensors(shape, steps, along, held=held) | numbers(coding, steps)
    np.testing.assert_array_equal(run(feeds), expected(feeds, coding, shape))


def test_the_first_step_has_emitted_nothing_before():
    feeds = tensors((2, 5, 4, 6), 1, (5, 1, 1), held=False) | numbers(Coding.REFINE, 1, first=1)
    feeds["before"] = np.zeros((), np.float32)
    got = run(feeds)
    np.testing.assert_array_equal(got, expected(feeds, Coding.REFINE, (2, 5, 4, 6), first=1))
    assert got.shape == (2, 5, 4, 6)


def test_what_is_not_a_number_emits_no_spike():
    feeds = tensors((2, 16), 2, (), held=False) | numbers(Coding.REFINE, 2)
    feeds["value"][:, ::2] = np.nan
    got = run(feeds).reshape(2, 2, 16)
    np.testing.assert_array_equal(got[:, :, ::2], np.stack([feeds["before"][:, ::2]] * 2))


def test_huge_values_emit_as_much_as_there_is():
    feeds = tensors((1, 4), 1, (), held=False) | numbers(Coding.RATE, 1)
    feeds["value"][:], feeds["before"][:] = [[np.inf, -np.inf, 3e38, -3e38]], 0
    np.testing.assert_array_equal(run(feeds), [[3.5, -3.5, 3.5, -3.5]])


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("before", np.ones((2, 3), np.float32), r"a value of shape \[6,5,4\] does not fit 3 steps of neurons"),
        ("threshold", np.ones(3, np.float32), r"threshold of shape \[3\] does not fit neurons of shape \[2,5,4\]"),
        ("rest", np.ones((5, 3), np.float32), r"rest of shape \[5,3\] does not fit neurons of shape \[2,5,4\]"),
        ("quanta", np.ones(2, np.float32), r"quanta of shape \[2\] do not fit"),
        ("horizons", np.ones(0, np.float32), r"horizons of shape \[0\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, array, message):
    feeds = tensors((2, 5, 4), 3, (5, 1), held=False) | numbers(Coding.REFINE, 3)
    feeds[name] = array
    with pytest.raises(Exception, match=message):
        run(feeds)

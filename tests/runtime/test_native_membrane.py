"""The native membrane with its neuron against the operators that it stands for."""

import numpy as np
import pytest
from native import run_operator

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

NAMES = ("arriving", "before", "drive", "carried", "rest", "threshold", "emitted", "horizon", "quantum")
LEVELS = {"negative_levels": 3, "positive_levels": 7}


def run(feeds: dict[str, np.ndarray], *, relu: bool, outputs: int = 4) -> list[np.ndarray]:
    names = ["membrane", "spikes", "now", "value"][:outputs]
    inputs = {name: feeds[name] for name in NAMES}
    return run_operator("MembraneStep", inputs, dict.fromkeys(names, "float32"), relu=int(relu), **LEVELS)


def expected(feeds: dict[str, np.ndarray], *, relu: bool) -> list[np.ndarray]:
    """In float32, in the order of the operators."""
    f = feeds
    membrane = f["before"] + f["arriving"] * f["quantum"]
    value = (membrane + f["drive"]) + f["carried"]
    value = np.maximum(value, np.float32(0)) if relu else value
    wanted = ((value - f["rest"]) / f["threshold"] * f["horizon"] - f["emitted"]) / f["quantum"]
    spikes = np.clip(np.round(np.nan_to_num(wanted, nan=0.0)), -3, 7)
    return [membrane, spikes, f["emitted"] + f["quantum"] * spikes, value]


def tensors(shape: tuple[int, ...], **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    sizes = {**dict.fromkeys(("arriving", "before", "carried", "emitted"), shape), "drive": (), "rest": (), **shapes}
    feeds = {name: np.asarray(4 * random.normal(size=size), np.float32) for name, size in sizes.items()}
    feeds["threshold"] = np.asarray(0.25 + random.random(shapes.get("threshold", ())), np.float32)
    return feeds | {"horizon": np.array(1, np.float32), "quantum": np.array(0.5, np.float32)}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("shape", "numbers"),
    [
        ((2, 5, 4, 6), {"threshold": (5, 1, 1), "drive": (1, 5, 4, 6), "rest": (5, 1, 1)}),
        ((2, 5, 4, 6), {"threshold": (5, 1, 1), "drive": (5, 1, 1), "carried": ()}),
        ((2, 5, 1, 1), {"threshold": (5, 1, 1), "drive": (5, 4 // 4, 1)}),
        ((3, 7, 600), {"threshold": (600,), "drive": (600,), "rest": (600,)}),
        ((2, 3, 40, 41), {"threshold": (3, 1, 1), "rest": (1, 3, 1, 1)}),
        ((1, 64, 56, 56), {"threshold": (64, 1, 1), "drive": (64, 1, 1)}),
        ((2, 4, 9), {"threshold": (4, 9), "rest": (4, 1)}),
        ((0, 4, 9), {"threshold": (4, 1)}),
        ((1,), {}),
    ],
)
def test_the_numbers_are_those_of_the_operators_in_their_order(shape, numbers, relu):
    feeds = tensors(shape, **numbers)
    for got, want in zip(run(feeds, relu=relu), expected(feeds, relu=relu), strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_value_is_left_out_where_nobody_asks_for_it():
    feeds = tensors((2, 5, 4, 6), threshold=(5, 1, 1))
    for got, want in zip(run(feeds, relu=True, outputs=3), expected(feeds, relu=True), strict=False):
        np.testing.assert_array_equal(got, want)


def test_what_is_not_a_number_emits_no_spike():
    feeds = tensors((1, 8))
    feeds["before"][0, ::2] = np.nan
    _, spikes, now, value = run(feeds, relu=True)
    assert (spikes[0, ::2] == 0).all()
    np.testing.assert_array_equal(now[0, ::2], feeds["emitted"][0, ::2])
    assert np.isnan(value[0, ::2]).all()


@pytest.mark.parametrize("name", ["before", "carried", "drive", "threshold"])
def test_tensors_that_do_not_fit_are_refused(name):
    feeds = tensors((2, 5, 4, 6))
    feeds[name] = np.ones((2, 3), np.float32)
    with pytest.raises(Exception, match=r"does not fit a value of shape \[2,5,4,6\]"):
        run(feeds, relu=False)

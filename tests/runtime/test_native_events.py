"""Products driven by events against plain products, whatever spikes."""

import numpy as np
import pytest
from native import run_operator

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

SHAPES = [(1, 300, 5000), (3, 7, 1), (1, 1, 9), (0, 4, 5), (5, 64, 65), (2, 0, 3)]


def run(op_type: str, *arrays: np.ndarray) -> np.ndarray:
    return run_operator(op_type, {f"x{index}": array for index, array in enumerate(arrays)}, {"y": "float32"})[0]


def counts(rows: int, inputs: int, density: float, lowest: int = -3) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(lowest, 8, (rows, inputs)) * (random.random((rows, inputs)) < density)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_floats_are_those_of_a_dense_product(rows, inputs, outputs, density):
    spikes = counts(rows, inputs, density).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(inputs, outputs)).astype(np.float32)
    bias = np.arange(outputs, dtype=np.float32)
    expected = spikes.astype(np.float64) @ weights.astype(np.float64) + bias
    np.testing.assert_allclose(run("EventProduct", spikes, weights, bias), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("one_scale", [True, False])
def test_integers_are_exact_up_to_their_scale(rows, inputs, outputs, density, one_scale):
    spikes = counts(rows, inputs, density)
    weights = np.random.default_rng(1).integers(-127, 128, (inputs, outputs)).astype(np.int8)
    scale = np.full(1, 0.25, np.float32) if one_scale else 2.0 ** -(np.arange(outputs, dtype=np.float32) % 4)
    bias, zero = np.arange(outputs, dtype=np.float32), np.array([3], np.uint8)
    got = run("EventProductInteger", (spikes + 3).astype(np.uint8), weights, zero, scale, bias)
    np.testing.assert_array_equal(got, (spikes @ weights.astype(np.int64)).astype(np.float32) * scale + bias)


def test_sums_of_the_largest_codes_and_weights_do_not_overflow():
    codes, weights = np.full((1, 25088), 255, np.uint8), np.full((25088, 4), -128, np.int8)
    got = run(
        "EventProductInteger", codes, weights, np.zeros(1, np.uint8), np.ones(1, np.float32), np.zeros(4, np.float32)
    )
    assert (got == -128 * 255 * 25088).all()


def test_tensors_that_do_not_fit_are_refused():
    spikes, weights, bias = np.ones((2, 3), np.float32), np.ones((4, 5), np.float32), np.ones(5, np.float32)
    with pytest.raises(Exception, match=r"spikes of shape \[2,3\] do not fit weights of shape \[4,5\]"):
        run("EventProduct", spikes, weights, bias)
    with pytest.raises(Exception, match="a bias of 3 elements does not fit 5 outputs"):
        run("EventProduct", np.ones((2, 4), np.float32), weights, np.ones(3, np.float32))

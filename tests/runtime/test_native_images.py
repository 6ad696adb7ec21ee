"""The library's first layer against its definition, on numbers that float32 holds exactly."""

import numpy as np
import pytest
from native import run_operator
from test_native_convolutions import LAYERS, Layer, rounded, sums

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")
DENSE = {name: layer for name, layer in LAYERS.items() if not layer.depthwise and layer.channels <= 64}


def run(layer: Layer, images: np.ndarray, constants: dict[str, np.ndarray], threads: int = 2) -> np.ndarray:
    window = {name: number for name, number in layer.attributes.items() if name not in ("group", "adds", "fires")}
    given = {"image": images, **constants}
    (codes,) = run_operator("ImageCodes", given, {"codes": "uint8"}, constant=constants, threads=threads, **window)
    return codes


def made(layer: Layer, images: int = 2) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    random = np.random.default_rng((layer.channels, layer.outputs))
    outputs = layer.outputs

    def whole(*shape: int) -> np.ndarray:
        return random.integers(-8, 9, shape).astype(np.float32)

    return whole(images, layer.channels, *layer.image), {
        "weights": whole(outputs, layer.channels, *layer.kernel),
        "bias": whole(outputs),
        "low": np.float32([-300.0]),
        "high": np.float32([700.0]),
        "rest": whole(outputs),
        "threshold": random.choice([2.0, 4.0, 8.0], outputs).astype(np.float32),
        "zero": random.integers(0, 90, outputs).astype(np.uint8),
        "lowest": random.integers(0, 40, outputs).astype(np.uint8),
        "highest": random.integers(100, 256, outputs).astype(np.uint8),
    }


def expected(layer: Layer, images: np.ndarray, constants: dict[str, np.ndarray]) -> np.ndarray:
    weights, bias, low, high, rest, threshold, *bounds = constants.values()
    total = sums(layer, images.transpose(0, 2, 3, 1), weights, 0) + bias
    return rounded((np.clip(total, low, high) - rest) / threshold, *bounds)


@pytest.mark.parametrize("name", DENSE)
def test_codes_are_those_of_the_definition(name):
    images, constants = made(DENSE[name])
    np.testing.assert_array_equal(run(DENSE[name], images, constants), expected(DENSE[name], images, constants))


@pytest.mark.parametrize("name", ["many places", "strides that leave out"])
def test_threads_make_no_difference(name):
    images, constants = made(DENSE[name], images=3)
    one, three = (run(DENSE[name], images, constants, threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_values_that_are_no_numbers_emit_nothing_around_them():
    layer = Layer(image=(5, 5), channels=1, outputs=3)
    images, constants = made(layer, images=1)
    constants |= {"low": np.float32([-np.inf]), "high": np.float32([np.inf])}
    right = run(layer, images, constants)
    images[0, 0, 0, 0] = np.nan
    got = run(layer, images, constants)
    np.testing.assert_array_equal(got[:, 2:], right[:, 2:])
    silent = np.clip(constants["zero"], constants["lowest"], constants["highest"])
    np.testing.assert_array_equal(got[0, 0, 0], silent)


def test_no_image_gives_no_codes():
    layer = Layer()
    images, constants = made(layer, images=0)
    assert run(layer, images, constants).shape == (0, 6, 7, 16)


def test_what_does_not_fit_is_said():
    layer = Layer(channels=3)
    images, constants = made(layer)
    with pytest.raises(Exception, match="does not have 3 channels"):
        run(layer, images[:, :2], constants)
    constants["weights"] = np.zeros((16, 300, 3, 3), np.float32)
    with pytest.raises(Exception, match="more than a first layer's"):
        run(layer, images, constants)

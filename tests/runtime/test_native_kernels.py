"""The kernels of other processors than this one's fastest, and sums that a narrower kind of them could not hold."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_native_convolutions as in_codes
from layers import Layer
from step_layers import Made

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

HERE = Path(__file__).parent
KERNELS = {"anywhere": 0, "avx2": 1, "vnni": 2}  # and what the library says of their speed
SEEN = {
    "all channels": Layer(image=(5, 9), channels=37, outputs=50),
    "one place": Layer(image=(5, 9), channels=200, outputs=64, kernel=(1, 1), pads=(0,) * 4),
    "each channel": Layer(image=(5, 9), channels=70, outputs=70, depthwise=True),
    "each of few channels": Layer(image=(5, 9), channels=12, outputs=12, depthwise=True),
}
# Where one, two, four and eight words of the largest weights begin not to fit 16 bits, and around the highest bit.
LARGEST = (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 254, 255)
WEIGHTS = {"highest": 127, "lowest": -128, "any": None}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("largest", LARGEST)
@pytest.mark.parametrize("name", SEEN)
def test_sums_are_exact_however_large_codes_and_weights_are(name, largest, weights):
    layer, random = SEEN[name], np.random.default_rng(largest)
    made = in_codes.Made(layer, padding=min(largest, 3))
    made.codes = random.integers(0, largest + 1, made.codes.shape).astype(np.uint8)
    made.codes[0] = largest
    if WEIGHTS[weights] is not None:
        made.weights[:] = WEIGHTS[weights]
    # So that most sums are told apart.
    size = int(layer.kernel[0] * layer.kernel[1] * (1 if layer.depthwise else layer.channels)) * 128 * largest
    made.factor = np.full(layer.outputs, 2.0 ** -max(0, int(np.log2(size)) - 6), np.float32)
    (got,) = in_codes.run(made, made.inputs())
    np.testing.assert_array_equal(got, made.expected())


@pytest.mark.parametrize("largest", LARGEST)
@pytest.mark.parametrize("name", SEEN)
def test_values_of_steps_are_exact_however_large_codes_are(name, largest):
    made = Made(SEEN[name], steps=3, padding=min(largest, 5))
    made.codes = np.minimum(made.codes, largest)
    made.codes[1] = largest
    made.weights[::2] = 127
    made.weights[1::2] = -128
    made.sums = in_codes.sums(made.layer, made.codes, made.weights, int(made.padding[0]))
    np.testing.assert_array_equal(made.run(values=True)[0], made.values())


WINDOWS = {
    "all channels": Layer(image=(9, 7), channels=8, outputs=16),
    "one place": Layer(image=(9, 7), channels=8, outputs=16, kernel=(1, 1), pads=(0,) * 4),
    "moved by two": Layer(image=(9, 7), channels=8, outputs=16, strides=(2, 2)),
    "dilated": Layer(image=(9, 7), channels=8, outputs=16, steps=(2, 2), pads=(2,) * 4),
    "padded above": Layer(image=(9, 7), channels=8, outputs=16, pads=(2, 1, 0, 1)),
    "each channel": Layer(image=(9, 7), channels=64, outputs=64, depthwise=True),
    "in several parts": Layer(image=(40, 40), channels=32, outputs=64),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_a_single_large_code_is_seen_wherever_it_lies(name):
    layer = WINDOWS[name]
    for image in (0, 1):
        for row in {0, 1, 2, layer.image[0] // 2, layer.image[0] - 2, layer.image[0] - 1}:
            made = in_codes.Made(layer)
            made.codes[:] = 1
            made.codes[image, row, layer.image[1] // 2, 1:3] = 255
            made.weights[:] = 127
            size = layer.kernel[0] * layer.kernel[1] * (1 if layer.depthwise else layer.channels) * 127
            made.factor[:] = 2.0 ** -max(0, int(np.log2(size)) - 3)
            (got,) = in_codes.run(made, made.inputs())
            np.testing.assert_array_equal(got, made.expected())


@pytest.mark.parametrize(("kernels", "speed"), KERNELS.items())
def test_slower_kernels_pass_the_same_tests(kernels, speed, pytestconfig):
    """PMSM_KERNELS names the fastest that may be used."""
    assert LIBRARY is not None
    if not LIBRARY.multiplies_fast or (kernels != "anywhere" and not LIBRARY.multiplies_slices):
        pytest.skip("this processor has none that are faster")
    folders = [str(pytestconfig.rootpath / folder) for folder in pytestconfig.getini("pythonpath")]
    environment = {**os.environ, "PMSM_KERNELS": kernels, "PYTHONPATH": os.pathsep.join(folders)}
    asked = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).pmsm_multiplies_fast())"
    found = subprocess.check_output([sys.executable, "-c", asked, str(LIBRARY.path)], env=environment, text=True)
    assert int(found) == speed
    files = ("convolutions", "convolution_steps", "images", "kernels")
    paths = [str(HERE / f"test_native_{name}.py") for name in files]
    options = ["-o", f"pythonpath={' '.join(folders)}", "-p", "no:cacheprovider"]
    without = ["-k", "not slower_kernels and not threads and not counted"]
    command = [sys.executable, "-P", "-m", "pytest", *options, *without, *paths]
    done = subprocess.run(
        command, check=False, env=environment, cwd=pytestconfig.rootpath, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]

"""A first step and later ones in one ConvolutionSteps: what two nodes with the same weights would give."""

import numpy as np
import pytest
from layers import LAYERS, Layer, sums
from native import run_operator
from step_layers import Made, constants

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

MANY = LAYERS | {"more places than are taken at once": Layer(image=(19, 23), channels=48, outputs=80)}


def both(layer: Layer, *, images: int = 2) -> tuple[Made, Made]:
    """A first step, and three later ones with the same weights."""
    first, later = (Made(layer, steps=steps, images=images) for steps in (1, 3))
    later.weights = first.weights
    later.sums = sums(layer, later.codes, later.weights, 77)
    return first, later


def fire(first: Made, later: Made) -> None:
    first.add_neurons(before=False)
    later.add_neurons(before=False)
    later.further["before"] = first.emitted().astype(np.uint8)


def run(first: Made, later: Made, *, values: bool, threads: int = 2, sliced: int = 0) -> list[np.ndarray]:
    fires = "zero" in first.further
    inputs = {"codes": first.codes, "weights": first.weights, "padding": first.padding, **first.numbers()}
    inputs |= {"none_before": np.empty(0), "none_reached": np.empty(0), "later_codes": later.codes}
    inputs |= {f"{name}_later" if name.startswith("none") else name: at for name, at in later.numbers("later_").items()}
    kinds = ([("values", "float32")] if values else []) + ([("emitted", "uint8")] if fires else [])
    every = dict(kinds)
    names = [name if name in every else "" for name in ("values", "emitted", "counts")]
    outputs = [(name, every.get(name, "float32")) for name in names]
    outputs += [(f"later_{name}" if name else "", kind) for name, kind in outputs[:2]]
    flags = first.layer.attributes | first.flags() | later.flags("later_")
    flags |= {"fires": int(fires), "sliced": sliced, "counted": 0, "later": 1}
    return run_operator("ConvolutionSteps", inputs, outputs, constant=constants(inputs), threads=threads, **flags)


@pytest.mark.parametrize("name", MANY)
def test_values_are_those_of_either_pass(name):
    first, later = both(MANY[name])
    for got, made in zip(run(first, later, values=True), (first, later), strict=True):
        np.testing.assert_array_equal(got, made.values())


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("name", MANY)
def test_later_steps_begin_with_what_the_first_one_has_emitted(name, values):
    first, later = both(MANY[name])
    fire(first, later)
    got = run(first, later, values=values)
    expected = [made.values() for made in (first, later)] if values else []
    emitted = [made.emitted() for made in (first, later)]
    if values:
        expected = [expected[0], emitted[0], expected[1], emitted[1]]
    for one, right in zip(got, expected or emitted, strict=True):
        np.testing.assert_array_equal(one, right)


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("name", ["a part of a vector", "each of few channels", "more places than are taken at once"])
def test_each_pass_has_maps_tensors_and_limits_of_its_own(name, once):
    first, later = both(MANY[name])
    first.add_map()
    first.low, later.high = -3.0, 11.0
    for made in (first, later):
        made.add_others(once=once)
    for got, made in zip(run(first, later, values=True), (first, later), strict=True):
        np.testing.assert_array_equal(got, made.values())


def test_weights_in_slices_are_read_by_both():
    first, later = both(MANY["more places than are taken at once"])
    digits = np.random.default_rng(4).integers(-128, 128, (3, *first.weights.shape)).astype(np.int8)
    leading, second, third = digits.astype(np.int64)
    for made in (first, later):
        made.sums = sums(made.layer, made.codes, (leading * 256 + second) * 256 + third, 77)
        made.weights, made.factor = digits.reshape(-1, *digits.shape[2:]), made.factor / 2**16
    for got, made in zip(run(first, later, values=True, sliced=1), (first, later), strict=True):
        np.testing.assert_allclose(got, made.values(), rtol=0, atol=1e-6 * np.abs(made.values()).max())


@pytest.mark.parametrize("name", ["many places", "heavy weights", "each of few channels"])
def test_threads_make_no_difference(name):
    first, later = both(LAYERS[name], images=5)
    fire(first, later)
    one, three = (run(first, later, values=True, threads=threads) for threads in (1, 3))
    for alone, shared in zip(one, three, strict=True):
        np.testing.assert_array_equal(alone, shared)


def test_no_image_gives_nothing():
    first, later = both(LAYERS["one block"], images=0)
    fire(first, later)
    assert [len(got) for got in run(first, later, values=True)] == [0] * 4


def test_later_steps_of_other_images_are_refused():
    first, later = both(LAYERS["one block"])
    later.codes = later.codes[:5]
    with pytest.raises(Exception, match="are not 2 steps of the same images"):
        run(first, later, values=True)
    fire(first, later)
    with pytest.raises(Exception, match="are not 3 steps of the same images"):
        run(first, later, values=True)


def test_a_first_step_of_several_quanta_is_refused():
    first, later = both(LAYERS["one block"])
    fire(first, later)
    first.further["quanta"] = np.ones(2, np.float32)
    with pytest.raises(Exception, match="a first step has more than one quantum"):
        run(first, later, values=True)

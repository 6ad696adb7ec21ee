"""Native neurons whose running counts leave as codes: the very counts of those that leave floats."""

import numpy as np
import pytest
from counted import defined_counts
from native import run_operator

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

LEVELS = {"negative_levels": 7, "positive_levels": 7}
QUANTA = np.array([0.5, 0.25, 0.125], np.float32)
FINEST = np.array(0.125, np.float32)
ZERO = 110


def made(shape: tuple[int, ...], along: tuple[int, ...], *, steps: int, held: bool = False) -> dict[str, np.ndarray]:
    random = np.random.default_rng((len(shape), steps))
    rows = shape[0] if held else shape[0] * steps
    return {
        "value": np.asarray(4 * random.normal(size=(rows, *shape[1:])), np.float32),
        "threshold": np.asarray(0.25 + random.random(along), np.float32),
        "rest": np.asarray(random.normal(size=along), np.float32),
        "before": np.clip(np.round(3 * random.normal(size=shape)), -7, 7).astype(np.float32),
    }


def codes(feeds: dict[str, np.ndarray], quanta: np.ndarray, *, threads: int = 2) -> np.ndarray:
    before = {"before": (feeds["before"] * 8 + ZERO).astype(np.uint8)} if "before" in feeds else {}
    numbers = {"quanta": quanta, "finest": FINEST, "zero": np.array(ZERO, np.uint8)}
    inputs = {name: feeds[name] for name in ("value", "threshold", "rest")} | numbers | before
    return run_operator("StepCodes", inputs, {"emitted": "uint8"}, threads=threads, **LEVELS)[0]


def counts(feeds: dict[str, np.ndarray], quanta: np.ndarray) -> np.ndarray:
    """In floats."""
    before = {"before": feeds.get("before", np.zeros((), np.float32))}
    numbers = {"horizons": np.ones_like(quanta), "quanta": quanta}
    inputs = {name: feeds[name] for name in ("value", "threshold", "rest")} | before | numbers
    return run_operator("PolarityNeuronSteps", inputs, {"emitted": "float32"}, **LEVELS)[0]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(
    ("shape", "along"),
    [
        ((2, 5, 3), (3,)),
        ((2, 7, 4, 4), (7, 1, 1)),
        ((3, 33, 9, 9), (33, 1, 1)),
        ((2, 197, 40), (40,)),
        ((2, 3), ()),
        ((1, 1), (1,)),
    ],
)
def test_codes_hold_the_counts_of_neurons_that_leave_floats(shape, along, held):
    feeds = made(shape, along, steps=3, held=held)
    np.testing.assert_array_equal((codes(feeds, QUANTA).astype(np.float32) - ZERO) / 8, counts(feeds, QUANTA))


def test_the_first_step_begins_with_nothing():
    feeds = made((2, 7, 4, 4), (7, 1, 1), steps=1)
    del feeds["before"]
    once = np.ones(1, np.float32)
    np.testing.assert_array_equal((codes(feeds, once).astype(np.float32) - ZERO) / 8, counts(feeds, once))


def test_what_is_not_a_number_emits_nothing():
    feeds = made((1, 4), (4,), steps=3)
    feeds["value"][:] = np.nan
    np.testing.assert_array_equal(codes(feeds, QUANTA), np.tile(feeds["before"] * 8 + ZERO, (3, 1)))


def test_threads_make_no_difference():
    feeds = made((2, 64, 40, 40), (64, 1, 1), steps=3)
    np.testing.assert_array_equal(codes(feeds, QUANTA, threads=1), codes(feeds, QUANTA, threads=3))


def test_no_image_gives_no_codes():
    assert codes(made((0, 4), (4,), steps=3), QUANTA).shape == (0, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"value": np.zeros((5, 4), np.float32)}, r"a value of shape \[5,4\] does not fit 3 steps"),
        ({"threshold": np.ones(3, np.float32)}, "threshold of shape"),
    ],
)
def test_what_does_not_fit_is_said(wrong, message):
    with pytest.raises(Exception, match=message):
        codes(made((2, 4), (4,), steps=3) | wrong, QUANTA)


def test_several_steps_begin_with_what_was_emitted():
    feeds = made((2, 4), (4,), steps=3)
    del feeds["before"]
    with pytest.raises(Exception, match="quanta of shape"):
        codes(feeds, QUANTA)


def attention(shape: tuple[int, ...], heads: int, *, steps: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng((shape[-1], heads, steps))
    rows = (shape[0] * steps, *shape[1:])
    return {
        "scores": (random.normal(size=rows) * 4).astype(np.float32),
        "factor": (0.2 + random.random(heads)).astype(np.float32),
        "threshold": (0.05 + 0.1 * random.random(heads)).astype(np.float32),
        "before": random.integers(0, 8, shape).astype(np.float32),
    }


def attention_codes(
    feeds: dict[str, np.ndarray], quanta: np.ndarray, *, threads: int = 2, **options: int
) -> list[np.ndarray]:
    before = {"before": (feeds["before"] * 8 + ZERO).astype(np.uint8)} if "before" in feeds else {}
    numbers = {"quanta": quanta, "finest": FINEST.reshape(1), "zero": np.array([ZERO], np.uint8)}
    inputs = {name: feeds[name] for name in ("scores", "factor", "threshold")} | numbers | before
    constant = ("factor", "threshold", *numbers)
    results = {"codes": "uint8", "sums": "float32"} | ({"counts": "float32"} if options else {})
    options |= LEVELS
    return run_operator("SoftmaxStepCodes", inputs, results, constant=constant, threads=threads, axis=-3, **options)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 3, 4, 197), (2, 3, 65, 65), (1, 3, 1, 1), (0, 3, 2, 4)])
def test_attention_weights_become_the_codes_of_their_neurons(shape, steps, heads):
    feeds = attention(shape, heads, steps=steps)
    quanta = QUANTA if steps > 1 else np.ones(1, np.float32)
    if steps == 1:
        del feeds["before"]
    got, sums = attention_codes(feeds, quanta)
    scores = feeds["scores"] * feeds["factor"].reshape(-1, 1, 1)
    relative = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
    along = np.broadcast_to(feeds["threshold"].reshape(-1, 1, 1), (3, 1, 1))
    neurons = {**feeds, "value": relative, "threshold": along.copy(), "rest": np.zeros((), np.float32)}
    expected = codes(neurons, quanta)
    assert got.shape == expected.shape
    assert (got != expected).sum() <= 0.002 * got.size  # ties: exp is another one
    np.testing.assert_array_equal(sums, (got.astype(np.float32) - ZERO).sum(axis=-1, keepdims=True) / 8)


def test_attention_weights_that_begin_with_nothing_are_of_one_step():
    feeds = attention((1, 3, 4, 4), 1, steps=3)
    del feeds["before"]
    with pytest.raises(Exception, match="what was emitted before"):
        attention_codes(feeds, QUANTA)


def test_scores_of_too_few_steps_are_refused():
    feeds = attention((1, 3, 4, 4), 1, steps=3)
    with pytest.raises(Exception, match="are not those of 3 steps"):
        attention_codes(feeds | {"scores": feeds["scores"][:2]}, QUANTA)


@pytest.mark.parametrize("threads", [1, 2, 20])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2, 5, 3), 2), ((2, 7, 4, 4), 1), ((2, 197, 40), 2), ((2, 120, 600), 2), ((2, 120, 600), 1), ((3, 40000), 0)],
)
def test_what_is_emitted_at_a_single_step_is_counted(shape, axis, threads):
    feeds = made(shape, (), steps=1)
    inputs = {name: feeds[name] for name in ("value", "threshold", "rest")}
    one = np.ones(1, np.float32)
    inputs |= {"quanta": one, "finest": np.array(1, np.float32), "zero": np.array(ZERO, np.uint8)}
    outputs = {"emitted": "uint8", "counts": "float32"}
    emitted, counts = run_operator("StepCodes", inputs, outputs, threads=threads, counted_by=axis, **LEVELS)
    np.testing.assert_array_equal(emitted, run_operator("StepCodes", inputs, {"emitted": "uint8"}, **LEVELS)[0])
    np.testing.assert_array_equal(counts, defined_counts(emitted, ZERO, axis, (7, 7)))


def test_several_steps_are_not_counted():
    feeds = made((2, 5, 3), (3,), steps=3)
    inputs = {name: feeds[name] for name in ("value", "threshold", "rest")}
    inputs |= {"quanta": QUANTA, "finest": FINEST, "zero": np.array(ZERO, np.uint8)}
    inputs |= {"before": np.full((2, 5, 3), ZERO, np.uint8)}
    with pytest.raises(Exception, match="what is counted is emitted at one step"):
        run_operator("StepCodes", inputs, {"emitted": "uint8", "counts": "float32"}, counted_by=2, **LEVELS)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 65, 65), 1), ((1, 3, 90, 200), 0), ((2, 3, 40, 300), 3)])
def test_attention_weights_are_counted(shape, axis, threads):
    feeds = attention(shape, 1, steps=1)
    del feeds["before"]
    one = np.ones(1, np.float32)
    plain = attention_codes(feeds, one, threads=threads)
    *rest, counts = attention_codes(feeds, one, threads=threads, counted_by=axis)
    for each, other in zip(rest, plain, strict=True):
        np.testing.assert_array_equal(each, other)
    np.testing.assert_array_equal(counts, defined_counts(plain[0], ZERO, axis, (7, 7)))


def test_attention_weights_of_several_steps_are_not_counted():
    with pytest.raises(Exception, match="what is counted is emitted at one step"):
        attention_codes(attention((1, 3, 4, 4), 1, steps=3), QUANTA, counted_by=1)


def test_channels_across_the_rows_of_scores_are_not_counted_there():
    feeds = attention((1, 3, 4, 4), 1, steps=1)
    del feeds["before"]
    with pytest.raises(Exception, match="shape"):
        attention_codes(feeds, np.ones(1, np.float32), counted_by=7)

"""The change of weights that makes up for what is missing: what it recovers, and when it keeps its hands off."""

import numpy as np

from pmsm_cli.calibration.regression import Sums, change_that_helps

RANDOM = np.random.default_rng(0)


def rows(groups: int, places: int, inputs: int) -> np.ndarray:
    """Spike counts that vary together."""
    mixed = RANDOM.normal(size=(groups, places, inputs)) @ RANDOM.normal(size=(inputs, inputs))
    return np.round(mixed).astype(np.float32)


def test_what_depends_on_the_spikes_is_recovered_with_its_constant():
    read = rows(2, 4000, 5)
    weights, constant = RANDOM.normal(size=(2, 5, 3)), RANDOM.normal(size=(2, 3))
    missing = (read @ weights + constant[:, None]).astype(np.float32)
    found = change_that_helps(
        Sums.over(read[:, :3000], missing[:, :3000]), Sums.over(read[:, 3000:], missing[:, 3000:])
    )
    assert found is not None
    left = missing - read @ found[0] - found[1][:, None]
    assert np.square(left).sum() < 0.01 * np.square(missing - missing.mean(axis=1, keepdims=True)).sum()


def test_noise_that_spikes_do_not_tell_changes_nothing_much():
    read, missing = rows(1, 400, 20), RANDOM.normal(size=(1, 400, 6)).astype(np.float32)
    found = change_that_helps(Sums.over(read[:, :300], missing[:, :300]), Sums.over(read[:, 300:], missing[:, 300:]))
    others = rows(1, 10000, 20)
    added = 0 if found is None else np.square(others @ found[0] + found[1][:, None]).mean()
    assert added < 0.1


def test_an_output_that_lacks_nothing_is_left_alone():
    read = rows(1, 500, 4)
    missing = np.stack([read[0] @ np.ones(4), np.zeros(500)], axis=1)[None].astype(np.float32)
    found = change_that_helps(Sums.over(read[:, :400], missing[:, :400]), Sums.over(read[:, 400:], missing[:, 400:]))
    assert found is not None
    np.testing.assert_array_equal(found[0][0, :, 1], 0)
    left = missing[..., 0] - read @ found[0][0, :, 0] - found[1][0, 0]
    assert np.square(left).sum() < 0.02 * np.square(missing[..., 0]).sum()


def test_a_count_that_hardly_ever_changes_moves_little_if_it_changes_everywhere():
    changes = np.arange(8000) % 1000 == 0
    read = (37 + changes).astype(np.float32)[None, :, None]
    missing = (0.5 * changes + RANDOM.normal(scale=0.02, size=8000)).astype(np.float32)[None, :, None]
    found = change_that_helps(
        Sums.over(read[:, :6000], missing[:, :6000]), Sums.over(read[:, 6000:], missing[:, 6000:])
    )
    assert found is not None
    assert 0 < found[0][0, 0, 0] < 3 * missing.std()


def test_nothing_helps_where_nothing_is_missing_or_nothing_is_read():
    read, none = rows(1, 100, 4), np.zeros((1, 100, 2), np.float32)
    assert change_that_helps(Sums.over(read, none), Sums.over(read, none)) is None
    silent = np.zeros_like(read)
    alternating = np.tile(np.array([1, -1], np.float32), 50)[None, :, None]
    assert change_that_helps(Sums.over(silent, alternating), Sums.over(silent, alternating)) is None


def test_the_sums_of_parts_add_up_to_those_of_the_whole():
    read, missing = rows(3, 60, 4), RANDOM.normal(size=(3, 60, 2)).astype(np.float32)
    whole, parts = (
        Sums.over(read, missing),
        Sums.over(read[:, :25], missing[:, :25]) + Sums.over(read[:, 25:], missing[:, 25:]),
    )
    assert whole.count == parts.count == 60
    for name in ("inputs", "targets", "power"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-4, atol=1e-3)


def test_what_a_change_leaves_is_what_it_leaves_on_the_rows():
    read, missing = rows(2, 50, 3), RANDOM.normal(size=(2, 50, 2)).astype(np.float32)
    change = RANDOM.normal(size=(2, 4, 2))
    left = missing - read @ change[:, :-1] - change[:, -1:]
    np.testing.assert_allclose(Sums.over(read, missing).left(change), np.square(left).sum(axis=1), rtol=1e-4)

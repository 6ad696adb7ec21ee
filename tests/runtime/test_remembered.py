"""Networks whose outputs several passes need: each batch is run once, as far as memory is allowed for."""

import numpy as np
import spiking
import tiny

from pmsm_cli.runtime.match import SourceMoments
from pmsm_cli.runtime.observe import observe
from pmsm_cli.runtime.remembered import Remembered

BATCHES = [np.full((1, 4), value, np.float32) for value in range(3)]


class Doubling:
    """A network that counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, inputs):
        self.runs += 1
        return [2 * inputs]


def test_a_batch_that_comes_again_is_not_run_again():
    network = Doubling()
    remembered = Remembered(lambda: network)
    for _ in range(2):
        for batch in BATCHES:
            np.testing.assert_array_equal(remembered.run(batch)[0], 2 * batch)
    assert network.runs == 3


def test_what_memory_is_not_allowed_for_is_run_again():
    network = Doubling()
    remembered = Remembered(lambda: network, most_held=2 * BATCHES[0].nbytes)
    for _ in range(3):
        for batch in BATCHES:
            np.testing.assert_array_equal(remembered.run(batch)[0], 2 * batch)
    assert network.runs == 3 + 2  # the third batch every time


def test_a_network_whose_outputs_were_handed_in_is_never_opened():
    remembered = Remembered(lambda: None)
    remembered.remember(BATCHES[0], [BATCHES[1]])
    assert remembered.run(BATCHES[0])[0] is BATCHES[1]


def test_observing_tells_the_moments_that_the_source_shows_by_itself(monkeypatch):
    network, plan, shapes = spiking.read(tiny.convolutional(), (3, 8, 8))
    batches = list(spiking.batches_of(tiny.images(10), 4))
    own = SourceMoments(network, plan, shapes)
    expected = [own.run(batch.inputs) for batch in batches]
    monkeypatch.setattr(SourceMoments, "_opened", None)  # whatever has to run fails
    told = SourceMoments(network, plan, shapes)
    observe(network, plan, lambda: iter(batches), moments=told)
    for batch, wanted in zip(batches, expected, strict=True):
        for name, values in told.run(batch.inputs).items():
            np.testing.assert_allclose(values, wanted[name], rtol=1e-4, atol=1e-6)

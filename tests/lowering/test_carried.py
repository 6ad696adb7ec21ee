"""What is carried past the synapses in 8 bits."""

import integers
import numpy as np
import pytest
import spiking
import tiny

from pmsm_cli.lowering.carried import Grid, carried_values, carry
from pmsm_cli.runtime.workload import measure_shapes


def found(proto) -> tuple[str, ...]:
    checkpoint = spiking.checkpoint_of(proto, tiny.images(8))
    return carried_values(checkpoint.model, measure_shapes(checkpoint))


def test_branches_and_sum_of_a_residual_addition_are_carried_and_what_is_pooled():
    assert found(tiny.residual()) == ("c", "d", "f", "e")


def test_what_neurons_alone_read_and_what_the_graph_hands_out_is_not():
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 2, 4, 4] scores) {
            a = Conv (image, w0)
            b = Relu (a)
            c = Conv (b, w1)
            d = Relu (c)
            e = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
            scores = Conv (e, w2)
        }""",
        w0=tiny.weights(4, 3, 1, 1),
        w1=tiny.weights(4, 4, 1, 1),
        w2=tiny.weights(2, 4, 1, 1),
    )
    assert found(proto) == ()


def test_values_are_rounded_to_the_grid_and_nothing_below_or_above():
    made = integers.definition(tiny.residual())
    model = integers.watched(carry(made.model, {"e": (-1.0, 1.55)}), ["e", "e/carried"])
    _, plain, carried = integers.outputs(model, integers.images())
    np.testing.assert_allclose(carried, np.clip(np.round(plain / 0.01), -100, 155) * 0.01, atol=1e-5)


@pytest.mark.parametrize(("lowest", "highest"), [(-3.0, 9.0), (0.5, 7.0), (-8.0, -1.0), (0.0, 0.0), (-1e-30, 1e-30)])
def test_every_grid_holds_the_zero_and_its_range(lowest, highest):
    grid = Grid.over(lowest, highest)
    assert 0 <= grid.zero <= 255
    assert grid.scale > 0
    assert -grid.zero * grid.scale <= min(lowest, 0) + grid.scale / 2
    assert (255 - grid.zero) * grid.scale >= max(highest, 0) - grid.scale / 2

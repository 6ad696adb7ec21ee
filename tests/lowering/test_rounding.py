"""Rounding by what weights do to the output, against the nearest integers."""

import numpy as np
import onnx_ir as ir
import pytest
import spiking
import tiny

from pmsm_cli.graph.synapse import synapse_of
from pmsm_cli.lowering.int8 import quantise, spiking_synapses
from pmsm_cli.lowering.rounding import round_by_moments
from pmsm_cli.runtime.input_moments import input_moments
from pmsm_cli.runtime.workload import measure_shapes

IMAGES = tiny.images(32)


def layer(op: str, weights: np.ndarray):
    """The synapse of a graph with nothing else."""
    proto = tiny.model(f"g (float[N, 4, 8, 8] x) => (float[N, m, h, w] y) {{ y = {op} }}", w=weights)
    return synapse_of(next(iter(ir.from_proto(proto).graph)))


@pytest.mark.parametrize(
    ("op", "shape", "axis", "groups"),
    [
        ("Conv (x, w)", (6, 4, 3, 3), 0, 1),
        ("Conv <group = 2> (x, w)", (6, 2, 3, 3), 0, 2),
        ("Conv <group = 4> (x, w)", (4, 1, 3, 3), 0, 4),
        ("MatMul (x, w)", (8, 6), 1, 1),
        ("Gemm <transB = 1> (x, w)", (6, 8), 0, 1),
        ("Gemm (x, w)", (8, 6), 1, 1),
    ],
)
def test_outputs_change_less_than_with_the_nearest_integers(op, shape, axis, groups):
    synapse = layer(op, tiny.weights(*shape))
    rows = np.moveaxis(synapse.weights, axis, 0).reshape(shape[axis], -1)
    inputs = rows.shape[1]
    random = np.random.default_rng(0)
    mixed = random.normal(size=(groups, 500, 2)) @ random.normal(size=(groups, 2, inputs))  # inputs that go together
    seen = (mixed + 0.1 * random.normal(size=mixed.shape)).astype(np.float32)
    nearest = quantise(synapse.weights, axis)
    better = round_by_moments(synapse, nearest, seen.transpose(0, 2, 1) @ seen / 500)
    np.testing.assert_array_equal(better.scale, nearest.scale)

    def error(rounded) -> float:
        off = np.moveaxis(rounded.floats() - synapse.weights, axis, 0).reshape(groups, -1, inputs)
        return float(np.square(seen @ off.transpose(0, 2, 1)).sum())

    assert error(better) < 0.7 * error(nearest)


def test_inputs_that_never_spike_leave_the_nearest_integers():
    synapse = layer("MatMul (x, w)", tiny.weights(8, 6))
    nearest = quantise(synapse.weights, 1)
    better = round_by_moments(synapse, nearest, np.zeros((1, 8, 8), np.float32))
    np.testing.assert_array_equal(better.values, nearest.values)


@pytest.mark.parametrize("proto", [tiny.convolutional(), tiny.residual()])
def test_moments_are_those_of_what_a_synapse_sums_up(proto):
    checkpoint = spiking.checkpoint_of(proto, IMAGES)
    shapes = measure_shapes(checkpoint)
    got = input_moments(checkpoint.model, shapes, spiking.batches_of(IMAGES, 8), subject="x", seed=0)
    spikes = spiking.spikes_of(checkpoint, IMAGES)
    for synapse in spiking_synapses(checkpoint.model.graph):
        own = spikes[synapse.data.name.removesuffix("/spikes")][0]
        moments = got[synapse.node.name]
        if synapse.node.op_type == "Conv":  # all 64 positions are looked at
            centre = own if synapse.weights.shape[2] == 1 else np.pad(own, ((0, 0), (0, 0), (1, 1), (1, 1)))
            kernel = synapse.weights.shape[2:]
            windows = np.lib.stride_tricks.sliding_window_view(centre, kernel, axis=(2, 3))
            own = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, moments.shape[-1])
        np.testing.assert_allclose(moments[0], own.T @ own / len(own), rtol=1e-4, atol=1e-5)

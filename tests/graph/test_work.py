"""The work of a graph: its layers by their sizes, and the arithmetic beside them by its kind."""

import numpy as np
import onnx
import pytest
import spiking
import tiny

from pmsm_cli.calibration.method import Method
from pmsm_cli.graph.operations import Operations
from pmsm_cli.graph.work import LayerWork, RestWork
from pmsm_cli.runtime.workload import measure_work


def kinds_of(checkpoint) -> dict[str, RestWork]:
    return {rest.kind: rest for rest in measure_work(checkpoint).rest}


def gelu(batch: int | str = "N") -> onnx.ModelProto:
    """A layer norm, a shortcut and a GELU that is spelled out, between convolutions and a mean."""
    return tiny.model(
        f"""
        g (float[{batch}, 3, 8, 8] image) => (float[{batch}, 5] scores) {{
            a = Conv (image, w1)
            n = LayerNormalization <axis = -1> (a, scale)
            b = Conv (n, w2)
            s = Add (b, a)
            t = Div (s, root)
            e = Erf (t)
            o = Add (e, one)
            m = Mul (s, o)
            h = Mul (m, half)
            c = Conv (h, w2)
            p = GlobalAveragePool (c)
            f = Flatten (p)
            scores = Gemm <transB = 1> (f, w3)
        }}""",
        w1=tiny.weights(4, 3, 1, 1),
        w2=tiny.weights(4, 4, 1, 1),
        w3=tiny.weights(5, 4),
        scale=np.ones(8, np.float32),
        root=np.float32(2**0.5),
        one=np.float32(1),
        half=np.float32(0.5),
    )


def test_layers_have_their_weights_and_sizes():
    work = measure_work(spiking.checkpoint_of(tiny.convolutional(), tiny.images(4)))
    assert work.layers == {
        ("a", 0): LayerWork(weights=108, constant=True, inputs=192, outputs=256),
        ("c", 0): LayerWork(weights=216, constant=True, inputs=256, outputs=384),
        ("scores", 0): LayerWork(weights=30, constant=True, inputs=6, outputs=5),
    }
    assert work.constants(added=False) == 108 + 216 + 30
    assert work.uncounted == ()


@pytest.mark.parametrize("batch", ["N", 4])
def test_the_arithmetic_beside_layers_is_named_and_counted(batch):
    kinds = kinds_of(spiking.checkpoint_of(gelu(batch), tiny.images(4)))
    size, rows = 4 * 8 * 8, 4 * 8
    assert kinds["layer norm"].first == Operations(add=4 * size, multiply=3 * size + 2 * rows, divide=rows, root=rows)
    assert kinds["GELU"].operators == 5
    assert kinds["GELU"].first == Operations(add=7 * size, multiply=11 * size, divide=size, exponential=size)
    assert kinds["additions"].first == Operations(add=size)
    assert kinds["means and pooling"].first == Operations(add=size, multiply=4)
    assert not any(kinds[kind].added for kind in kinds)
    # A row waits for its last value, a shortcut for the layers beside it, both factors of a GELU for erf.
    assert {kind: kinds[kind].waiting_first for kind in kinds} == {
        "layer norm": (size,),
        "GELU": (size,),
        "additions": (size,),
        "means and pooling": (size,),
    }
    assert (kinds["layer norm"].constants_first, kinds["GELU"].constants_first) == (8, 3)


def test_later_steps_repeat_what_follows_spikes_and_nothing_else():
    once = kinds_of(spiking.checkpoint_of(gelu(), tiny.images(4)))
    often = kinds_of(spiking.checkpoint_of(gelu(), tiny.images(4), timesteps=3))
    assert all(each.later == Operations() and each.waiting_later == () for each in once.values())
    assert often["layer norm"].later == Operations()  # sees only the image
    assert often["GELU"].later == often["GELU"].first == once["GELU"].first
    assert often["GELU"].waiting_later == often["GELU"].waiting_first


def test_what_serves_the_spikes_is_told_from_what_the_source_computes():
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] y) {
            a = Conv (image, w1)
            b = Sigmoid (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2)
            y = Relu (c)
        }""",
        w1=tiny.weights(4, 3, 1, 1),
        w2=tiny.weights(4, 4, 3, 3),
    )
    checkpoint = spiking.checkpoint_of(proto, tiny.images(40), method=Method.ENTROPY)
    assert not checkpoint.manifest.calibration.sites[0].parameters.rests_at_zero
    kinds = kinds_of(checkpoint)
    assert [kind for kind, rest in kinds.items() if rest.added] == ["resting values"]
    # Subtracted before the neurons, and added behind the synapse as a map, which differs at the borders.
    assert kinds["resting values"].first == Operations(add=2 * 256)
    assert kinds["resting values"].constants_first == 4 + 256
    work = measure_work(checkpoint)
    assert work.constants(added=True) - work.constants(added=False) == 4 + 256


def test_an_operator_of_unknown_arithmetic_is_named():
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] y) {
            a = Conv (image, w1)
            b = Det (a)
            c = Reshape (b, s)
            d = Add (a, c)
            y = Conv (d, w2)
        }""",
        w1=tiny.weights(4, 3, 1, 1),
        w2=tiny.weights(4, 4, 1, 1),
        s=np.array([0, 4, 1, 1]),
    )
    work = measure_work(spiking.checkpoint_of(proto, tiny.images(4)))
    assert work.uncounted == ("b (Det)",)

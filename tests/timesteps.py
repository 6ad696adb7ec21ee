"""Small networks of several timesteps, whose neurons are followed by all kinds of operators."""

import integers
import numpy as np
import onnx
import onnx_ir as ir
import spiking
import tiny

from pmsm_cli.runtime.library import find_library

IMAGE = (3, 8, 8)


def network(body: str, *, batch: int | str = "N", read: int = 4, **weights: np.ndarray) -> onnx.ModelProto:
    """An analog layer j, then the body from j to d, then a layer of spikes that reads so many channels."""
    return tiny.model(
        f"""
        g (float[{batch}, 3, 8, 8] image) => (float[{batch}, 5, 8, 8] scores) {{
            i = Conv <pads = [1, 1, 1, 1]> (image, w0)
            j = Relu (i)
            {body}
            scores = Conv (d, w3)
        }}""",
        w0=tiny.weights(4, 3, 3, 3),
        w1=tiny.weights(4, 4, 3, 3, seed=1),
        w2=tiny.weights(4, 4, 3, 3, seed=2),
        w3=tiny.weights(5, read, 1, 1, seed=3),
        b1=tiny.weights(4, seed=4) + 1,
        **weights,
    )


A = "a = Conv <pads = [1, 1, 1, 1]> (j, w1, b1)"
APART = {
    "relu": f"{A} d = Relu (a)",
    "no activation": "d = Conv <pads = [1, 1, 1, 1]> (j, w1, b1)",
    "residual of the image": f"{A} b = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (b, w2) s = Add (c, j) d = Relu (s)",
    "residual of spikes": f"{A} b = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (b, w2) s = Add (b, c) d = Relu (s)",
    "two branches": f"{A} c = Conv <pads = [1, 1, 1, 1]> (j, w2) s = Add (a, c) d = Relu (s)",
    "twice itself": f"{A} s = Add (a, a) d = Relu (s)",
    "gates": f"{A} m = GlobalAveragePool (a) g = Sigmoid (m) d = Mul (a, g)",
    "images on another axis": f"{A} t = Transpose <perm = [1, 0, 2, 3]> (a) e = Sigmoid (t)"
    " d = Transpose <perm = [1, 0, 2, 3]> (e)",
    "rows of an image": f"{A} r = Reshape (a, rows) m = Softmax <axis = -1> (r) d = Reshape (m, back)",
    "sizes of the batch": f"{A} s = Shape (a) r = Reshape (a, rows) m = Tanh (r) d = Reshape (m, s)",
    "a part": f"{A} h = Slice (a, one, three, one) d = Concat <axis = 1> (h, h)",
}
NUMBERS = {
    "rows": np.array([-1, 2, 8, 8]),
    "back": np.array([-1, 4, 8, 8]),
    "mixed": np.array([4, -1, 8, 8]),
    "zero": np.array([0]),
    "one": np.array([1]),
    "three": np.array([3]),
    "minus": np.array([-1]),
    "least": np.array([-100]),
    "most": np.array([np.iinfo(np.int64).max]),
    "two": np.array([2]),
    "rows_of_16": np.array([-1, 16, 16]),
    "v": tiny.weights(16, seed=9),
    "k4": tiny.weights(4, 1, 1, 1, seed=5),
    "kk": tiny.weights(4, 4, 1, 1, seed=6),
    "apart": tiny.weights(4, 1, 8, seed=7),
    "wider": np.array([4, 4, 8, 8]),
    "f4": tiny.weights(1, 4, 1, 1, seed=10),
    "nought": np.zeros((), np.float32),
    "six": np.full((), 6, np.float32),
    "wd": tiny.weights(4, 1, 3, 3, seed=8),
    "wg": tiny.weights(4, 2, 3, 3, seed=12),
    "w8": tiny.weights(8, 4, 3, 3, seed=13),
    "w70": tiny.weights(70, 4, 1, 1, seed=16),
    "wd70": tiny.weights(70, 1, 3, 3, seed=17),
    "along_width": tiny.weights(8, seed=14),
    "along_height": tiny.weights(8, 1, seed=15),
    "sizes": np.array([1, 1, 2, 2], np.float32),
    "map": tiny.weights(1, 4, 8, 8, seed=11),
}


def network_of(body: str, **options) -> onnx.ModelProto:
    """The network with those numbers that its body reads."""
    read = body.translate(str.maketrans("(),", "   ")).split()
    return network(body, **{name: array for name, array in NUMBERS.items() if name in read}, **options)


def checkpoint_of(body: str, **options) -> spiking.Checkpoint:
    own = {name: options.pop(name) for name in {"batch", "read"} & set(options)}
    return spiking.checkpoint_of(network_of(body, **own), tiny.images(8), **options)


def assert_alike(after: ir.Model, before: ir.Model, images: np.ndarray) -> None:
    results = (integers.outputs(model, images, library=find_library()) for model in (after, before))
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape
        # Ties: where sums are made in another order, a neuron may emit one spike more or less.
        assert np.linalg.norm(got - expected) < 0.005 * np.linalg.norm(expected)

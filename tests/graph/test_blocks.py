"""The blocks of today's image networks, a few lines each: what spikes in them, and the error at every timestep."""

import itertools
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
import spiking
import tiny
from ingesting import session_of

from pmsm_cli.runtime.evaluate import per_step_outputs
from pmsm_cli.runtime.session import open_session

LEVELS = 255
STEPS = 3
IMAGES = tiny.images(24)
READS_IMAGE = "reads the image (direct coding)"

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block between a stem and a head; it turns `t` into `u` of the same shape."""

    name: str
    body: str
    sites: int  # with the one that the head reads
    map: bool = False  # `t` is [N, 8, 4, 4] and not [N, 16, 8]
    relative: int = 0  # sites that are rows of a softmax
    analog: tuple[str, ...] = ()  # operators that multiply and stay analog, beside the stem
    weights: dict[str, Array] = field(default_factory=dict)

    def __str__(self) -> str:
        """What pytest calls it."""
        return self.name


def w(*shape: int, seed: int = 0) -> Array:
    return tiny.weights(
        *shape, seed=seed, scale=(2 / shape[-2 if len(shape) == 2 else 1]) ** 0.5 if len(shape) > 1 else 0.3
    )


QKV = "q = MatMul (t, wq) k = MatMul (t, wk) v = MatMul (t, wv)"
HEADS = """
    q4 = Reshape (q, split) k4 = Reshape (k, split) v4 = Reshape (v, split)
    qh = Transpose <perm = [0, 2, 1, 3]> (q4) kh = Transpose <perm = [0, 2, 3, 1]> (k4)
    vh = Transpose <perm = [0, 2, 1, 3]> (v4)
"""
JOIN = "m = Transpose <perm = [0, 2, 1, 3]> (mixed) joined = Reshape (m, whole) u = MatMul (joined, wo)"
PROJECTIONS = {"wq": w(8, 8), "wk": w(8, 8, seed=1), "wv": w(8, 8, seed=2), "wo": w(8, 8, seed=3)}
ATTENTION = {
    **PROJECTIONS,
    "split": np.array([0, 0, 2, 4]),
    "whole": np.array([0, 0, 8]),
}
MLP = {"w1": w(8, 16), "b1": w(16), "w2": w(16, 8, seed=1)}
NORM = {"gamma": 1 + w(8), "beta": w(8, seed=1)}

BLOCKS = [
    Block(
        name="layer norm, GELU by erf in pieces, layer scale",
        body="""
            n = LayerNormalization (t, gamma, beta)
            a = MatMul (n, w1) b = Add (a, b1)
            c = Div (b, root2) d = Erf (c) e = Add (d, one) f = Mul (b, e) g = Mul (f, half)
            h = MatMul (g, w2) s = Mul (h, scale) u = Add (t, s)
        """,
        sites=3,
        weights={
            **NORM,
            **MLP,
            "root2": np.float32(2**0.5),
            "one": np.float32(1),
            "half": np.float32(0.5),
            "scale": w(8),
        },
    ),
    Block(
        name="GELU by tanh in pieces",
        body="""
            a = MatMul (t, w1) three = Pow (a, cube) c = Mul (three, k) d = Add (a, c) e = Mul (d, root)
            f = Tanh (e) g = Add (f, one) h = Mul (a, g) i = Mul (h, half) u = MatMul (i, w2)
        """,
        sites=3,
        weights={
            "w1": MLP["w1"],
            "w2": MLP["w2"],
            "cube": np.float32(3),
            "k": np.float32(0.044715),
            "root": np.float32((2 / np.pi) ** 0.5),
            "one": np.float32(1),
            "half": np.float32(0.5),
        },
    ),
    Block(
        name="fused GELU",
        body='a = MatMul (t, w1) b = Gelu <approximate = "tanh"> (a) c = Gelu (b) u = MatMul (c, w2)',
        sites=3,
        weights={"w1": MLP["w1"], "w2": MLP["w2"]},
    ),
    Block(
        name="RMS norm and a gated SiLU",
        body="""
            n = RMSNormalization (t, gamma) a = MatMul (n, w1) b = MatMul (n, w3)
            c = Sigmoid (a) d = Mul (a, c) e = Mul (d, b) h = MatMul (e, w2) u = Add (t, h)
        """,
        sites=3,
        weights={"gamma": NORM["gamma"], "w1": MLP["w1"], "w2": MLP["w2"], "w3": w(8, 16, seed=4)},
    ),
    Block(
        name="group norm and a bottleneck",
        map=True,
        body="""
            n = GroupNormalization <num_groups = 2> (t, gamma, beta) r = Relu (n) a = Conv (r, w1)
            i = InstanceNormalization (a, gamma, beta) s = Relu (i)
            b = Conv <pads = [1, 1, 1, 1], group = 2> (s, w2) u = Add (t, b)
        """,
        sites=3,
        weights={**NORM, "w1": w(8, 8, 1, 1), "w2": w(8, 4, 3, 3)},
    ),
    Block(
        name="depthwise convolution, hard-swish, squeeze and excite by hard sigmoid",
        map=True,
        body="""
            a = Conv (t, w1) b = HardSwish (a) c = Conv <pads = [1, 1, 1, 1], group = 16> (b, w2) d = HardSwish (c)
            p = ReduceMean (d, sides) e = Conv (p, w3) f = Relu (e) g = Conv (f, w4)
            h = HardSigmoid <alpha = 0.1666667, beta = 0.5> (g) i = Mul (d, h) j = Conv (i, w5) u = Add (t, j)
        """,
        sites=6,
        weights={
            "w1": w(16, 8, 1, 1),
            "w2": w(16, 1, 3, 3),
            "w3": w(4, 16, 1, 1),
            "w4": w(16, 4, 1, 1),
            "w5": w(8, 16, 1, 1),
            "sides": np.array([2, 3]),
        },
    ),
    Block(
        name="large kernel, sigmoid gate, SiLU",
        map=True,
        body="""
            a = Conv <pads = [3, 3, 3, 3], group = 8> (t, w1) b = Conv (a, w2) c = Sigmoid (b) d = Mul (t, c)
            e = Sigmoid (d) u = Mul (d, e)
        """,
        sites=3,
        weights={"w1": w(8, 1, 7, 7), "w2": w(8, 8, 1, 1)},
    ),
    Block(
        name="pooling as token mixer",
        map=True,
        body="""
            p = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 0> (t) a = Sub (p, t)
            b = Add (t, a) m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b) u = Conv (m, w1)
        """,
        sites=2,
        weights={"w1": w(8, 8, 1, 1)},
    ),
    Block(
        name="tokens mixed by a layer, channels by another",
        body="""
            x = Transpose <perm = [0, 2, 1]> (t) a = MatMul (x, wt) b = Gelu (a) y = Transpose <perm = [0, 2, 1]> (b)
            z = Add (t, y) u = MatMul (z, wc)
        """,
        sites=3,
        weights={"wt": w(16, 16), "wc": w(8, 8)},
    ),
    Block(
        name="attention with class token, positions and relative bias",
        body=f"""
            first = Shape <start = 0, end = 1> (t) wanted = Concat <axis = 0> (first, sizes)
            token = Expand (class, wanted) all = Concat <axis = 1> (token, t) placed = Add (all, positions)
            q = MatMul (placed, wq) k = MatMul (placed, wk) v = MatMul (placed, wv) {HEADS}
            qs = Mul (qh, scale) s = MatMul (qs, kh) biased = Add (s, bias) p = Softmax (biased)
            mixed = MatMul (p, vh) m = Transpose <perm = [0, 2, 1, 3]> (mixed) joined = Reshape (m, whole)
            o = MatMul (joined, wo) u = Slice (o, one, many, one)
        """,
        sites=7,
        relative=1,
        weights={
            **ATTENTION,
            "sizes": np.array([1, 8]),
            "class": w(1, 1, 8),
            "positions": w(1, 17, 8),
            "scale": np.float32(0.5),
            "bias": w(2, 17, 17),
            "one": np.array([1]),
            "many": np.array([99]),
        },
    ),
    Block(
        name="attention in shifted windows",
        map=True,
        body="""
            low = Slice (t, one, many, two) high = Slice (t, zero, one, two) rolled = Concat <axis = 2> (low, high)
            cut = Reshape (rolled, windows) ordered = Transpose <perm = [0, 2, 4, 3, 5, 1]> (cut)
            x = Reshape (ordered, tokens)
            q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv) kt = Transpose <perm = [0, 2, 1]> (k)
            s = MatMul (q, kt) folded = Reshape (s, images) masked = Add (folded, mask) back = Reshape (masked, apart_again)
            p = Softmax (back) mixed = MatMul (p, v) o = MatMul (mixed, wo)
            pieces = Reshape (o, apart) map = Transpose <perm = [0, 5, 1, 3, 2, 4]> (pieces) u = Reshape (map, whole)
        """,
        sites=7,
        relative=1,
        weights={
            **PROJECTIONS,
            "zero": np.array([0]),
            "one": np.array([1]),
            "two": np.array([2]),
            "many": np.array([99]),
            "windows": np.array([0, 8, 2, 2, 2, 2]),
            "tokens": np.array([-1, 4, 8]),
            "images": np.array([-1, 4, 4, 4]),
            "mask": np.where(np.arange(64).reshape(4, 4, 4) % 5 == 4, np.float32(-100), np.float32(0)),
            "apart_again": np.array([-1, 4, 4]),
            "apart": np.array([-1, 2, 2, 2, 2, 8]),
            "whole": np.array([-1, 8, 4, 4]),
        },
    ),
    Block(
        name="patch merging",
        body="""
            g = Reshape (t, grid) even = Slice (g, zero, many, axis, two) odd = Slice (g, one, many, axis, two)
            c = Concat <axis = -1> (even, odd) n = LayerNormalization (c, gamma, beta) m = MatMul (n, w1)
            v = Reshape (m, rows) u = Concat <axis = 1> (v, v)
        """,
        sites=2,
        weights={
            "grid": np.array([0, 4, 4, 8]),
            "zero": np.array([0]),
            "one": np.array([1]),
            "two": np.array([2]),
            "many": np.array([99]),
            "axis": np.array([2]),
            "gamma": 1 + w(16),
            "beta": w(16, seed=1),
            "w1": w(16, 8),
            "rows": np.array([0, 8, 8]),
        },
    ),
    Block(
        name="attention pooling by a learnt query",
        body="""
            first = Shape <start = 0, end = 1> (t) wanted = Concat <axis = 0> (first, sizes)
            latent = Expand (query, wanted) q = MatMul (latent, wq) k = MatMul (t, wk) v = MatMul (t, wv)
            kt = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, kt) p = Softmax (s) mixed = MatMul (p, v)
            o = MatMul (mixed, wo) u = Add (t, o)
        """,
        sites=7,
        relative=1,
        analog=("MatMul",),  # the layer of the query sees no image
        weights={
            "sizes": np.array([1, 8]),
            "query": w(1, 1, 8),
            **PROJECTIONS,
        },
    ),
    Block(
        name="attention between channels, of unit length",
        body="""
            q = MatMul (t, wq) k = MatMul (t, wk) v = MatMul (t, wv)
            qt = Transpose <perm = [0, 2, 1]> (q) kt = Transpose <perm = [0, 2, 1]> (k) vt = Transpose <perm = [0, 2, 1]> (v)
            ql = ReduceL2 (qt, last) qn = Div (qt, ql) kl = ReduceL2 (kt, last) kn = Div (kt, kl)
            kk = Transpose <perm = [0, 2, 1]> (kn) s = MatMul (qn, kk) ss = Mul (s, heat) p = Softmax (ss)
            mixed = MatMul (p, vt) u = Transpose <perm = [0, 2, 1]> (mixed)
        """,
        sites=6,
        relative=1,
        weights={
            "wq": ATTENTION["wq"],
            "wk": ATTENTION["wk"],
            "wv": ATTENTION["wv"],
            "last": np.array([-1]),
            "heat": np.float32(3),
        },
    ),
    Block(
        name="linear attention by Einsum",
        body=f"""
            {QKV} qr = Relu (q) kr = Relu (k) kv = Einsum <equation = "bnc,bnd->bcd"> (kr, v)
            y = Einsum <equation = "bnc,bcd->bnd"> (qr, kv) total = ReduceSum (kr, tokens) z = Mul (qr, total)
            sum = ReduceSum (z, last) safe = Add (sum, small) mixed = Div (y, safe) u = MatMul (mixed, wo)
        """,
        sites=7,
        weights={
            **PROJECTIONS,
            "tokens": np.array([1]),
            "last": np.array([-1]),
            "small": np.float32(0.1),
        },
    ),
    Block(
        name="talking heads",
        body=f"""
            {QKV} {HEADS} s = MatMul (qh, kh) mixing = Conv (s, w1) p = Softmax (mixing) talk = Conv (p, w2)
            mixed = MatMul (talk, vh) {JOIN}
        """,
        sites=9,
        weights={**ATTENTION, "w1": w(2, 2, 1, 1), "w2": w(2, 2, 1, 1, seed=1)},
    ),
    Block(
        name="fused attention behind rotary positions, in pieces and fused",
        body="""
            q = MatMul (t, wq) k = MatMul (t, wk) v = MatMul (t, wv)
            low, high = Split <axis = -1, num_outputs = 2> (q) minus = Neg (high) turned = Concat <axis = -1> (minus, low)
            qc = Mul (q, cosine) qs = Mul (turned, sine) qr = Add (qc, qs)
            first = Shape <start = 0, end = 1> (t) wanted = Concat <axis = 0> (first, tokens)
            ids = Expand (places, wanted) kr = RotaryEmbedding <num_heads = 2> (k, cosines, sines, ids)
            mixed = Attention <q_num_heads = 2, kv_num_heads = 2> (qr, kr, v) u = MatMul (mixed, wo)
        """,
        sites=7,
        relative=1,
        weights={
            **PROJECTIONS,
            "cosine": np.cos(np.arange(128).reshape(16, 8) / 20).astype(np.float32),
            "sine": np.sin(np.arange(128).reshape(16, 8) / 20).astype(np.float32),
            "tokens": np.array([16]),
            "places": np.arange(16).reshape(1, 16),
            "cosines": np.cos(np.arange(32).reshape(16, 2) / 7).astype(np.float32),
            "sines": np.sin(np.arange(32).reshape(16, 2) / 7).astype(np.float32),
        },
    ),
    Block(
        name="a recurrent layer",
        body="""
            x = Transpose <perm = [1, 0, 2]> (t) y, last = LSTM <hidden_size = 8> (x, wi, wr)
            s = Squeeze (y, one) z = Transpose <perm = [1, 0, 2]> (s) u = MatMul (z, wo)
        """,
        sites=2,
        analog=("LSTM",),
        weights={
            "wi": w(1, 32, 8),
            "wr": w(1, 32, 8, seed=1),
            "one": np.array([1]),
            "wo": ATTENTION["wo"],
        },
    ),
]


def network(block: Block) -> onnx.ModelProto:
    """Stem, block, head: 16 pixels of 8 channels, five classes."""
    begin = "" if block.map else "r = Reshape (pixels, flat) t = Transpose <perm = [0, 2, 1]> (r)"
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 5] scores) {{
            {"t" if block.map else "pixels"} = Conv <strides = [2, 2]> (image, stem) {begin}
            {block.body}
            pooled = ReduceMean <keepdims = 0> (u, {"sides_of_map" if block.map else "tokens_of_map"})
            scores = Gemm (pooled, head)
        }}""",
        opset=23,
        ir_version=11,
        stem=tiny.weights(8, 3, 2, 2),
        flat=np.array([0, 8, 16]),
        sides_of_map=np.array([2, 3]),
        tokens_of_map=np.array([1]),
        head=tiny.weights(8, 5),
        **block.weights,
    )


def errors(block: Block, steps: int) -> list[float]:
    """The L2 norm of the output error over that of the source's output, in percent, at every step."""
    proto = network(block)
    source = session_of(proto).run(None, {"image": IMAGES})[0]
    checkpoint = spiking.checkpoint_of(proto, IMAGES, timesteps=steps, levels=LEVELS)
    session = open_session(checkpoint.model, subject="net.snn.onnx")
    (scores,) = per_step_outputs(session.output_names, session.run(IMAGES), steps)
    return [100 * float(np.linalg.norm(step - source) / np.linalg.norm(source)) for step in scores]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_all_work_but_that_on_the_image_is_driven_by_spikes(block: Block):
    _, plan, _ = spiking.read(network(block), (3, 8, 8))
    assert len(plan.sites) == block.sites
    assert tuple(layer.op_type for layer in plan.analog_layers[1:]) == block.analog
    assert plan.analog_layers[0].reason == READS_IMAGE
    assert None not in [layer.macs for layer in plan.analog_layers] + [
        r.macs for site in plan.sites for r in site.readers
    ]
    assert sum(site.relative_axis is not None for site in plan.sites) == block.relative


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_output_tends_to_the_sources_from_step_to_step(block: Block):
    by_step = errors(block, STEPS)
    assert by_step[0] < 2
    assert all(later < 0.75 * earlier for earlier, later in itertools.pairwise(by_step))

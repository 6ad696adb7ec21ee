"""A fused Attention written as its pieces: the same numbers, and spikes between them; what does not fit is named."""

import numpy as np
import onnx
import pytest
import tiny
from ingesting import ingested, op_types

from pmsm_cli.graph.shapes import infer_shapes
from pmsm_cli.graph.sites import find_sites

READS_IMAGE = "reads the image (direct coding)"


def network(body: str, **weights: np.ndarray) -> onnx.ModelProto:
    """Tokens [N, 16, 8] of a small map, and `y` of the same shape."""
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 16, 8] y) {{
            a = Conv <strides = [2, 2]> (image, w1)
            r = Reshape (a, s)
            t = Transpose <perm = [0, 2, 1]> (r)
            q = MatMul (t, wq)
            k = MatMul (t, wk)
            {body}
        }}""",
        opset=23,
        ir_version=11,
        w1=tiny.weights(8, 3, 2, 2),
        s=np.array([0, 8, 16]),
        wq=tiny.weights(8, 8),
        wk=tiny.weights(8, 8, seed=1),
        **weights,
    )


def side_by_side(attributes: str, inputs: str = "q, k, t", **weights: np.ndarray) -> onnx.ModelProto:
    """Heads beside one another, [images, tokens, heads x width]."""
    return network(f"y = Attention <q_num_heads = 2, kv_num_heads = 2{attributes}> ({inputs})", **weights)


def one_behind_another() -> onnx.ModelProto:
    """Heads on an axis of their own, [images, heads, tokens, width]."""
    return network(
        """
        q4 = Reshape (q, s4) k4 = Reshape (k, s4) t4 = Reshape (t, s4)
        qh = Transpose <perm = [0, 2, 1, 3]> (q4)
        kh = Transpose <perm = [0, 2, 1, 3]> (k4)
        th = Transpose <perm = [0, 2, 1, 3]> (t4)
        mixed = Attention (qh, kh, th)
        m = Transpose <perm = [0, 2, 1, 3]> (mixed)
        y = Reshape (m, s3)
        """,
        s4=np.array([0, 16, 2, 4]),
        s3=np.array([0, 16, 8]),
    )


MASK = np.tril(np.ones((16, 16), bool))


@pytest.mark.parametrize(
    "proto",
    [
        side_by_side(""),
        side_by_side(", scale = 0.3"),
        side_by_side("", "q, k, t, bias", bias=tiny.weights(2, 16, 16)),
        side_by_side("", "q, k, t, seen", seen=MASK),
        one_behind_another(),
    ],
    ids=["plain", "scale", "bias", "mask", "four axes"],
)
def test_attention_in_pieces_gives_the_same_numbers_and_spikes(proto: onnx.ModelProto):
    clean = ingested(proto)
    assert "Attention" not in op_types(clean)
    plan = find_sites(clean, infer_shapes(clean.model, (1, 3, 8, 8)))
    assert [layer.reason for layer in plan.analog_layers] == [READS_IMAGE]
    products = [
        reader for site in plan.sites for reader in site.readers if reader.node.endswith(("/scores", "/weighted"))
    ]
    assert sorted(reader.macs for reader in products) == [0, 0, 2 * 16 * 16 * 4, 2 * 16 * 16 * 4]
    assert [site.channels for site in plan.sites if site.relative_axis == -1] == [2]  # a threshold a head


@pytest.mark.parametrize("attributes", [", is_causal = 1", ", softcap = 2.0"])
def test_attention_of_another_kind_stays_analog_with_its_work(attributes: str):
    clean = ingested(side_by_side(attributes))
    plan = find_sites(clean, infer_shapes(clean.model, (1, 3, 8, 8)))
    stays = [(layer.op_type, layer.reason, layer.macs) for layer in plan.analog_layers]
    assert stays[1:] == [("Attention", "no spiking form yet", 2 * 16 * 16 * 8)]

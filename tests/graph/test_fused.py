"""Operators that no spikes can be put into: which they are, and their work against worked numbers."""

import onnx_ir as ir
import pytest

from pmsm_cli.graph.fused import fused_macs, multiplies_inside


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("nab,bc->nac", [(2, 3, 4), (4, 5)], 2 * 3 * 4 * 5),
        ("bhqd, bhkd -> bhqk", [(1, 2, 3, 4), (1, 2, 5, 4)], 2 * 3 * 4 * 5),
        ("...ij,...jk->...ik", [(6, 2, 3), (6, 3, 4)], 6 * 2 * 3 * 4),
        ("...ij,...jk", [(6, 2, 3), (3, 4)], 6 * 2 * 3 * 4),
        ("a,b,ab->a", [(3,), (4,), (3, 4)], 2 * 3 * 4),
        ("ij->j", [(3, 4)], None),
        ("ij,jk->ik", [(3, 4), None], None),
    ],
)
def test_the_products_of_an_einsum_are_counted(equation: str, shapes, expected):
    names = [f"x{place}" for place in range(len(shapes))]
    node = ir.Node("", "Einsum", [ir.val(name) for name in names], [ir.AttrString("equation", equation)])
    known = {name: shape for name, shape in zip(names, shapes, strict=True) if shape}
    assert fused_macs(node, known) == expected


def node_of(op_type: str, domain: str = "") -> ir.Node:
    return ir.Node(domain, op_type, [ir.val("x"), ir.val("w"), ir.val("r")], outputs=[ir.val("y")])


@pytest.mark.parametrize(
    ("op_type", "shapes", "expected"),
    [
        # Five steps of two images, 3 inputs, 4 hidden units with four gates each, in both directions.
        ("LSTM", {"x": (5, 2, 3), "w": (2, 16, 3)}, 5 * 2 * 2 * 16 * (3 + 4)),
        ("GRU", {"x": (5, 2, 3), "w": (1, 12, 3)}, 5 * 2 * 12 * (3 + 4)),
        ("RNN", {"x": (5, 2, 3), "w": (1, 4, 3)}, 5 * 2 * 4 * (3 + 4)),
        # Six channels of 4x4 for two images, each from 3x3 positions of two channels.
        ("DeformConv", {"x": (2, 4, 6, 6), "w": (6, 2, 3, 3), "y": (2, 6, 4, 4)}, 2 * 6 * 4 * 4 * 2 * 3 * 3),
        # Two heads of width 4: 16 queries meet 20 keys, whose values have width 3.
        ("Attention", {"x": (1, 16, 8), "w": (1, 20, 8), "y": (1, 16, 6)}, 2 * 16 * 20 * (4 + 3)),
        ("Attention", {"x": (1, 2, 16, 4), "w": (1, 2, 20, 4), "y": (1, 2, 16, 3)}, 2 * 16 * 20 * (4 + 3)),
        ("Attention", {"x": (1, 16, 8), "w": (1, 20, 8)}, None),
        ("LSTM", {"w": (2, 16, 3)}, None),
    ],
)
def test_the_products_inside_are_counted(op_type: str, shapes: dict, expected: int | None):
    assert fused_macs(node_of(op_type), shapes) == expected


def test_what_the_runtime_fuses_multiplies_inside_too_but_its_size_is_not_told():
    node = node_of("FusedConv", "com.microsoft")
    assert multiplies_inside(node)
    assert fused_macs(node, {"x": (1, 3, 8, 8), "w": (4, 3, 1, 1), "y": (1, 4, 8, 8)}) is None
    assert not multiplies_inside(node_of("FusedConv"))
    assert not multiplies_inside(node_of("Conv"))  # has synapses of its own
    assert not multiplies_inside(node_of("SkipLayerNormalization", "com.microsoft"))

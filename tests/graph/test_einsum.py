"""Einsum written as the matrix product that it is: the same numbers, and sites where MatMul has them."""

import numpy as np
import onnx_ir as ir
import pytest
import tiny
from ingesting import ingested, op_types, session_of

from pmsm_cli.graph.einsum import decompose_einsum, read_equation
from pmsm_cli.graph.shapes import infer_shapes
from pmsm_cli.graph.sites import SitePlan, find_sites

SIZES = {"b": 2, "c": 8, "d": 6, "e": 7, "h": 3, "i": 2, "j": 3, "k": 3, "m": 5, "n": 4, "w": 2}
READS_IMAGE = "reads the image (direct coding)"


def einsum(equation: str, *shapes: tuple[int, ...]) -> ir.Model:
    """A graph of one Einsum over inputs of these shapes."""
    result = list(np.einsum(equation, *(np.zeros(shape) for shape in shapes)).shape)
    names = [f"x{index}" for index in range(len(shapes))]
    heads = ", ".join(f"float{list(shape)} {name}" for name, shape in zip(names, shapes, strict=True))
    body = f'y = Einsum <equation = "{equation}"> ({", ".join(names)})'
    model = ir.from_proto(tiny.model(f"g ({heads}) => (float{result} y) {{ {body} }}"))
    model.graph[0].name = "einsum"
    return model


def written(equation: str, ellipsis: str = "") -> tuple[list[str], ir.Model, list[np.ndarray]]:
    """The operators that an equation becomes, the new graph, and inputs of fitting shapes."""
    terms = equation.replace(" ", "").split("->")[0].replace("...", ellipsis).split(",")
    shapes = [tuple(SIZES[label] for label in term) for term in terms]
    model, modified = decompose_einsum(einsum(equation, *shapes))
    assert modified
    inputs = [tiny.weights(*shape, seed=seed, scale=1) for seed, shape in enumerate(shapes)]
    return [node.op_type for node in model.graph], model, inputs


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("bhnd,bhmd->bhnm", ["Transpose", "MatMul"]),  # queries with keys
        ("bhnm,bhmd->bnhd", ["MatMul", "Transpose"]),  # weights with values, heads beside one another
        ("bnhd,bmhd->bhnm", ["Transpose", "Transpose", "MatMul"]),
        ("bnc,ck->bnk", ["MatMul"]),
        ("bnc,kc->bnk", ["Transpose", "MatMul"]),
        ("b n d , d e -> b n e", ["MatMul"]),
        ("bhwc,hkc->bhwk", ["Transpose", "MatMul"]),  # relative positions along one side of a window
        ("bhwc,wkc->bhwk", ["Transpose", "Transpose", "MatMul", "Transpose"]),
        ("bnhd,hde->bne", ["Reshape", "Transpose", "Reshape", "Transpose", "MatMul"]),  # two axes are summed over
        ("bnhd,hde->bnhe", ["Transpose", "MatMul", "Transpose"]),
        ("bhnd,bhd->bhn", ["Unsqueeze", "MatMul", "Squeeze"]),
        ("bd,bnd->bn", ["Unsqueeze", "Transpose", "MatMul", "Squeeze"]),
        ("bn,bn->b", ["Unsqueeze", "Unsqueeze", "MatMul", "Squeeze"]),
        ("bhnd,bmd->bhnm", ["Transpose", "Transpose", "MatMul", "Transpose"]),
        ("bnhd,mwhd->bnmwh", ["Transpose", "Unsqueeze", "Transpose", "MatMul", "Transpose"]),
        ("bci,bcj->bij", ["Transpose", "MatMul"]),
        ("bn,bn->bn", ["Mul"]),  # a gate multiplies, and sums up nothing
        ("bhn,h->bhn", ["Unsqueeze", "Mul"]),
        ("i,j->ij", ["Unsqueeze", "Unsqueeze", "Mul"]),
        ("bic,bdj->bcd", ["ReduceSum", "ReduceSum", "Unsqueeze", "Unsqueeze", "Mul"]),
    ],
)
def test_each_equation_gives_the_same_numbers_as_a_product_of_matrices(equation: str, expected: list[str]):
    operators, model, inputs = written(equation)
    assert operators == expected
    given = session_of(ir.to_proto(model)).run(None, dict(zip(("x0", "x1"), inputs, strict=True)))[0]
    np.testing.assert_allclose(given, np.einsum(equation, *inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("equation", ["...nd,...md->...nm", "...nd,de->...ne", "...nd,de", "d...,...e->...de"])
def test_an_ellipsis_stands_for_the_axes_that_the_rank_leaves(equation: str):
    _, model, inputs = written(equation, "bh")
    given = session_of(ir.to_proto(model)).run(None, dict(zip(("x0", "x1"), inputs, strict=True)))[0]
    np.testing.assert_allclose(given, np.einsum(equation, *inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bii,bij->bj", [(2, 3, 3), (2, 3, 4)]),  # takes a diagonal
        ("bi,bj,bk->bijk", [(2, 3), (2, 4), (2, 5)]),
        ("bij->bji", [(2, 3, 4)]),
    ],
)
def test_other_equations_stay(equation: str, shapes: list[tuple[int, ...]]):
    model, modified = decompose_einsum(einsum(equation, *shapes))
    assert (modified, [node.op_type for node in model.graph]) == (False, ["Einsum"])


def test_an_ellipsis_of_unknown_rank_or_that_is_summed_over_stays():
    node = einsum("...nd,de->...ne", (2, 4, 6), (6, 7)).graph[0]
    node.attributes["equation"] = ir.AttrString("equation", "...nd,de->ne")
    assert read_equation(node) is None
    node.attributes["equation"] = ir.AttrString("equation", "...nd,de->...ne")
    assert read_equation(node) is not None
    node.inputs[0].shape = None
    assert read_equation(node) is None


def plan_of_attention(scores: str, mixed: str) -> SitePlan:
    """Attention of two heads over the 16 pixels of a small map, written with two Einsum."""
    network = ingested(
        tiny.model(
            f"""
            g (float[N, 3, 8, 8] image) => (float[N, 5] y) {{
                a = Conv <strides = [2, 2]> (image, w1)
                heads = Reshape (a, s)
                q = Einsum <equation = "bhdn,de->bhne"> (heads, wq)
                k = Einsum <equation = "bhdn,de->bhne"> (heads, wk)
                scores = Einsum <equation = "{scores}"> (q, k)
                p = Softmax (scores)
                mixed = Einsum <equation = "{mixed}"> (p, k)
                f = Flatten (mixed)
                y = MatMul (f, w2)
            }}""",
            w1=tiny.weights(8, 3, 2, 2),
            s=np.array([0, 2, 4, 16]),
            wq=tiny.weights(4, 4),
            wk=tiny.weights(4, 4, seed=1),
            w2=tiny.weights(128, 5),
        )
    )
    assert "Einsum" not in op_types(network)
    return find_sites(network, infer_shapes(network.model, (1, 3, 8, 8)))


def test_operands_of_einsum_spike_like_those_of_matmul():
    plan = plan_of_attention("bhnd,bhmd->bhnm", "bhnm,bhmd->bhnd")
    assert [layer.reason for layer in plan.analog_layers] == [READS_IMAGE]
    work = {site.name: site.macs for site in plan.sites}
    assert sorted(work.values()) == sorted(
        [
            2 * 2 * 16 * 4 * 4,  # both projections read one tensor
            2 * 16 * 16 * 4,  # queries with keys
            0,  # keys: their work is counted with the queries
            2 * 16 * 16 * 4,  # weights with values
            0,
            128 * 5,
        ]
    )
    # The weights are read over the largest of their row, as those of a product of matrices are.
    assert [site.channels for site in plan.sites if site.relative_axis == -1] == [2]

"""Which output scores classes."""

import numpy as np
import onnx_ir as ir
import pytest
import spiking
import tiny

from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.scores import class_count, class_scores


def ending(outputs: str, *nodes: str) -> ir.Model:
    """A network of five features `f`, and what it makes of them."""
    text = f"""
        tiny_ending (float[N, 3, 8, 8] image) => ({outputs}) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Relu (a)
            c = GlobalAveragePool (b)
            d = Flatten (c)
            f = Gemm <transB = 1> (d, w2)
            {" ".join(nodes)}
        }}"""
    wanted = {"one": np.ones((5, 1), np.float32), "three": np.array([3]), "places": np.array([2, 3])}
    used = {name: array for name, array in wanted.items() if any(name in node for node in nodes)}
    proto = tiny.model(text, w1=tiny.weights(4, 3, 3, 3), w2=tiny.weights(5, 4), **used)
    return ingest(proto, subject="tiny").model


TOP = "values, indices = TopK (f, three)"
ENDINGS = {
    "scores": (("float[N, 5] f",), "f", 5),
    "shares": (("float[N, 5] p", "p = Softmax (f)"), "p", 5),
    "scores behind another output": (("float[N, 4, 8, 8] e, float[N, 5] f", "e = Identity (b)"), "f", 5),
    "scores behind features": (("float[N, 4] d, float[N, 5] scores", "scores = Identity (f)"), "scores", 5),
    "scores before those of a head beside": (
        ("float[N, 5] f, float[N, 4] aux_logits", "aux_logits = Identity (d)"),
        "f",
        5,
    ),
    "scores before a spread": (("float[N, 5] f, float[N, 4] spread_pred", "spread_pred = Identity (d)"), "f", 5),
    "shares of a ranking": (("float[N, 3] p", TOP, "p = Softmax (values)"), None, None),
    "features that are called nothing": (("float[N, 4] d, float[N, 5] f",), "d", 4),
    "scores beside their ranking": (("float[N, 3] values, int64[N, 3] indices, float[N, 5] f", TOP), "f", 5),
    "scores of one place": (("float[N, 5, 1, 1] s", "s = Unsqueeze (f, places)"), "s", 5),
    "a list before one place": (("float[N, 5, 1, 1] s, float[N, 5] f", "s = Unsqueeze (f, places)"), "f", 5),
    "maps": (("float[N, 4, 8, 8] b",), None, None),
    "a ranking alone": (("float[N, 3] values, int64[N, 3] indices", TOP), None, None),
    "a ranking in other numbers": (("float16[N, 3] v", TOP, "v = Cast <to = 10> (values)"), None, None),
    "the best class": (("int64[N, 1] k", "k = ArgMax <axis = 1> (f)"), None, None),
    "a single number": (("float[N, 1] y", "y = MatMul (f, one)"), None, None),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_classes_are_scored_by_a_list_of_floats_that_is_not_ranked(name: str):
    graph, scores, classes = ENDINGS[name]
    model = ending(*graph)
    assert (class_scores(model), class_count(model)) == (scores, classes)


def test_classes_whose_number_is_open_are_scored_all_the_same():
    model = ending("float[N, K] f")
    for output in model.graph.outputs:
        output.shape = ir.Shape(["N", None])
    assert (class_scores(model), class_count(model)) == ("f", None)


def test_an_output_of_unknown_shape_comes_after_lists():
    model = ending("float[N, 4] d, float[N, 5] f")
    model.graph.outputs[0].shape = None
    assert class_scores(model) == "f"


def test_a_ranking_is_one_at_several_timesteps_too():
    outputs = "float[N, 3] values, int64[N, 3] indices"
    proto = ir.to_proto(ending(outputs, TOP))
    checkpoint = spiking.checkpoint_of(proto, tiny.images(8), timesteps=3)
    assert class_scores(checkpoint.model) is None

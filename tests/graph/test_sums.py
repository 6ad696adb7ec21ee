"""What a synapse's output is added to, and whether that is settled before the synapse is."""

import numpy as np
import pytest
import spiking
import tiny

from pmsm_cli.graph.matching import matched_readers
from pmsm_cli.graph.sums import settled_addends

MAP, FIRST = "float[N, 3, 8, 8]", "a = Conv (image, w)  b = Relu (a)  p = Conv (b, w)  r = Relu (p)"


def addends(body: str, outputs: str = f"{MAP} y") -> dict[str, tuple[str, ...]]:
    proto = tiny.model(f"g ({MAP} image) => ({outputs}) {{ {body} }}", w=tiny.weights(3, 3, 1, 1), k=tiny.weights(1))
    network, plan, shapes = spiking.read(proto, (3, 8, 8))
    readers = [reader.node for reader in matched_readers(network.model, plan, shapes)]
    return settled_addends(network.model.graph, readers, shapes)


def test_a_residual_path_is_an_addend_once_what_made_it_is_settled():
    assert addends(f"{FIRST}  q = Conv (r, w)  y = Add (r, q)") == {"p": (), "q": ("r",)}


def test_of_two_branches_the_later_one_sees_the_earlier():
    assert addends(f"{FIRST}  q = Conv (r, w)  s = Conv (r, w)  y = Add (q, s)") == {"p": (), "q": (), "s": ("q",)}


def test_a_sum_of_several_is_followed_past_constants():
    body = f"{FIRST}  q = Conv (r, w)  t = Add (q, k)  u = Add (t, r)  y = Add (p, u)"
    assert addends(body)["q"] == ("r", "p")


def test_what_no_spikes_lead_to_is_left_out_and_passed_over():
    assert addends(f"{FIRST}  q = Conv (r, w)  t = Add (q, b)  y = Add (t, r)")["q"] == ("r",)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("y = Add (q, q)", f"{MAP} y"),
        ("t = Sigmoid (q)  y = Add (q, t)", f"{MAP} y"),
        ("t = Relu (q)  y = Add (t, r)", f"{MAP} y"),
        ("y = Add (q, r)", f"{MAP} y, {MAP} q"),
        ("t = Add (q, r)  y = Mul (t, q)", f"{MAP} y"),
    ],
)
def test_an_output_that_is_read_otherwise_too_is_only_itself(body: str, outputs: str):
    assert addends(f"{FIRST}  q = Conv (r, w)  {body}", outputs)["q"] == ()


def test_a_tensor_that_makes_the_output_larger_is_no_addend():
    body = f"{FIRST}  m = ReduceMean <keepdims = 1> (r, axes)  q = Conv (m, w)  y = Add (q, r)"
    proto = tiny.model(f"g ({MAP} image) => ({MAP} y) {{ {body} }}", w=tiny.weights(3, 3, 1, 1), axes=np.array([2, 3]))
    network, _, shapes = spiking.read(proto, (3, 8, 8))
    assert settled_addends(network.model.graph, ["p", "q"], shapes)["q"] == ()

"""Where products are driven by events, and that nothing else changes."""

import integers
import numpy as np
import onnx
import pytest
import spiking
import tiny

from pmsm_cli.lowering.lower import Use, lower, lower_further, tidy, tidy_steps
from pmsm_cli.lowering.settle import settle_weights
from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")
SELDOM, OFTEN = {"c": 20.0}, {"c": 90.0}


def classifier(last: str = "scores = Gemm <transB = 1> (c, w2, b)") -> onnx.ModelProto:
    """A wide layer of 2^18 weights that reads c."""
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, k] scores) {{
            a = Flatten (image)
            h = Gemm <transB = 1> (a, w1)
            c = Relu (h)
            {last}
        }}""",
        w1=tiny.weights(512, 192),
        w2=tiny.weights(512, 512, seed=1),
        b=tiny.weights(512, seed=2),
    )


@pytest.mark.parametrize(
    "last",
    [
        "scores = Gemm <transB = 1> (c, w2, b)",
        "scores = Gemm (c, w2)",
        "scores = MatMul (c, w2)",
        "scores = Gemm (c, w2, )",
    ],
)
def test_a_wide_layer_of_seldom_spikes_is_driven_by_events(last):
    checkpoint = spiking.checkpoint_of(classifier(last), tiny.images(8))
    after, _ = tidy(checkpoint.model, Use(firing=SELDOM))
    assert integers.ops(after)["EventProduct"] == 1
    (got,), (expected,) = (
        integers.outputs(model, tiny.images(3), library=LIBRARY) for model in (after, checkpoint.model)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("firing", [OFTEN, {}])
def test_layers_of_frequent_or_unknown_spikes_stay_dense(firing):
    checkpoint = spiking.checkpoint_of(classifier(), tiny.images(8))
    after, _ = tidy(checkpoint.model, Use(firing=firing))
    assert "EventProduct" not in integers.ops(after)


def test_integer_products_are_driven_by_events_likewise():
    checkpoint = spiking.checkpoint_of(classifier(), tiny.images(8))
    model, weights = settle_weights(checkpoint.model, {})
    low, _ = lower(model, weights)
    seldom, often = (lower_further(low, Use(firing=firing))[0] for firing in (SELDOM, OFTEN))
    assert integers.ops(seldom)["EventProductInteger"] == 1
    assert "EventProductInteger" not in integers.ops(often)
    (got,), (expected,) = (integers.outputs(each, tiny.images(3), library=LIBRARY) for each in (seldom, low))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("timesteps", "by_events"), [(2, 2), (5, 2), (6, 0)])
def test_later_steps_are_driven_by_events_where_few_enough_spike_and_share_the_weights(timesteps, by_events):
    checkpoint = spiking.checkpoint_of(classifier(), tiny.images(8), timesteps=timesteps)
    after, _ = tidy_steps(checkpoint.model, Use(firing=SELDOM), (3, 8, 8))
    wide = [value for value in after.graph.initializers.values() if value.const_value.size == 512 * 512]
    assert len(wide) == 1
    assert integers.ops(after).get("EventProduct", 0) == by_events
    results = (integers.outputs(model, tiny.images(3), library=LIBRARY) for model in (after, checkpoint.model))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_layer_s_output_keeps_its_name():
    checkpoint = spiking.checkpoint_of(classifier(), tiny.images(8))
    after, _ = tidy(checkpoint.model, Use(firing=SELDOM))
    assert [output.name for output in after.graph.outputs] == ["scores"]


@pytest.mark.parametrize(("batch", "by_events"), [(1, 1), (4, 1), (5, 0)])
def test_each_further_image_reads_weights_of_its_own(batch, by_events):
    checkpoint = spiking.checkpoint_of(classifier(), tiny.images(8))
    after, _ = tidy(checkpoint.model, Use(batch=batch, firing=SELDOM))
    assert integers.ops(after).get("EventProduct", 0) == by_events


def test_steps_of_a_scan_are_driven_by_events_too():
    checkpoint = spiking.checkpoint_of(classifier(), tiny.images(8), timesteps=12)
    after, _ = tidy_steps(checkpoint.model, Use(firing=SELDOM), (3, 8, 8))
    (scan,) = (node for node in after.graph if node.op_type == "Scan")
    assert "EventProduct" in [node.op_type for node in scan.attributes["body"].as_graph()]
    results = (integers.outputs(model, tiny.images(3), library=LIBRARY) for model in (after, checkpoint.model))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)

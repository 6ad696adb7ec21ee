"""Corrections of mean and deviation: folded or as nodes they are the same, and they do what they are for."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import tiny

from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.matching import apply_corrections, is_correcting
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.shapes import infer_shapes
from pmsm_cli.graph.sites import SitePlan, find_sites
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.parameters import Correction, NeuronParameters
from pmsm_cli.runtime import match
from pmsm_cli.runtime.match import match_moments
from pmsm_cli.sources.images import Batch

IMAGES = tiny.images(16)
FIRST = "a = Conv <pads = [1, 1, 1, 1]> (image, w)  b = Relu (a)"
FLAT = f"{FIRST}  p = GlobalAveragePool (b)  f = Flatten (p)"
MAP, VECTOR, COLUMNS = "float[N, C, H, W]", "float[N, C]", "float[C, N]"
# what reads the spikes -> the type of its output, its graph and the shapes of its weights
SYNAPSES = {
    "conv": (MAP, f"{FIRST}  y = Conv (b, v, c)", {"v": (6, 4, 1, 1), "c": (6,)}),
    "conv without bias": (MAP, f"{FIRST}  y = Conv (b, v)", {"v": (6, 4, 3, 3)}),
    "depthwise conv": (MAP, f"{FIRST}  y = Conv <group = 4> (b, v, c)", {"v": (8, 1, 3, 3), "c": (8,)}),
    "transposed conv": (MAP, f"{FIRST}  y = ConvTranspose <group = 2> (b, v, c)", {"v": (4, 3, 2, 2), "c": (6,)}),
    "gemm": (VECTOR, f"{FLAT}  y = Gemm (f, v, c)", {"v": (4, 5), "c": (5,)}),
    "gemm, transposed, without bias": (VECTOR, f"{FLAT}  y = Gemm <transB = 1> (f, v)", {"v": (5, 4)}),
    "gemm with alpha and beta": (
        VECTOR,
        f"{FLAT}  y = Gemm <alpha = 0.5, beta = 2.0> (f, v, c)",
        {"v": (4, 5), "c": (5,)},
    ),
    "matmul": (VECTOR, f"{FLAT}  y = MatMul (f, v)", {"v": (4, 5)}),
    "gemm, weights on the left": (
        COLUMNS,
        f"{FLAT}  g = Transpose <perm = [1, 0]> (f)  y = Gemm (v, g)",
        {"v": (5, 4)},
    ),
    "matmul, weights on the left": (MAP, f"{FIRST}  y = MatMul (v, b)", {"v": (6, 8)}),
}
CHANNELS_SECOND = [name for name in SYNAPSES if "left" not in name]


def build(name: str) -> tuple[Network, SitePlan, dict[str, tuple[int, ...]]]:
    output, body, shapes = SYNAPSES[name]
    values = {key: tiny.weights(*shape, seed=index, scale=0.5) for index, (key, shape) in enumerate(shapes.items())}
    text = f"g (float[N, 3, 8, 8] image) => ({output} y) {{ {body} }}"
    network = ingest(tiny.model(text, w=tiny.weights(4, 3, 3, 3), **values), subject=name)
    known = infer_shapes(network.model, (1, 3, 8, 8))
    # Images that lie along another axis than the first become spikes one at a time only.
    planned = replace(network, image=replace(network.image, batch=1)) if output is COLUMNS else network
    return network, find_sites(planned, known), known


def neurons(plan: SitePlan, levels: int = 4) -> dict[str, NeuronParameters]:
    theta = np.linspace(0.2, 0.6, 4).astype(np.float32)
    return {
        site.name: NeuronParameters(
            threshold=np.resize(theta, site.channels) if site.channels > 1 else np.array(0.3, np.float32),
            negative_levels=0,
            positive_levels=levels,
        )
        for site in plan.sites
    }


def run(model: ir.Model, images: np.ndarray = IMAGES) -> np.ndarray:
    return ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"image": images})[0]


def corrected(name: str) -> tuple[ir.Model, Correction, Callable[[np.ndarray], np.ndarray]]:
    """A spiking graph, another scale and shift for each output channel, and what these make of outputs."""
    network, plan, shapes = build(name)
    spiking = insert_neurons(network, plan, neurons(plan), shapes)
    plain = run(spiking)
    axis = 1 if name in CHANNELS_SECOND else plain.ndim - 2
    count = plain.shape[axis]
    scale, shift = np.linspace(0.6, 1.5, count, dtype=np.float32), np.linspace(-1, 1, count, dtype=np.float32)
    correction = Correction(node=plan.sites[0].readers[0].node, scale=scale, shift=shift)
    along = (-1, *(1,) * (plain.ndim - 1 - axis))
    return spiking, correction, lambda outputs: outputs * scale.reshape(along) + shift.reshape(along)


@pytest.mark.parametrize("name", SYNAPSES)
def test_folded_or_as_nodes_a_correction_scales_and_shifts_each_output_channel(name: str):
    spiking, correction, expected = corrected(name)
    for fold in (True, False):
        model = apply_corrections(spiking, (correction,), fold=fold)
        np.testing.assert_allclose(run(model), expected(run(spiking)), atol=1e-5)


@pytest.mark.parametrize("name", SYNAPSES)
def test_others_can_be_folded_in_behind_those_that_are(name: str):
    spiking, correction, expected = corrected(name)
    model = spiking
    for _ in range(2):
        model = apply_corrections(model, (correction,), fold=True)
    np.testing.assert_allclose(run(model), expected(expected(run(spiking))), atol=1e-5)
    assert not any(map(is_correcting, model.graph))


@pytest.mark.parametrize("name", CHANNELS_SECOND)
def test_matched_channels_have_the_mean_and_deviation_of_the_source(name: str):
    network, plan, shapes = build(name)
    spiking = insert_neurons(network, plan, neurons(plan, levels=10), shapes)
    batch = Batch(inputs=IMAGES, labels=None, names=("",) * len(IMAGES))
    corrections = match_moments(network, plan, spiking, shapes, [batch])
    source, matched = run(network.model), run(apply_corrections(spiking, corrections, fold=True))
    axes = tuple(axis for axis in range(source.ndim) if axis != 1)
    np.testing.assert_allclose(matched.mean(axes), source.mean(axes), atol=1e-4)
    np.testing.assert_allclose(matched.std(axes), source.std(axes), rtol=1e-2)


@pytest.mark.parametrize("name", SYNAPSES)
def test_moments_are_matched_alike_with_weights_in_slices_and_in_floats(name: str, monkeypatch: pytest.MonkeyPatch):
    network, plan, shapes = build(name)
    spiking = insert_neurons(network, plan, neurons(plan, levels=10), shapes)
    batch = Batch(inputs=IMAGES, labels=None, names=("",) * len(IMAGES))
    found = []
    for slices in (True, False):
        monkeypatch.setattr(match, "_pays_in_slices", lambda *_, slices=slices: slices)
        found.append(match_moments(network, plan, spiking, shapes, [batch]))
    for in_slices, in_floats in zip(*found, strict=True):
        np.testing.assert_allclose(in_slices.scale, in_floats.scale, rtol=1e-4)
        np.testing.assert_allclose(in_slices.shift, in_floats.shift, atol=1e-4)


def test_a_channel_that_lost_its_signal_gets_its_mean_back_and_is_not_made_larger():
    network, plan, shapes = build("conv")
    coarse = {  # so coarse that hardly a value is carried
        name: NeuronParameters(threshold=np.array(8.0, np.float32), negative_levels=0, positive_levels=1)
        for name in neurons(plan)
    }
    spiking = insert_neurons(network, plan, coarse, shapes)
    batch = Batch(inputs=IMAGES, labels=None, names=())
    (correction,) = match_moments(network, plan, spiking, shapes, [batch])
    lost = run(spiking).std(axis=(0, 2, 3)) < run(network.model).std(axis=(0, 2, 3)) / 2
    assert lost.any()
    np.testing.assert_array_equal(correction.scale[lost], 1)
    matched = run(apply_corrections(spiking, (correction,), fold=True))
    np.testing.assert_allclose(
        matched.mean(axis=(0, 2, 3)), run(network.model).mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-4
    )


def test_corrections_act_in_the_first_timestep_only_and_the_output_still_tends_to_the_source():
    network, plan, shapes = build("conv")
    spiking = insert_neurons(network, plan, neurons(plan, levels=15), shapes)
    reader = plan.sites[0].readers[0].node
    wrong = Correction(node=reader, scale=np.full(6, 2.0, np.float32), shift=np.full(6, 3.0, np.float32))
    corrected = apply_corrections(spiking, (wrong,), fold=False)
    source = run(network.model)
    for coding in Coding:
        model = unroll_timesteps(corrected, plan, timesteps=6, coding=coding)
        per_step = ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"image": IMAGES})[1]
        errors = np.abs(per_step - source).mean(axis=(1, 2, 3, 4))
        assert errors[0] > 1
        assert errors[-1] < 0.05


def test_folding_leaves_no_unused_weights_behind():
    network, plan, shapes = build("conv")
    spiking = insert_neurons(network, plan, neurons(plan), shapes)
    reader = plan.sites[0].readers[0].node
    correction = Correction(node=reader, scale=np.full(6, 2.0, np.float32), shift=np.zeros(6, np.float32))
    graph = apply_corrections(spiking, (correction,), fold=True).graph
    read = {value.name for node in graph for value in node.inputs if value is not None}
    assert set(graph.initializers) <= read

"""Counting: spikes, firing neurons and synaptic operations against the spike tensors themselves, one by one."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import spiking
import tiny

from pmsm_cli.calibration.method import Method
from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.graph.insert import spikes_name
from pmsm_cli.graph.scan import SCAN_NAME
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.runtime.count import SpikeCount, count_spikes
from pmsm_cli.sources.images import SkippedImage

IMAGES = tiny.images(10, 3, 6, 8)


def convolutions(batch: int | str = "N") -> onnx.ModelProto:
    """Maps that are not square, a signed site with two readers, strides that leave neurons without a reader."""
    return tiny.model(
        f"""
        g (float[{batch}, 3, 6, 8] image) => (float[{batch}, 5] scores) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Conv <pads = [0, 1, 1, 0], strides = [2, 2]> (a, w2)
            c = Conv <strides = [2, 2]> (a, w3)
            d = Add (b, c)
            e = Relu (d)
            f = ConvTranspose <strides = [2, 2], pads = [1, 0, 0, 1]> (e, w4)
            g = GlobalAveragePool (f)
            h = Flatten (g)
            scores = Gemm <transB = 1> (h, w5)
        }}""",
        w1=tiny.weights(4, 3, 3, 3),
        w2=tiny.weights(4, 4, 3, 3),
        w3=tiny.weights(4, 4, 1, 1),
        w4=tiny.weights(4, 3, 3, 3),
        w5=tiny.weights(5, 3),
    )


def tokens(batch: int | str = "N") -> onnx.ModelProto:
    """Matrix products of three axes: weights on either side, and a tensor that a convolution reads too."""
    return tiny.model(
        f"""
        g (float[{batch}, 3, 6, 8] image) => (float[{batch}, 12, 7] y) {{
            a = Conv (image, w1)
            b = Conv <pads = [1, 1, 1, 1]> (a, w2)
            c = MatMul (a, m1)
            d = Concat <axis = 3> (b, c)
            t = Reshape (d, s)
            e = MatMul (t, m2)
            y = MatMul (m3, e)
        }}""",
        w1=tiny.weights(4, 3, 1, 1),
        w2=tiny.weights(4, 4, 3, 3),
        m1=tiny.weights(8, 2),
        s=np.array([0, 24, 10]),
        m2=tiny.weights(10, 7),
        m3=tiny.weights(12, 24),
    )


def spikes_of(checkpoint: Checkpoint, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every site's spikes, [timesteps, images, ...]; a network of fixed batch must be given just that many."""
    model = checkpoint.model.clone()
    graph = model.graph
    graph.outputs.clear()
    values = {output.name: output for node in graph for output in node.outputs}
    sites = [site.name for site in checkpoint.manifest.plan.sites]
    graph.outputs.extend(values[spikes_name(site)] for site in sites)
    for scan in [node for node in graph if node.name == SCAN_NAME]:
        body = scan.attributes["body"].as_graph()
        inner = {output.name: output for node in body for output in node.outputs}
        for site in sites:
            body.outputs.append(inner[f"{spikes_name(site)}/later"])
            scan.resize_outputs(len(scan.outputs) + 1)
            scan.outputs[-1].name, scan.outputs[-1].type = f"later {site}", ir.TensorType(ir.DataType.FLOAT)
            graph.outputs.append(scan.outputs[-1])
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    got = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))
    return {site: np.stack([got[spikes_name(site)], *got.get(f"later {site}", [])]) for site in sites}


def reached(checkpoint: Checkpoint, site, shape: tuple[int, ...]) -> np.ndarray:
    """How many outputs each neuron of one image reaches through all of a site's readers, by switching on one at a time."""
    nodes = {node.name: node for node in checkpoint.model.graph}
    counts = np.zeros(shape)
    for reader in site.readers:
        node = nodes[reader.node]
        weights = np.ones(node.inputs[1 - reader.operand].const_value.numpy().shape, np.float32)
        names = ["x", "w"] if reader.operand == 0 else ["w", "x"]
        alone = ir.to_proto(ir.Node("", node.op_type, [ir.val(name) for name in names], node.attributes.values()))
        alone.output[:] = ["y"]
        graph = onnx.helper.make_graph(
            [alone],
            "one",
            [onnx.helper.make_tensor_value_info("x", 1, [None] * (len(shape) + 1))],
            [onnx.helper.make_empty_tensor_value_info("y")],
            [onnx.numpy_helper.from_array(weights, "w")],
        )
        proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        switched = np.eye(counts.size, dtype=np.float32).reshape(-1, *shape)
        for position, image in zip(itertools.product(*map(range, shape)), switched, strict=True):
            counts[position] += session.run(None, {"x": image[None]})[0].sum()
    return counts


def counted(checkpoint: Checkpoint, images: np.ndarray, size: int = 4) -> SpikeCount:
    return count_spikes(checkpoint, spiking.batches_of(images, size))


def check(checkpoint: Checkpoint, spikes: dict[str, np.ndarray], result: SpikeCount) -> None:
    for site, count in zip(checkpoint.manifest.plan.sites, result.sites, strict=True):
        emitted = np.abs(spikes[site.name]).astype(np.float64)
        images = emitted.shape[1]
        flat = emitted.reshape(len(emitted), -1)
        assert count.name == site.name
        assert count.neurons == emitted[0, 0].size == site.neurons
        np.testing.assert_allclose(count.spikes, flat.sum(axis=1) / images, rtol=1e-12)
        np.testing.assert_allclose(count.firing, (flat > 0).sum(axis=1) / images, rtol=1e-12)
        operations = (emitted * reached(checkpoint, site, emitted.shape[2:])).reshape(len(emitted), -1).sum(axis=1)
        np.testing.assert_allclose(count.synaptic_ops, operations / images, rtol=1e-12)


@pytest.mark.parametrize("make", [convolutions, tokens])
@pytest.mark.parametrize(("timesteps", "coding"), [(1, Coding.REFINE), (4, Coding.REFINE), (4, Coding.RATE)])
def test_counts_are_those_of_the_spikes_themselves(make, timesteps: int, coding: Coding):
    checkpoint = spiking.checkpoint_of(make(), IMAGES, timesteps=timesteps, coding=coding)
    spikes = spikes_of(checkpoint, IMAGES)
    assert any((emitted < 0).any() and np.abs(emitted).max() > 1 for emitted in spikes.values())
    result = counted(checkpoint, IMAGES)
    assert result.images == 10
    check(checkpoint, spikes, result)


@pytest.mark.parametrize("timesteps", [1, 3])
def test_of_resting_neurons_the_spikes_are_counted_and_not_what_they_rest_at(timesteps: int):
    checkpoint = spiking.checkpoint_of(convolutions(), IMAGES, timesteps=timesteps, method=Method.ENTROPY)
    assert not all(site.parameters.rests_at_zero for site in checkpoint.manifest.calibration.sites)
    check(checkpoint, spikes_of(checkpoint, IMAGES), counted(checkpoint, IMAGES))


def test_the_image_s_own_spikes_are_counted():
    checkpoint = spiking.checkpoint_of(convolutions(), IMAGES, spiking_input=True)
    check(checkpoint, spikes_of(checkpoint, IMAGES), counted(checkpoint, IMAGES))
    assert checkpoint.manifest.plan.sites[0].name == "image"


def test_signs_never_cancel():
    # One channel of each image is the negative of another: the sum of the spikes is zero, their number is not.
    proto = tiny.model(
        "g (float[N, 1, 4, 4] image) => (float[N, 1, 4, 4] y) { a = Conv (image, w) y = Conv (a, v) }",
        w=np.array([1, -1], np.float32).reshape(2, 1, 1, 1),
        v=np.ones((1, 2, 1, 1), np.float32),
    )
    images = tiny.images(3, 1, 4, 4)
    checkpoint = spiking.checkpoint_of(proto, images, levels=3)
    (emitted,) = spikes_of(checkpoint, images).values()
    assert emitted.sum() == 0
    (site,) = counted(checkpoint, images).sites
    assert site.spikes[0] == np.abs(emitted).sum() / 3
    assert site.spikes[0] > site.firing[0] > 0  # spikes of size two count twice


@pytest.mark.parametrize("timesteps", [1, 3])
def test_the_batch_size_changes_nothing(timesteps: int):
    checkpoint = spiking.checkpoint_of(convolutions(), IMAGES, timesteps=timesteps)
    whole = counted(checkpoint, IMAGES, 10)
    for size in (1, 3):
        for one, other in zip(whole.sites, counted(checkpoint, IMAGES, size).sites, strict=True):
            assert np.array_equal(one.spikes, other.spikes)
            assert np.array_equal(one.firing, other.firing)
            assert np.array_equal(one.synaptic_ops, other.synaptic_ops)


@pytest.mark.parametrize("make", [convolutions, tokens])
@pytest.mark.parametrize("timesteps", [1, 4])  # as many steps as images in a batch: the axes must not be confused
def test_every_image_is_counted_once_where_the_batch_is_fixed(make, timesteps: int):
    open_batch = spiking.checkpoint_of(make(), IMAGES, timesteps=timesteps)
    fixed = spiking.checkpoint_of(make(batch=4), IMAGES, timesteps=timesteps)
    expected, result = counted(open_batch, IMAGES), counted(fixed, IMAGES)
    assert result.images == 10
    for one, other in zip(expected.sites, result.sites, strict=True):
        assert one.neurons == other.neurons
        np.testing.assert_allclose(one.spikes, other.spikes, rtol=1e-12)
        np.testing.assert_allclose(one.firing, other.firing, rtol=1e-12)
        np.testing.assert_allclose(one.synaptic_ops, other.synaptic_ops, rtol=1e-12)


def test_a_site_of_a_single_axis_is_counted():
    proto = tiny.model(
        """
        g (float[1, 3, 6, 8] image) => (float[5] y) {
            a = Conv (image, w1) b = GlobalAveragePool (a) c = Reshape (b, s) y = MatMul (c, w2)
        }""",
        w1=tiny.weights(4, 3, 1, 1),
        s=np.array([-1]),
        w2=tiny.weights(4, 5),
    )
    checkpoint = spiking.checkpoint_of(proto, IMAGES[:1], timesteps=2)
    (emitted,) = spikes_of(checkpoint, IMAGES[:1]).values()
    (site,) = counted(checkpoint, IMAGES[:1], 1).sites
    assert site.neurons == 4
    assert site.spikes.tolist() == np.abs(emitted).sum(axis=1).tolist()
    assert site.synaptic_ops.tolist() == (5 * site.spikes).tolist()


def test_skipped_images_are_passed_on_and_batches_without_images_count_nothing():
    checkpoint = spiking.checkpoint_of(convolutions(), IMAGES)
    broken = SkippedImage(name="broken.png", reason="cut short")
    told: list[int] = []
    batches = [*spiking.batches_of(IMAGES, 10), *spiking.batches_of(IMAGES[:0], 1)]
    batches[0] = next(spiking.batches_of(IMAGES, 10, skipped=(broken,)))
    result = count_spikes(checkpoint, batches, on_batch=told.append)
    assert (result.images, result.skipped, told) == (10, (broken,), [11])
    nothing = count_spikes(checkpoint, [])
    assert nothing.images == 0
    assert all((site.spikes == 0).all() for site in nothing.sites)

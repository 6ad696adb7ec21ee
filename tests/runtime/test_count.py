"""Counting: spikes, firing neurons and synaptic operations against the spike tensors themselves, one by one."""

import itertools
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import spiking
import tiny

from pmsm_cli.calibration.method import Method
from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.runtime.count import SpikeCount, count_spikes
from pmsm_cli.runtime.evaluate import evaluate
from pmsm_cli.runtime.library import SWITCH, find_library, library_status
from pmsm_cli.runtime.session import open_session
from pmsm_cli.sources.images import SkippedImage

IMAGES = tiny.images(10, 3, 6, 8)


@pytest.fixture(autouse=True, params=["standard operators", "floats", "codes"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever counts gives the same counts: nothing of ours, or the native library, on any processor."""
    library = find_library()
    if request.param == "standard operators":
        monkeypatch.setenv(SWITCH, "0")
    elif library is None:
        pytest.skip(f"no native library: {library_status().reason}")
    else:
        fast = replace(library, multiplies_slices=request.param == "codes")
        monkeypatch.setattr("pmsm_cli.runtime.count.find_library", lambda: fast)


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
    spikes = spiking.spikes_of(checkpoint, IMAGES)
    assert any((emitted < 0).any() and np.abs(emitted).max() > 1 for emitted in spikes.values())
    result = counted(checkpoint, IMAGES)
    assert result.images == 10
    check(checkpoint, spikes, result)


@pytest.mark.parametrize("timesteps", [1, 3])
def test_of_resting_neurons_the_spikes_are_counted_and_not_what_they_rest_at(timesteps: int):
    checkpoint = spiking.checkpoint_of(convolutions(), IMAGES, timesteps=timesteps, method=Method.ENTROPY)
    assert not all(site.parameters.rests_at_zero for site in checkpoint.manifest.calibration.sites)
    check(checkpoint, spiking.spikes_of(checkpoint, IMAGES), counted(checkpoint, IMAGES))


def test_the_image_s_own_spikes_are_counted():
    checkpoint = spiking.checkpoint_of(convolutions(), IMAGES, spiking_input=True)
    check(checkpoint, spiking.spikes_of(checkpoint, IMAGES), counted(checkpoint, IMAGES))
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
    (emitted,) = spiking.spikes_of(checkpoint, images).values()
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
    (emitted,) = spiking.spikes_of(checkpoint, IMAGES[:1]).values()
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


# Beside the means


@pytest.mark.parametrize("size", [1, 3, 10])
@pytest.mark.parametrize("timesteps", [1, 3])
def test_deviations_are_those_over_images_however_they_are_batched(timesteps: int, size: int):
    checkpoint = spiking.checkpoint_of(convolutions(), IMAGES, timesteps=timesteps)
    spikes = spiking.spikes_of(checkpoint, IMAGES)
    result = counted(checkpoint, IMAGES, size)
    totals = np.zeros((timesteps, len(IMAGES)))
    for site in result.sites:
        emitted = np.abs(spikes[site.name]).reshape(timesteps, len(IMAGES), -1).astype(np.float64)
        totals += emitted.sum(axis=2)
        np.testing.assert_allclose(site.spikes_deviation, emitted.sum(axis=2).std(axis=1), rtol=1e-10)
        np.testing.assert_allclose(site.firing_deviation, (emitted > 0).sum(axis=2).std(axis=1), rtol=1e-10)
    np.testing.assert_allclose(result.spikes_deviation, totals.std(axis=1), rtol=1e-10)
    whole = counted(checkpoint, IMAGES, 10)
    assert np.array_equal(result.spikes_deviation, whole.spikes_deviation)
    assert np.array_equal(result.synaptic_ops_deviation, whole.synaptic_ops_deviation)


@pytest.mark.parametrize("make", [convolutions, tokens])
@pytest.mark.parametrize("timesteps", [1, 3])
def test_values_that_are_not_zero_after_the_last_step_are_counted(make, timesteps: int):
    checkpoint = spiking.checkpoint_of(make(), IMAGES, timesteps=timesteps)
    spikes = spiking.spikes_of(checkpoint, IMAGES)
    quanta = np.array([2.0**-step for step in range(timesteps)])
    for site, count in zip(checkpoint.manifest.plan.sites, counted(checkpoint, IMAGES).sites, strict=True):
        value = np.tensordot(quanta, spikes[site.name].astype(np.float64), 1)
        assert count.nonzero == pytest.approx((value != 0).sum() / len(IMAGES), rel=1e-12)
        operations = ((value != 0) * reached(checkpoint, site, value.shape[1:])).sum()
        assert count.nonzero_ops == pytest.approx(operations / len(IMAGES), rel=1e-12)


def test_channels_that_are_silent_or_at_their_limit_are_found():
    # Channels that are always 0, always far above and far below what was seen, and as they come.
    proto = tiny.model(
        "g (float[N, 1, 4, 4] image) => (float[N, 1, 4, 4] y) { a = Conv (image, w, b) y = Conv (a, v) }",
        w=np.array([0, 1, 1, 1], np.float32).reshape(4, 1, 1, 1),
        b=np.array([0, 0, 0, 0], np.float32),
        v=np.ones((1, 4, 1, 1), np.float32),
    )
    images = tiny.images(8, 1, 4, 4)
    checkpoint = spiking.checkpoint_of(proto, images, levels=3)
    bias = checkpoint.model.graph.initializers["b"]
    bias.const_value = ir.tensor(np.array([0, 100, -100, 0], np.float32), name="b")
    (site,) = counted(checkpoint, images).sites
    neurons = checkpoint.manifest.calibration.sites[0].parameters
    assert neurons.negative_levels > 0
    assert (site.channels, site.silent_channels, site.saturated_channels) == (4, 1, 2)


def test_a_channel_of_unsigned_neurons_is_not_full_when_it_is_silent():
    checkpoint = spiking.checkpoint_of(tiny.convolutional(), tiny.images(12), levels=3)
    blank = np.full((4, 3, 8, 8), -100, np.float32)  # behind ReLU most channels are 0
    first = counted(checkpoint, blank).sites[0]
    (emitted,) = spiking.spikes_of(checkpoint, blank)["b"][:1]
    assert first.silent_channels == int((emitted == 0).all(axis=(0, 2, 3)).sum())
    assert first.saturated_channels == int(((emitted == 3).mean(axis=(0, 2, 3)) > 0.5).sum())
    assert first.silent_channels


@pytest.mark.parametrize("batch", ["N", 4])
def test_histograms_are_of_the_first_step(batch):
    checkpoint = spiking.checkpoint_of(convolutions(batch), IMAGES, timesteps=2)
    result = counted(checkpoint, IMAGES)
    spikes = spiking.spikes_of(spiking.checkpoint_of(convolutions(), IMAGES, timesteps=2), IMAGES)
    assert result.histogram_images == 10
    for site in result.sites:
        levels, counts = np.unique(spikes[site.name][0], return_counts=True)
        histogram = site.histogram
        assert histogram.width == 1
        found = {histogram.lowest + place: count for place, count in enumerate(histogram.counts) if count}
        assert found == dict(zip(levels.astype(int).tolist(), counts.tolist(), strict=True))


def test_histograms_are_of_the_first_images_and_of_a_few_hundred_bars():
    images = tiny.images(100)
    checkpoint = spiking.checkpoint_of(tiny.convolutional(), images, levels=600)
    result = counted(checkpoint, images, 30)
    assert result.histogram_images == 64
    for site in result.sites:
        assert sum(site.histogram.counts) == 64 * site.neurons
        assert len(site.histogram.counts) <= 256
        assert site.histogram.width > 1


@pytest.mark.parametrize("timesteps", [1, 3])
def test_the_same_run_gives_the_accuracy(timesteps: int):
    images, labels = tiny.images(9), np.arange(9) % 5
    checkpoint = spiking.checkpoint_of(tiny.convolutional(), images, timesteps=timesteps)
    result = count_spikes(checkpoint, spiking.batches_of(images, 4, labels=labels))
    session = open_session(checkpoint.model, subject="net")
    expected = evaluate(session, spiking.batches_of(images, 4, labels=labels), timesteps=timesteps, scores="scores")
    assert result.evaluation == expected
    assert expected.snn.top1 is not None
    assert counted(checkpoint, images).evaluation.snn.top1 is None
    assert count_spikes(checkpoint, []).evaluation is None

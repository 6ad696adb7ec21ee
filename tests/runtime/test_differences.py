"""What each site's spikes carry against the source: by the specification's own steps, and by what the network puts out."""

import numpy as np
import pytest
import spiking
import tiny
from ingesting import run as run_model

from pmsm_cli.errors import BadInputError
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.insert import along_channels
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.reference import initial_state, running_value, step
from pmsm_cli.runtime.differences import Distance, measure_differences

IMAGES = tiny.images(12)


def reads_itself():
    """A network whose last layer puts out what its own spikes carry: its weights are the identity."""
    return tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 4] scores) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2)
            d = GlobalAveragePool (c)
            e = Flatten (d)
            scores = MatMul (e, w3)
        }""",
        w1=tiny.weights(4, 3, 3, 3),
        w2=tiny.weights(4, 4, 3, 3),
        w3=np.eye(4, dtype=np.float32),
    )


def differences(proto, checkpoint, size: int = 5):
    network = ingest(proto, subject="net.onnx")
    return measure_differences(checkpoint, network, spiking.batches_of(IMAGES, size))


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("timesteps", [1, 3])
def test_alone_is_what_the_specification_makes_of_the_source_s_values(coding: Coding, timesteps: int):
    checkpoint = spiking.checkpoint_of(reads_itself(), IMAGES, timesteps=timesteps, coding=coding, levels=3)
    seen = differences(reads_itself(), checkpoint)
    network = ingest(reads_itself(), subject="net.onnx")
    for site in checkpoint.manifest.plan.sites:
        neurons = checkpoint.manifest.calibration.parameters[site.name]
        (values,) = run_model(with_outputs(network.model, [site.name]), IMAGES)
        threshold = along_channels(site, neurons.threshold)
        state = initial_state(values)
        bounds = {"negative_levels": neurons.negative_levels, "positive_levels": neurons.positive_levels}
        for _ in range(timesteps):
            _, state = step(values, state, threshold, coding=coding, **bounds)
        errors = (values - running_value(state, threshold, coding)).astype(np.float64)
        alone = seen[site.name].alone
        assert alone.error == pytest.approx(np.square(errors).sum(), rel=1e-3)
        assert alone.signal == pytest.approx(np.square(values.astype(np.float64)).sum())
        assert seen[site.name].values == values.size


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("timesteps", [1, 3])
def test_accumulated_is_what_the_spiking_network_carries_at_its_last_step(coding: Coding, timesteps: int):
    checkpoint = spiking.checkpoint_of(reads_itself(), IMAGES, timesteps=timesteps, coding=coding, levels=3)
    accumulated = differences(reads_itself(), checkpoint)["e"].accumulated
    wanted = run_model(reads_itself(), IMAGES)[0].astype(np.float64)
    got = run_model(checkpoint.model, IMAGES)[0].astype(np.float64)
    assert accumulated.error == pytest.approx(np.square(wanted - got).sum(), rel=1e-4)
    cosine = (wanted * got).sum() / np.sqrt(np.square(wanted).sum() * np.square(got).sum())
    assert accumulated.cosine == pytest.approx(cosine, rel=1e-6)
    ratio = 10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum())
    assert accumulated.signal_to_noise_db == pytest.approx(ratio, abs=1e-3)


def test_the_first_site_accumulates_nothing_but_its_own_error():
    checkpoint = spiking.checkpoint_of(reads_itself(), IMAGES, levels=3)
    first = differences(reads_itself(), checkpoint)["b"]
    assert first.accumulated.error == pytest.approx(first.alone.error, rel=1e-4)


def test_figures_do_not_depend_on_the_batch():
    checkpoint = spiking.checkpoint_of(reads_itself(), IMAGES, levels=3)
    one, other = (differences(reads_itself(), checkpoint, size)["e"] for size in (1, 12))
    assert one.accumulated.error == pytest.approx(other.accumulated.error, rel=1e-4)
    assert (one.values, one.clipped, one.negative) == (other.values, other.clipped, other.negative)


def test_what_cannot_be_reached_is_clipped_and_its_error_is_told_apart():
    checkpoint = spiking.checkpoint_of(reads_itself(), IMAGES, levels=2)
    seen = differences(reads_itself(), checkpoint)["e"]
    network = ingest(reads_itself(), subject="net.onnx")
    (values,) = run_model(with_outputs(network.model, ["e"]), IMAGES)
    neurons = checkpoint.manifest.calibration.parameters["e"]
    counts = np.round(values / neurons.threshold)
    bounded = np.clip(counts, -neurons.negative_levels, neurons.positive_levels)
    beyond = counts != bounded
    assert seen.clipped == beyond.sum() > 0
    assert seen.clipped_error == pytest.approx(
        np.square((values - neurons.threshold * bounded)[beyond]).sum(), rel=1e-4
    )
    assert seen.negative == (values < 0).sum() > 0


def test_rows_of_attention_are_compared_as_the_averages_that_they_make():
    """Weights of a softmax, whose product with the identity puts them out."""
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 4, 4] shares) {
            a = Conv <strides = [4, 4]> (image, w1)
            b = Reshape (a, s)
            c = Softmax (b)
            d = Conv <strides = [4, 4]> (image, w2)
            e = Reshape (d, s)
            shares = MatMul (c, e)
        }""",
        w1=tiny.weights(4, 3, 4, 4),
        w2=np.zeros((4, 3, 4, 4), np.float32),
        s=np.array([0, 4, 4]),
    )
    checkpoint = spiking.checkpoint_of(proto, IMAGES, levels=3)
    site = next(site for site in checkpoint.manifest.plan.sites if site.name == "c")
    assert site.relative_axis == -1
    seen = differences(proto, checkpoint)["c"]
    (rows,) = run_model(with_outputs(ingest(proto, subject="net.onnx").model, ["c"]), IMAGES)
    theta = checkpoint.manifest.calibration.parameters["c"].threshold
    counts = np.clip(np.round(rows / rows.max(axis=-1, keepdims=True) / theta), 0, 3)
    averages = counts / counts.sum(axis=-1, keepdims=True)
    assert seen.alone.error == pytest.approx(np.square(rows - averages).sum(), rel=1e-3)
    assert seen.accumulated.error == pytest.approx(seen.alone.error, rel=1e-3)


def test_a_source_without_the_tensors_is_refused_by_their_names():
    checkpoint = spiking.checkpoint_of(tiny.convolutional(), IMAGES)
    other = ingest(reads_itself(), subject="other.onnx")
    with pytest.raises(BadInputError, match=r"other\.onnx: does not have the tensors(.|\n)*  f"):
        measure_differences(checkpoint, other, spiking.batches_of(IMAGES, 4))


def test_no_error_and_no_signal_have_no_ratio():
    exact, nothing = Distance(), Distance()
    exact.add(np.ones(3, np.float32), np.ones(3, np.float32))
    nothing.add(np.zeros(3, np.float32), np.ones(3, np.float32))
    assert (exact.signal_to_noise_db, exact.cosine) == (None, 1.0)
    assert (nothing.signal_to_noise_db, nothing.cosine) == (None, None)

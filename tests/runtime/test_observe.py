"""Observing: statistics that depend on the images alone, not on how they were handed over."""

import hashlib

import numpy as np
import pytest
import spiking
import tiny

from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.errors import CalibrationError, UnsupportedGraphError
from pmsm_cli.runtime import observe as module
from pmsm_cli.runtime.observe import PASSES, observe
from pmsm_cli.runtime.session import open_session
from pmsm_cli.sources.images import SkippedImage

IMAGES = tiny.images(64)


def statistics(proto, images=IMAGES, *, size: int = 64, **options: bool) -> dict[str, SiteStatistics]:
    network, plan, _ = spiking.read(proto, images.shape[1:], **options)
    return observe(network, plan, lambda: spiking.batches_of(images, size)).statistics


def same(one: dict[str, SiteStatistics], other: dict[str, SiteStatistics]) -> None:
    assert list(one) == list(other)
    for name, expected in one.items():
        np.testing.assert_allclose(other[name].lowest, expected.lowest, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(other[name].highest, expected.highest, rtol=1e-5, atol=1e-6)
        moved = np.abs(np.cumsum(other[name].counts, axis=1) - np.cumsum(expected.counts, axis=1)).sum()
        assert moved <= 1e-3 * expected.values  # rounding may move a value into the next bin
        assert other[name].values == expected.values


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_batch_size_changes_nothing(size: int):
    same(statistics(tiny.residual()), statistics(tiny.residual(), size=size))


@pytest.mark.parametrize("size", [1, 7])
def test_the_part_counted_of_a_large_map_does_not_depend_on_the_batch(size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_VALUES_A_CHANNEL_AND_IMAGE", 20)  # every fifth of a map of 64, with a rest of four
    whole = statistics(tiny.residual())
    assert whole["b"].values == 64 * 4 * 13
    same(whole, statistics(tiny.residual(), size=size))


@pytest.mark.parametrize("batch", [4, 6])
def test_a_fixed_batch_counts_no_padding(batch: int):
    images = tiny.images(10)
    expected = statistics(tiny.convolutional(), images)
    for size in (batch, 10):
        same(expected, statistics(tiny.convolutional(batch=batch), images, size=size))


def test_a_fixed_batch_with_windows_folded_into_it_counts_no_padding():
    def proto(batch: int | str):
        return tiny.model(
            f"""
            g (float[{batch}, 3, 8, 8] x) => (float y) {{
                a = Conv (x, w) t = Transpose <perm = [0, 2, 3, 1]> (a) s = Reshape (t, windows) y = MatMul (s, m)
            }}""",
            w=tiny.weights(4, 3, 1, 1),
            m=tiny.weights(4, 5),
            windows=np.array([-1, 16, 4]),
        )

    images = tiny.images(10)
    same(statistics(proto("N"), images), statistics(proto(4), images, size=4))


def test_the_statistics_are_those_of_the_activations():
    network, plan, _ = spiking.read(tiny.residual(), (3, 8, 8))
    found = observe(network, plan, lambda: spiking.batches_of(IMAGES, 10)).statistics["e"]
    model = network.model.clone()
    values = {output.name: output for node in model.graph for output in node.outputs}
    model.graph.outputs[:] = [values["e"]]
    (activations,) = open_session(model, subject="net.onnx").run(IMAGES)
    channels = np.moveaxis(activations, 1, 0).reshape(4, -1)
    np.testing.assert_allclose(found.lowest, channels.min(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.highest, channels.max(axis=1), rtol=1e-6)
    assert found.counts.sum(axis=1).tolist() == [64 * 64] * 4
    mean = (found.centres * found.counts).sum(axis=1) / (64 * 64)
    np.testing.assert_allclose(mean, channels.mean(axis=1), atol=float(found.bin_width.max()))


def test_the_image_itself_is_observed_where_it_spikes():
    found = statistics(tiny.convolutional(), spiking_input=True)["image"]
    np.testing.assert_allclose(found.highest, IMAGES.max(axis=(0, 2, 3)))


def test_sites_whose_readers_disagree_are_observed_as_a_whole():
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
            a = Conv (x, w) b = Conv (a, v) c = MatMul (a, m) y = Add (b, c)
        }""",
        w=tiny.weights(4, 3, 1, 1),
        v=tiny.weights(4, 4, 1, 1),
        m=tiny.weights(8, 8),
    )
    assert statistics(proto)["a"].counts.shape[0] == 1


def test_progress_skipped_images_and_the_digest_are_reported():
    network, plan, _ = spiking.read(tiny.convolutional(), (3, 8, 8))
    broken = SkippedImage(name="broken.png", reason="cut short")
    told: list[int] = []
    seen = observe(network, plan, lambda: spiking.batches_of(IMAGES, 30, skipped=(broken,)), on_batch=told.append)
    assert sum(told) == PASSES * 65
    assert (seen.images, seen.skipped) == (64, (broken,))
    assert seen.digest == hashlib.sha256(IMAGES.tobytes()).hexdigest()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused_with_the_site_s_name(value: float):
    images = IMAGES.copy()
    images[40, 1, 3, 3] = value
    with pytest.raises(CalibrationError) as refused:
        statistics(tiny.convolutional(), images, size=16)
    assert str(refused.value) == (
        "b: the source network produces values that are infinite or not a number\n"
        "hint: check the preprocessing, and that the network itself gives sensible results"
    )


def test_a_failure_of_onnxruntime_names_the_network():
    network, plan, _ = spiking.read(tiny.convolutional(), (3, 8, 8))
    wrong = tiny.images(2, 3, 9, 9)
    with pytest.raises(UnsupportedGraphError, match=r"^net\.onnx: "):
        observe(network, plan, lambda: spiking.batches_of(wrong, 2))

"""The training loop on tiny networks: it helps, repeats, keeps the best, and says when it went wrong."""

from collections.abc import Callable

import numpy as np
import pytest
import tiny
from tuning import IMAGES, Listening, attention, tune, varied

from pmsm_cli.errors import CheckFailedError, DataError, SetupError
from pmsm_cli.finetune.records import EpochRecord, Stop
from pmsm_cli.finetune.settings import Device
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.runtime.session import open_session

torch = pytest.importorskip("torch")

NETWORKS = [varied, tiny.convolutional, tiny.batch_norm, tiny.residual, tiny.channels_last, attention, tiny.two_outputs]


def images_of(make: Callable) -> np.ndarray:
    return IMAGES.transpose(0, 2, 3, 1).copy() if make is tiny.channels_last else IMAGES


def scores(model: object) -> np.ndarray:
    return open_session(model, subject="net.onnx", threads=1).run(tiny.images(400, seed=9))[0]


def raising_after(epoch: int) -> Callable[[EpochRecord], None]:
    def on_epoch(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


def test_it_brings_a_binary_network_closer_to_its_source_on_images_that_it_never_saw():
    proto = varied()
    source = scores(ingest(proto, subject="net.onnx").model)
    made, outcome = tune(proto, epochs=8)
    before, after = (np.linalg.norm(scores(model) - source) for model in (made.model, outcome.model))
    assert after < 0.8 * before
    assert outcome.epochs[outcome.best].loss < 0.8 * outcome.epochs[0].loss
    assert outcome.stopped is None


@pytest.mark.parametrize("make", NETWORKS)
def test_what_is_handed_back_is_the_network_that_was_measured(make):
    """The loss of the best epoch, from the folded graph in onnxruntime and not from torch."""
    listener = Listening()
    proto = make()
    made, outcome = tune(proto, images=images_of(make), listener=listener, epochs=2)
    held_out = np.sort(np.random.default_rng(0).permutation(len(IMAGES))[:16])
    inputs = images_of(make)[held_out]
    spiking = open_session(outcome.model, subject="net.snn.onnx", threads=1).run(inputs)
    source = open_session(ingest(proto, subject="net.onnx").model, subject="net.onnx", threads=1).run(inputs)
    agreement = 100 * np.mean(spiking[0].argmax(1) == source[0].argmax(1))
    assert agreement == pytest.approx(outcome.epochs[outcome.best].agreement, abs=100 / 16 + 1e-6)
    assert set(outcome.neurons) == {site.name for site in made.manifest.plan.sites}
    assert [record.epoch for record in listener.records] == [0, 1, 2]


def test_equal_seeds_give_equal_results_and_others_do_not():
    (_, first), (_, second), (_, third) = (tune(varied(), epochs=2, seed=seed) for seed in (3, 3, 4))
    weights = [
        {name: value.const_value.numpy() for name, value in outcome.model.graph.initializers.items()}
        for outcome in (first, second, third)
    ]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(np.array_equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_thresholds_are_learned_and_stay_positive():
    made, outcome = tune(varied())
    for name, before in made.manifest.calibration.parameters.items():
        after = outcome.neurons[name]
        assert after.threshold.shape == before.threshold.shape
        assert not np.array_equal(after.threshold, before.threshold)
        assert (after.threshold > 0).all()
        assert (after.negative_levels, after.positive_levels) == (before.negative_levels, before.positive_levels)


def test_without_a_teacher_the_labels_are_the_goal():
    proto = varied()
    labels = open_session(ingest(proto, subject="n").model, subject="n", threads=1).run(IMAGES)[0].argmax(1)
    _, outcome = tune(proto, teacher=False, labels=labels.astype(np.int64), epochs=6)
    first, best = outcome.epochs[0], outcome.epochs[outcome.best]
    assert first.agreement is best.agreement is None
    assert best.loss < first.loss
    assert best.top1 > first.top1


def test_an_interruption_keeps_the_best_epoch_until_then():
    _, whole = tune(varied(), epochs=4)
    _, cut = tune(varied(), epochs=4, listener=Listening(raising_after(2)))
    assert cut.stopped is Stop.INTERRUPTED
    assert [record.epoch for record in cut.epochs] == [0, 1, 2]
    assert 1 <= cut.best <= 2
    assert [record.loss for record in cut.epochs] == [record.loss for record in whole.epochs[:3]]


def test_an_interruption_before_anything_was_gained_is_passed_on():
    with pytest.raises(KeyboardInterrupt):
        tune(varied(), listener=Listening(raising_after(0)))


def test_a_learning_rate_that_diverges_is_named():
    with pytest.raises(CheckFailedError) as failed:
        tune(varied(), learning_rate=1e4)
    assert str(failed.value).startswith("net.snn.onnx: training diverged at learning rate 10000: the loss left ")
    assert str(failed.value).endswith("; nothing was written\nhint: a smaller learning rate: --learning-rate 1000")


def test_a_divergence_after_a_good_epoch_keeps_that_epoch(monkeypatch: pytest.MonkeyPatch):
    def break_down(record: EpochRecord) -> None:
        if record.epoch == 2:
            monkeypatch.setattr("pmsm_cli.finetune.objective.Objective.loss", lambda *args: torch.tensor(torch.nan))

    _, outcome = tune(varied(), epochs=4, listener=Listening(break_down))
    assert outcome.stopped is Stop.DIVERGED
    assert len(outcome.epochs) == 3
    assert outcome.best >= 1


def test_a_run_that_makes_nothing_better_says_so():
    with pytest.raises(CheckFailedError, match=r"no epoch at learning rate 1e-30 came closer than the start \(loss "):
        tune(varied(), epochs=1, learning_rate=1e-30, threshold_rate=0.0)


def test_images_too_few_to_measure_on_are_refused():
    with pytest.raises(DataError, match=r"1 image\(s\) are too few to train on some and measure on others"):
        tune(varied(), images=IMAGES[:1])


def test_a_fixed_batch_is_kept():
    _, outcome = tune(varied(batch=8), epochs=2)
    assert outcome.model.graph.inputs[0].shape[0] == 8
    with pytest.raises(DataError, match=r"12 image\(s\) are too few"):
        tune(varied(batch=8), images=IMAGES[:12])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_said():
    with pytest.raises(SetupError, match="there is no CUDA device that torch can use"):
        tune(varied(), device=Device.CUDA)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", NETWORKS)
def test_cuda_trains_too(make):
    _, outcome = tune(make(), images=images_of(make), device=Device.CUDA, epochs=6)
    assert outcome.epochs[outcome.best].loss < outcome.epochs[0].loss


def test_the_number_of_threads_is_that_of_before():
    before = torch.get_num_threads()
    tune(varied(), epochs=2, threads=1 if before > 1 else 2)
    assert torch.get_num_threads() == before

"""The training loop on tiny networks: it helps, repeats, keeps the best, and says when it went wrong."""

from collections.abc import Callable

import numpy as np
import pytest
import tiny
import torch
from trainable import attention, varied
from tuning import IMAGES, Listening, digits, tune

from pmsm_cli.errors import CheckFailedError, DataError, SetupError
from pmsm_cli.finetune.records import EpochRecord, Stop
from pmsm_cli.finetune.settings import Device
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.runtime.session import open_session


def scores(model: object, inputs: np.ndarray) -> np.ndarray:
    return open_session(model, subject="net.onnx", threads=1).run(inputs)[0]


def raising_after(epoch: int) -> Callable[[EpochRecord], None]:
    def on_epoch(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


def test_it_brings_a_network_with_binary_spikes_closer_to_its_source_on_images_that_it_never_saw():
    proto, images, _ = digits()
    others, listener = images[300:], Listening()
    made, outcome = tune(proto, images=images[:300], listener=listener)
    source = scores(ingest(proto, subject="n").model, others).argmax(1)
    before, after = (np.mean(scores(model, others).argmax(1) == source) for model in (made.model, outcome.model))
    assert before < 0.9
    assert after > before + 0.05
    assert [record.epoch for record in listener.records] == [0, 1, 2, 3, 4]
    assert listener.images == 300 + 4 * 270  # read once, trained on in each epoch
    assert outcome.epochs == tuple(listener.records)
    assert outcome.stopped is None


def test_attention_comes_closer_to_its_source_too():
    checkpoint, outcome = tune(attention(), levels=1, images=tiny.images(640))  # 64 of them judge
    assert outcome.epochs[outcome.best].loss < outcome.epochs[0].loss
    assert outcome.neurons["a"].threshold != checkpoint.manifest.calibration.parameters["a"].threshold


def test_what_is_handed_back_is_the_best_epoch_as_it_was_measured():
    """Loss and agreement, from the folded graph in onnxruntime and not from torch."""
    proto, images, _ = digits()
    _, outcome = tune(proto, images=images[:300])
    held_out = np.sort(np.random.default_rng(0).permutation(300)[:30])
    source = scores(ingest(proto, subject="n").model, images[held_out])
    agreement = 100 * np.mean(scores(outcome.model, images[held_out]).argmax(1) == source.argmax(1))
    best = outcome.epochs[outcome.best]
    assert best.loss == min(record.loss for record in outcome.epochs)
    assert agreement == pytest.approx(best.agreement, abs=100 / 30 + 0.01)  # a rounding may flip a spike


def test_equal_seeds_give_equal_results_and_others_do_not():
    (_, first), (_, second), (_, third) = (
        tune(digits()[0], images=digits()[1][:200], epochs=2, seed=seed) for seed in (3, 3, 4)
    )
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
    proto, images, labels = digits()
    _, outcome = tune(proto, teacher=False, images=images[:300], labels=labels[:300])
    first, best = outcome.epochs[0], outcome.epochs[outcome.best]
    assert first.agreement is best.agreement is None
    assert best.loss < 0.7 * first.loss
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
    assert str(failed.value).endswith("\nhint: a smaller learning rate: --learning-rate 1000")


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
def test_cuda_trains_too():
    proto, images, _ = digits()
    _, outcome = tune(proto, images=images[:300], device=Device.CUDA)
    assert outcome.epochs[outcome.best].loss < 0.7 * outcome.epochs[0].loss


def test_too_little_memory_is_said_with_a_smaller_batch(monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("pmsm_cli.finetune.operators.layers.F.linear", full)
    with pytest.raises(SetupError) as failed:
        tune(varied(), batch=32)
    message = "net.snn.onnx: there is not enough memory to train the network\nhint: --batch 8"
    assert str(failed.value) == message


def test_the_number_of_threads_is_that_of_before():
    before = torch.get_num_threads()
    tune(varied(), epochs=2, threads=1 if before > 1 else 2)
    assert torch.get_num_threads() == before

"""What is trained is what the checkpoint holds: thresholds out of the weights and back, norms alive and folded."""

from collections.abc import Callable

import numpy as np
import pytest
import spiking
import tiny
import torch
from trainable import attention, grouped, heads, varied

from pmsm_cli.calibration.method import Method
from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.finetune.live_norm import LiveNorm
from pmsm_cli.finetune.operators import Call
from pmsm_cli.finetune.student import Student
from pmsm_cli.graph.refold import refold_thresholds, unfold_thresholds
from pmsm_cli.graph.rest import rest_name
from pmsm_cli.runtime.session import open_session

IMAGES = tiny.images(64)
W = tiny.weights


def square():
    """A tensor times its own transpose: one site is both operands of a product."""
    return tiny.model(
        """
        tiny_square (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            a = Conv <strides = [2, 2]> (image, w1, b1)
            f = Reshape (a, s)
            t = Transpose <perm = [0, 2, 1]> (f)
            p = MatMul (f, t)
            g = Flatten (p)
            h = MatMul (g, w2)
            scores = MatMul (h, w3)
        }""",
        s=np.array([0, 4, -1], np.int64),
        w1=W(4, 3, 2, 2),
        b1=W(4),
        w2=W(16, 6),
        w3=W(6, 5),
    )


def softmax_heads():
    """Attention of two heads, each with a threshold of its own."""
    return tiny.model(
        """
        tiny_heads (float[N, 3, 8, 8] image) => (float[N, 2, 8, 5] scores) {
            s = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
            v = Conv <pads = [1, 1, 1, 1]> (image, w2, b2)
            a = Softmax (s)
            y = MatMul (a, v)
            scores = MatMul (y, w3)
        }""",
        w1=W(2, 3, 3, 3),
        b1=W(2),
        w2=W(2, 3, 3, 3, seed=1),
        b2=1 + W(2, seed=1),
        w3=W(8, 5),
    )


NETWORKS = [varied, tiny.convolutional, tiny.batch_norm, tiny.residual, tiny.channels_last, tiny.two_outputs]
NETWORKS += [attention, grouped, heads, softmax_heads, square]


def made(make: Callable, levels: int = 7, method: Method = Method.MSE) -> tuple[Checkpoint, np.ndarray]:
    images = IMAGES.transpose(0, 2, 3, 1).copy() if make is tiny.channels_last else IMAGES
    return spiking.checkpoint_of(make(), images, levels=levels, method=method), images


def student_of(checkpoint: Checkpoint, *, live_norm: bool = True) -> Student:
    return Student(
        checkpoint.model,
        checkpoint.manifest.plan,
        checkpoint.manifest.calibration.parameters,
        subject="net.snn.onnx",
        live_norm=live_norm,
    )


def outputs_of(student: Student, images: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        return [value.numpy() for value in student.eval()(torch.from_numpy(images)).values()]


def assert_same_but_for_flipped_spikes(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    """Roundings differ between the two and may flip a spike here and there; whole images agree closely else."""
    for have, expected in zip(got, want, strict=True):
        assert have.shape == expected.shape
        difference = np.abs(have - expected).reshape(len(have), -1).max(axis=1)
        assert np.mean(difference <= 1e-4 * (1 + np.abs(expected).max())) >= 0.9


def perturb(student: Student, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("method", [Method.MSE, Method.ENTROPY])
@pytest.mark.parametrize("make", NETWORKS)
def test_before_training_it_is_the_checkpoint(make, method: Method):
    checkpoint, images = made(make, method=method)
    student = student_of(checkpoint)
    with student.measuring():
        student(torch.from_numpy(images))
    want = open_session(checkpoint.model, subject="net.snn.onnx", threads=1).run(images)
    assert_same_but_for_flipped_spikes(outputs_of(student, images), want)


@pytest.mark.parametrize("method", [Method.MSE, Method.ENTROPY])
@pytest.mark.parametrize("live_norm", [True, False])
@pytest.mark.parametrize("make", NETWORKS)
def test_the_folded_graph_is_what_was_trained(make, live_norm: bool, method: Method):
    checkpoint, images = made(make, method=method)
    student = student_of(checkpoint, live_norm=live_norm)
    with student.measuring():
        student(torch.from_numpy(images))
    before = outputs_of(student, images)
    perturb(student)
    model, neurons = student.folded()
    trained = outputs_of(student, images)
    assert not np.allclose(trained[0], before[0], atol=1e-2)
    got = open_session(model, subject="net.snn.onnx", threads=1).run(images)
    assert_same_but_for_flipped_spikes(trained, got)
    for site in checkpoint.manifest.calibration.sites:
        assert neurons[site.name].threshold.shape == site.parameters.threshold.shape
        assert not np.allclose(neurons[site.name].threshold, site.parameters.threshold)


def test_every_parameter_gets_a_gradient():
    checkpoint, images = made(attention)
    student = student_of(checkpoint).train()
    student(torch.from_numpy(images))["scores"].square().sum().backward()
    silent = [name for name, parameter in student.named_parameters() if not parameter.grad.any()]
    # A shift before a softmax over the same axis, or before a norm, changes nothing; of these there is none here.
    assert silent == []


def test_a_norm_alive_gives_what_it_folds_into_where_a_batch_has_the_measured_moments():
    checkpoint, images = made(varied, levels=255)  # fine levels, so that the layers behind see nearly the same
    student = student_of(checkpoint)
    batch = torch.from_numpy(images)
    with student.measuring():
        student(batch)
    want = outputs_of(student, images)[0]
    with torch.no_grad():
        got = student.train()(batch)["scores"].numpy()
    np.testing.assert_allclose(got, want, rtol=0.02, atol=0.05)


def test_a_norm_takes_its_running_moments_where_a_batch_has_one_value_a_channel():
    norm = LiveNorm(torch.tensor([0.5, -0.5])).train()
    image, weights = torch.ones(1, 1, 1, 1), torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    got = norm(Call(), image, weights, torch.zeros(2)).reshape(-1)
    torch.testing.assert_close(got, torch.tensor([1.5, 1.5]))


def test_each_head_keeps_a_threshold_of_its_own_through_training():
    checkpoint, _ = made(heads)
    parameters = checkpoint.manifest.calibration.parameters
    assert {name: neuron.threshold.shape for name, neuron in parameters.items()} == {"q": (2,), "k": (2,), "g": (32,)}
    student = student_of(checkpoint)
    perturb(student)
    model, neurons = student.folded()
    factors = next(node for node in model.graph if node.name.endswith("/scaled")).inputs[1].const_value.numpy()
    for name in ("q", "k"):
        assert neurons[name].threshold.shape == (2,)
        assert (neurons[name].threshold != parameters[name].threshold).all()
    np.testing.assert_allclose(factors.ravel(), neurons["q"].threshold * neurons["k"].threshold, rtol=1e-6)


def test_what_neurons_rest_at_after_training_is_what_their_graph_subtracts():
    checkpoint, _ = made(varied, method=Method.ENTROPY)
    resting = [site.name for site in checkpoint.manifest.calibration.sites if not site.parameters.rests_at_zero]
    student = student_of(checkpoint)
    perturb(student)
    model, neurons = student.folded()
    assert resting
    for name in resting:
        subtracted = model.graph.initializers[rest_name(name)].const_value.numpy().ravel()
        np.testing.assert_allclose(neurons[name].resting_value, subtracted, rtol=1e-5)
        assert not np.allclose(subtracted, checkpoint.manifest.calibration.parameters[name].resting_value)


def test_attention_without_spikes_is_trained_without_nan():
    checkpoint, images = made(softmax_heads)
    student = student_of(checkpoint).train()
    assert checkpoint.manifest.calibration.parameters["a"].threshold.shape == (2,)
    with torch.no_grad():
        for key, site in zip(student.log_thresholds, checkpoint.manifest.plan.sites, strict=True):
            if site.name == "a":
                student.log_thresholds[key].fill_(5.0)  # no row has a spike
    scores = student(torch.from_numpy(images))["scores"]
    assert not scores.any()
    (scores - 1).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


@pytest.mark.parametrize("make", NETWORKS)
def test_unfolding_and_folding_again_gives_the_same_weights(make):
    checkpoint, _ = made(make)
    plan, parameters = checkpoint.manifest.plan, checkpoint.manifest.calibration.parameters
    thresholds = {name: neuron.threshold for name, neuron in parameters.items()}
    unfolded = unfold_thresholds(checkpoint.model, plan, thresholds)
    again = refold_thresholds(unfolded, plan, thresholds)
    changed = 0
    for name, value in checkpoint.model.graph.initializers.items():
        here = again.graph.initializers[name].const_value.numpy()
        np.testing.assert_allclose(here, value.const_value.numpy(), rtol=1e-6)
        changed += not np.array_equal(unfolded.graph.initializers[name].const_value.numpy(), value.const_value.numpy())
    assert changed >= 1

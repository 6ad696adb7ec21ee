"""QCFS made trainable: the quantised network against the paper's activation, and the network as it was afterwards."""

import numpy as np
import pytest
import tiny
from ingesting import run
from spiking import read

from pmsm_cli.baselines.plan import plan_neurons
from pmsm_cli.baselines.qcfs import quantised_for_training, trained_neurons, without_quantisers
from pmsm_cli.neuron.parameters import NeuronParameters

torch = pytest.importorskip("torch")

LEVELS = 4
LAMBDAS = {"b": np.array([3.0, 2.0, 1.5, 2.5]), "e": np.asarray(2.5)}
IMAGES = tiny.images(6)


def shortcut():
    return tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2, b2)
            d = Add (c, b)
            e = Relu (d)
            f = GlobalAveragePool (e)
            h = Flatten (f)
            scores = Gemm <transB = 1> (h, w3, b3)
        }""",
        w1=tiny.weights(4, 3, 3, 3),
        b1=tiny.weights(4, scale=0.1),
        w2=tiny.weights(4, 4, 3, 3),
        b2=tiny.weights(4, scale=0.1, seed=1),
        w3=tiny.weights(5, 4),
        b3=tiny.weights(5, scale=0.1),
    )


def quantised():
    network, plan, shapes = read(shortcut(), (3, 8, 8))
    neurons = plan_neurons(network, plan, shapes)
    parameters = {
        name: NeuronParameters(
            threshold=np.asarray(widest / LEVELS, np.float32), negative_levels=0, positive_levels=LEVELS
        )
        for name, widest in LAMBDAS.items()
    }
    model, sites = quantised_for_training(network, neurons, parameters)
    return network, neurons, parameters, model, sites


def clip_floor_shift(z: np.ndarray, widest: np.ndarray) -> np.ndarray:
    widest = widest.reshape(-1, 1, 1)
    return widest / LEVELS * np.clip(np.floor(z * LEVELS / widest + 0.5), 0, LEVELS)


def test_the_network_that_is_trained_is_the_paper_s_shortcuts_included():
    from pmsm_cli.finetune.student import Student

    _, _, parameters, model, sites = quantised()
    student = Student(model, sites, parameters, subject="net.onnx", live_norm=False)
    with torch.no_grad():
        got = student(torch.from_numpy(IMAGES))["scores"].numpy()
    proto = shortcut()
    weights = {
        each.name: torch.from_numpy(np.copy(tiny.onnx.numpy_helper.to_array(each))) for each in proto.graph.initializer
    }
    convolve = torch.nn.functional.conv2d
    a = convolve(torch.from_numpy(IMAGES), weights["w1"], weights["b1"], padding=1).numpy()
    b = clip_floor_shift(a, LAMBDAS["b"]).astype(np.float32)
    d = convolve(torch.from_numpy(b), weights["w2"], weights["b2"], padding=1).numpy() + b
    e = clip_floor_shift(d, LAMBDAS["e"])
    expected = e.mean(axis=(2, 3)) @ weights["w3"].numpy().T + weights["b3"].numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_without_its_quantisers_the_network_is_the_source_again():
    network, neurons, _, model, _ = quantised()
    plain = without_quantisers(model, neurons)
    assert [node.op_type for node in plain.graph] == [node.op_type for node in network.model.graph]
    assert plain.graph.initializers.keys() == network.model.graph.initializers.keys()
    np.testing.assert_array_equal(run(plain, IMAGES)[0], run(network.model, IMAGES)[0])


def test_the_neurons_that_fire_have_lambda_as_their_threshold():
    _, plan, parameters, _, _ = quantised()
    neurons = trained_neurons(plan, parameters)
    assert {name: each.threshold.shape for name, each in neurons.items()} == {"b": (4, 1, 1), "e": ()}
    for name, widest in LAMBDAS.items():
        np.testing.assert_array_equal(neurons[name].threshold.ravel(), widest.ravel())
    assert {(each.start, each.signed) for each in neurons.values()} == {(0.5, False)}

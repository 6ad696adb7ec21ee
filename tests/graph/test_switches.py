"""Switching the neurons of single sites in and out of a source network."""

import numpy as np
import pytest
import tiny
from spiking import read, seen

from pmsm_cli.calibration.emission import Neurons, Spread, emit, error_moments
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.thresholds import choose_parameters
from pmsm_cli.graph.gains import noise_gains
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.runtime.sensitivity import output_errors
from pmsm_cli.runtime.session import open_session

IMAGES = tiny.images(6)


def attention(opset: int = 20):
    return tiny.model(
        """
        net (float[N, 3, 8, 8] image) => (float[N, 16, 8] scores) {
            a = Conv <strides = [2, 2], kernel_shape = [2, 2]> (image, w1)
            b = Reshape (a, shape)
            t = Transpose <perm = [0, 2, 1]> (b)
            q = MatMul (t, wq)
            k = MatMul (t, b)
            weights = Softmax <axis = -1> (k)
            scores = MatMul (weights, q)
        }""",
        opset=opset,
        w1=tiny.weights(8, 3, 2, 2),
        wq=tiny.weights(8, 8),
        shape=np.array([0, 8, 16], np.int64),
    )


def pointwise():
    """Two convolutions of one pixel each, and a single site between them."""
    return tiny.model(
        "g (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] y) { a = Conv (image, w1) b = Relu (a) y = Conv (b, w2) }",
        w1=tiny.weights(6, 3, 1, 1),
        w2=tiny.weights(4, 6, 1, 1),
    )


@pytest.mark.parametrize("proto", [tiny.convolutional(), attention(), attention(17)], ids=["conv", "attention", "old"])
def test_one_site_alone_makes_the_error_that_a_network_with_its_neurons_only_makes(proto):
    network, plan, shapes = read(proto, IMAGES.shape[1:])
    statistics = seen(network, plan, IMAGES).statistics
    coarse = {name: choose_parameters(each, Method.MSE, 3) for name, each in statistics.items()}
    fine = {name: choose_parameters(each, Method.MSE, 60000) for name, each in statistics.items()}
    found = output_errors(network, plan, coarse, IMAGES)
    wanted = open_session(network.model, subject="source").run(IMAGES)[0]
    for site in plan.sites:
        alone = insert_neurons(network, plan, fine | {site.name: coarse[site.name]}, shapes)
        got = open_session(alone, subject="alone").run(IMAGES)[0]
        power = np.square(wanted).sum()
        varied = np.square(wanted - wanted.mean(axis=0)).sum() * len(IMAGES) / (len(IMAGES) - 1)
        expected = float(np.square(got - wanted).sum() / (varied if varied < power / 2 else power))
        assert found[site.name] == pytest.approx(expected, rel=0.02)
        assert found[site.name] > 0


def test_a_mean_error_that_is_taken_off_does_nothing_to_the_output():
    network, plan, _ = read(pointwise(), IMAGES.shape[1:])
    (site,) = plan.sites
    statistics = seen(network, plan, IMAGES).statistics[site.name]
    coarse = choose_parameters(statistics, Method.MSE, 3)
    spread, neurons = Spread.of(statistics), Neurons.of(coarse, 6)
    spikes = emit(spread.centres, neurons)
    _, mean = error_moments(spread, neurons, spikes)

    def error(times: float) -> float:
        taken_off = {site.name: np.float32(times) * mean}
        return output_errors(network, plan, {site.name: coarse}, IMAGES, mean_errors=taken_off)[site.name]

    assert error(1) < error(0.5) < error(0)
    assert error(2) == pytest.approx(error(0), rel=0.02)  # off by as much in the other direction


@pytest.mark.parametrize("constant", [50.0, -np.inf])
def test_a_constant_in_the_output_makes_no_error_small(constant: float):
    """A class that is masked, and an offset of all of them."""

    def error(shift: np.ndarray) -> float:
        network, plan, _ = read(
            tiny.model(
                """
                g (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] y) {
                    a = Conv (image, w1) b = Relu (a) c = Conv (b, w2) y = Add (c, shift)
                }""",
                w1=tiny.weights(6, 3, 1, 1),
                w2=tiny.weights(4, 6, 1, 1),
                shift=shift,
            ),
            IMAGES.shape[1:],
        )
        (site,) = plan.sites
        coarse = choose_parameters(seen(network, plan, IMAGES).statistics[site.name], Method.MSE, 3)
        return output_errors(network, plan, {site.name: coarse}, IMAGES)[site.name]

    masked = np.zeros((4, 1, 1), np.float32)
    masked[1:] = constant
    assert error(masked) == pytest.approx(error(np.zeros((4, 1, 1), np.float32)), rel=0.5)


def with_further_output(kind: str) -> dict[str, float]:
    """What sites do to scores and one further output."""
    further = {
        "alone": ("", ""),
        "a number for all images": (", float mean", "mean = ReduceMean <keepdims = 0> (y)"),
        "a constant but for rounding": (", float[N, 1] one", "s = Softmax (y) one = ReduceSum (s, along)"),
        "the best class": (", int64[N, 1] best", "best = ArgMax <axis = 1> (y)"),
    }[kind]
    text = f"""
        g (float[N, 3, 8, 8] image) => (float[N, 5] y{further[0]}) {{
            a = Conv (image, w1) b = Relu (a) c = Conv (b, w2) d = Relu (c) e = GlobalAveragePool (d) f = Flatten (e)
            y = Gemm <transB = 1> (f, w3) {further[1]}
        }}"""
    used = {"along": np.array([1])} if "along" in text else {}
    network, plan, _ = read(
        tiny.model(text, w1=tiny.weights(6, 3, 1, 1), w2=tiny.weights(4, 6, 1, 1), w3=tiny.weights(5, 4), **used),
        IMAGES.shape[1:],
    )
    statistics = seen(network, plan, IMAGES).statistics
    return output_errors(
        network, plan, {name: choose_parameters(each, Method.MSE, 3) for name, each in statistics.items()}, IMAGES
    )


def test_outputs_that_tell_nothing_of_sites_do_not_decide_which_matter():
    alone = with_further_output("alone")
    for kind, share in (("the best class", 1.0), ("a constant but for rounding", 0.5)):
        assert with_further_output(kind) == pytest.approx(
            {site: share * each for site, each in alone.items()}, rel=0.01
        )
    assert with_further_output("a number for all images").keys() == alone.keys()


def test_neurons_that_are_switched_out_change_nothing():
    network, plan, _ = read(attention(), IMAGES.shape[1:])
    statistics = seen(network, plan, IMAGES).statistics
    exact = {name: choose_parameters(each, Method.MSE, 2**20) for name, each in statistics.items()}
    assert max(output_errors(network, plan, exact, IMAGES).values()) < 1e-8


def test_the_gain_of_a_channel_is_its_share_of_the_noise_in_the_outputs():
    network, plan, _ = read(pointwise(), IMAGES.shape[1:])
    (site,) = plan.sites
    nodes = {node.name: node for node in network.model.graph}
    power = np.linspace(1, 2, 6)
    weights = np.square(tiny.weights(4, 6, 1, 1)[:, :, 0, 0].astype(float))
    expected = (weights / (weights @ power)[:, None]).sum(axis=0)
    np.testing.assert_allclose(noise_gains(site, nodes, power), expected, rtol=1e-5)

"""Which activations become neurons, and which networks the baselines cannot represent."""

import numpy as np
import onnx
import tiny
from spiking import read

from pmsm_cli.baselines.plan import NeuronPlan, plan_neurons


def planned(proto: onnx.ModelProto, *shape: int) -> NeuronPlan:
    network, plan, shapes = read(proto, shape or (3, 8, 8))
    return plan_neurons(network, plan, shapes)


def test_every_activation_between_synapses_becomes_neurons():
    plan = planned(tiny.convolutional())
    assert [(site.name, site.channel_axis, site.channels, site.neurons) for site in plan.neurons] == [
        ("b", -3, 4, 4 * 64),
        ("d", -3, 6, 6 * 64),
    ]
    assert (plan.uncovered, plan.obstacles, plan.count) == ((), (), 10 * 64)


def test_the_neurons_of_a_fixed_batch_are_those_of_one_image():
    assert planned(tiny.convolutional(batch=4)).count == planned(tiny.convolutional()).count


def test_an_activation_before_every_synapse_and_one_behind_the_last_stay_what_they_are():
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 6, 8, 8] y) {
            i = Relu (image)
            a = Conv (i, w1)
            b = Relu (a)
            c = Conv (b, w2)
            y = Relu (c)
        }""",
        w1=tiny.weights(4, 3, 1, 1),
        w2=tiny.weights(6, 4, 1, 1),
    )
    assert [site.name for site in planned(proto).neurons] == ["b"]


def test_a_sum_that_no_activation_follows_is_left_without_spikes():
    assert planned(tiny.residual()).uncovered == ("e", "h")


def test_only_a_clip_from_0_on_is_an_activation():
    def clipped(lowest: float) -> onnx.ModelProto:
        return tiny.model(
            """
            g (float[N, 3, 8, 8] image) => (float[N, 6, 8, 8] y) {
                a = Conv (image, w1)
                b = Clip (a, lowest, highest)
                y = Conv (b, w2)
            }""",
            w1=tiny.weights(4, 3, 1, 1),
            w2=tiny.weights(6, 4, 1, 1),
            lowest=np.float32(lowest),
            highest=np.float32(6),
        )

    assert [site.name for site in planned(clipped(0)).neurons] == ["b"]
    assert planned(clipped(-1)).uncovered == ("b",)


def test_attention_is_left_without_spikes():
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 16, 4] y) {
            a = Conv <strides = [2, 2]> (image, w1)
            b = Reshape (a, s)
            t = Transpose <perm = [0, 2, 1]> (b)
            p = MatMul (t, b)
            q = Softmax (p)
            y = MatMul (q, t)
        }""",
        w1=tiny.weights(4, 3, 2, 2),
        s=np.array([0, 4, 16]),
    )
    plan = planned(proto)
    assert plan.neurons == ()
    assert set(plan.uncovered) == {"t", "b", "q"}


def test_what_makes_indices_of_values_cannot_run_step_by_step():
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 6, 8, 8] y, int64[N, 1, 8, 8] best) {
            a = Conv (image, w1)
            b = Relu (a)
            y = Conv (b, w2)
            best = ArgMax <axis = 1> (y)
        }""",
        w1=tiny.weights(4, 3, 1, 1),
        w2=tiny.weights(6, 4, 1, 1),
    )
    (obstacle,) = planned(proto).obstacles
    assert obstacle.endswith("(ArgMax)")

"""What a baseline's network costs with everything billed: two steps of a tiny one, worked out by hand."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import tiny
from spiking import read

from pmsm_cli.baselines.counting import COUNT_PREFIX, arriving_name, emitted_name, operations_name
from pmsm_cli.baselines.neuron import BaselineNeurons
from pmsm_cli.baselines.plan import plan_neurons
from pmsm_cli.baselines.spiking import spiking_model
from pmsm_cli.baselines.work import baseline_work
from pmsm_cli.energy.constants import EnergyProfile, MemoryLevel, Picojoule, RestPicojoule
from pmsm_cli.energy.costs import spiking_energy_mj
from pmsm_cli.energy.facts import SpikingFacts
from pmsm_cli.pipeline.contenders import facts_of_baseline
from pmsm_cli.runtime.count import SiteCount
from pmsm_cli.runtime.counted import Counted
from pmsm_cli.runtime.session import open_session
from pmsm_cli.runtime.workload import shapes_of

# 1 pJ a bit up to 10 bytes, 2 pJ a bit beyond.
PROFILE = EnergyProfile(
    name="round",
    description="",
    source="made up",
    assumptions=(),
    picojoule=Picojoule(mac_fp32=5.0, accumulate_fp32=1.0, mac_int8=0.5, accumulate_int8=0.1),
    rest=RestPicojoule(compare=3.0, exponential=100.0, divide=10.0, root=10.0),
    memory=(MemoryLevel(name="near", size=10, access=64.0), MemoryLevel(name="far", size=None, access=128.0)),
)
IMAGE = np.array([0.75, 0.5, 0.25, 1.5], np.float32).reshape(1, 1, 2, 2)
ONE = np.ones((), np.float32)


def facts_and_counts(proto: onnx.ModelProto, neurons: dict[str, BaselineNeurons], timesteps: int):
    """What the energy follows from, and the counts of one image."""
    network, plan, shapes = read(proto, IMAGE.shape[1:])
    where = plan_neurons(network, plan, shapes)
    assert (where.uncovered, where.obstacles) == ((), ())

    def model(*, counting: bool):
        return spiking_model(network, plan, where, neurons, shapes, timesteps=timesteps, counting=counting)

    session = open_session(model(counting=True), subject="net.onnx", threads=1)
    counted = Counted(session, prefix=COUNT_PREFIX, timesteps=timesteps)
    counted.run(IMAGE)
    work = baseline_work(
        model(counting=False), plan, where, shapes_of(model(counting=False), IMAGE.shape[1:], subject="net.onnx")
    )
    counts = [
        SiteCount(
            name=site.name,
            neurons=site.neurons,
            spikes=counted.mean(arriving_name(site.name)),
            firing=counted.mean(arriving_name(site.name)),
            synaptic_ops=counted.mean(operations_name(site.name)),
        )
        for site in plan.sites
    ]
    emitted = {site.name: counted.mean(emitted_name(site.name)) for site in where.neurons}
    return facts_of_baseline(work, plan, where, emitted, counts), counts, work


def energy(facts: SpikingFacts, timesteps: int, profile: EnergyProfile = PROFILE) -> float:
    """In pJ."""
    return 1e9 * spiking_energy_mj(facts, profile, timesteps=timesteps)


def two_layers() -> onnx.ModelProto:
    """Four neurons behind a layer that passes the image on, three outputs."""
    return tiny.model(
        """
        g (float[N, 1, 2, 2] image) => (float[N, 3] scores) {
            a = Conv (image, w1)
            b = Relu (a)
            c = Flatten (b)
            scores = Gemm (c, w2)
        }""",
        w1=np.ones((1, 1, 1, 1), np.float32),
        w2=tiny.weights(4, 3),
    )


def test_two_steps_of_integrate_and_fire_are_billed_by_hand():
    """Threshold 1, membranes from 0.5: currents of 0.75, 0.5, 0.25 and 1.5 at both steps.

    Step 1: membranes 1.25, 1, 0.75, 2: three fire, and 0.25, 0, 0.75, 1 are left. Step 2: 1, 0.5, 1, 2.5: three fire.
    """
    facts, (count,), work = facts_and_counts(two_layers(), {"b": BaselineNeurons(threshold=ONE, start=0.5)}, 2)
    assert count.spikes.tolist() == [3, 3]
    assert count.synaptic_ops.tolist() == [9, 9]
    # The first layer: 4 products of 32 + 32 bits nearby, the image (128 bits, far) once, its weight (far with the other
    # 12: 416 bits in all) once.
    first_layer = 4 * 5.0 + 4 * 64 * 1 + 128 * 2 + 32 * 2
    # A map of 4 bits is written, shorter than three events of 2 + 1. By events 9 weights are read, and 9 sums read and
    # written, 3 events read, and 9 of 12 weights fetched; densely 12 weights and bits read, all fetched.
    by_event = 9 * (32 + 2 * 32) * 1 + 3 * (2 + 1) * 1 + 9 / 12 * 384 * 2
    dense = 12 * (32 + 1) * 1 + 384 * 2
    assert dense < by_event
    synapses = 9 * 1.0 + 4 * 1 + dense
    neurons = 4 * (2 * 1.0 + 1 * 3.0)
    # 4 membranes and 3 sums of the output in 32 bits: 224 bits, far; written after the first step, read at the second.
    assert work.state_bits == facts.state_bits == 224
    kept = 224 * 2
    assert energy(facts, 1) == pytest.approx(first_layer + synapses + neurons)
    assert energy(facts, 2) == pytest.approx(first_layer + 2 * (synapses + neurons) + 2 * kept)
    # The papers' convention: the first layer once, an accumulate a synaptic operation.
    compute_only = replace(PROFILE, rest=None, memory=())
    assert energy(facts, 2, compute_only) == pytest.approx(4 * 5.0 + 18 * 1.0)


def test_neurons_that_take_spikes_back_keep_what_they_emitted_and_send_signs():
    neurons = {"b": BaselineNeurons(threshold=ONE, start=0.5, signed=True)}
    facts, (count,), work = facts_and_counts(two_layers(), neurons, 2)
    assert count.spikes.tolist() == [3, 3]
    assert work.state_bits == 224 + 4 * 16
    assert [facts.drives[0].spikes(step).bits for step in (0, 1)] == [1, 2]
    unsigned, _, _ = facts_and_counts(two_layers(), {"b": BaselineNeurons(threshold=ONE, start=0.5)}, 2)
    # An addition and two comparisons more for each neuron and step; at the second step a bit more, in the map and read
    # nearby for each of 12 products; and the counts.
    more = 2 * 4 * (1.0 + 2 * 3.0) + (4 + 12) * 1 + 2 * 4 * 16 * 2
    assert energy(facts, 2) - energy(unsigned, 2) == pytest.approx(more)


def pooled(kind: str) -> onnx.ModelProto:
    """Two activations, the second behind a shortcut and in front of pooling."""
    return tiny.model(
        f"""
        g (float[N, 1, 2, 2] image) => (float[N, 3] scores) {{
            a = Conv (image, w1)
            b = Relu (a)
            c = Conv (b, w2)
            d = Add (c, b)
            e = Relu (d)
            f = {kind} (e)
            h = Flatten (f)
            scores = Gemm (h, w3)
        }}""",
        w1=np.ones((1, 1, 1, 1), np.float32),
        w2=np.ones((1, 1, 1, 1), np.float32),
        w3=tiny.weights(1, 3),
    )


def test_an_average_of_spikes_costs_nothing_and_a_maximum_counts_what_it_reads():
    neurons = {name: BaselineNeurons(threshold=ONE, start=0.5) for name in "be"}
    average, counts, work = facts_and_counts(pooled("GlobalAveragePool"), neurons, 2)
    maximum, _, gated = facts_and_counts(pooled("GlobalMaxPool"), neurons, 2)
    # Membranes of both activations and the output's sums; of the maximum also how often each neuron has fired.
    assert work.state_bits == 32 * (4 + 4 + 3)
    assert gated.state_bits == work.state_bits + 4 * 16
    # The shortcut's additions, at each step; its spikes wait for nobody. What is pooled can be 0 to 4 spikes, or one.
    (additions,) = work.work.rest
    assert (additions.kind, additions.first.total, additions.later.total) == ("additions", 4, 4)
    assert (additions.waiting_first, additions.waiting_later) == ((), ())
    assert [rest.kind for rest in gated.work.rest] == ["additions", "means and pooling"]
    assert [rest.later.compare for rest in gated.work.rest] == [0, 4]
    assert [facts.drives[1].spikes(1).bits for facts in (average, maximum)] == [3, 1]
    assert counts[1].spikes.max() > 1
    assert energy(maximum, 1) > 0
    assert not work.work.uncounted + gated.work.uncounted


def test_one_step_keeps_nothing():
    facts, _, work = facts_and_counts(two_layers(), {"b": BaselineNeurons(threshold=ONE, start=0.5)}, 1)
    longer, _, _ = facts_and_counts(two_layers(), {"b": BaselineNeurons(threshold=ONE, start=0.5)}, 2)
    assert work.state_bits == 0
    assert energy(facts, 1) == energy(longer, 1)

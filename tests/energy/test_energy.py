"""Energy: worked numbers, and the estimate against the count."""

from dataclasses import replace

import numpy as np
import pytest
import spiking
import tiny

from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.energy.account import account
from pmsm_cli.energy.constants import EnergyProfile, Picojoule
from pmsm_cli.energy.estimate import estimate_spikes
from pmsm_cli.errors import UsageError
from pmsm_cli.graph.sites import AnalogLayer, Reader, Site, SitePlan
from pmsm_cli.runtime.count import SiteCount, SpikeCount, count_spikes

PROFILE = EnergyProfile(
    name="round",
    description="",
    source="made up",
    assumptions=("none",),
    picojoule=Picojoule(mac_fp32=4.0, accumulate_fp32=1.0, mac_int8=0.5, accumulate_int8=0.25),
)
READS_IMAGE = AnalogLayer(node="stem", op_type="Conv", reason="reads the image", macs=1000)
LATER = AnalogLayer(node="mix", op_type="Conv", reason="computed", macs=500, every_step=True)
UNKNOWN = AnalogLayer(node="odd", op_type="Einsum", reason="no spiking form yet", macs=None)


def manifest_of(timesteps: int, *analog: AnalogLayer) -> Manifest:
    """Two sites: 10 neurons that drive 2000 multiply-accumulates, 30 that drive 3000."""
    checkpoint = spiking.checkpoint_of(tiny.convolutional(), tiny.images(2))
    sites = tuple(
        Site(
            name=name,
            channel_axis=-3,
            channels=1,
            neurons=neurons,
            readers=(Reader(node=f"{name} layer", op_type="Conv", macs=macs),),
        )
        for name, neurons, macs in (("p", 10, 2000), ("q", 30, 3000))
    )
    plan = SitePlan(sites=sites, analog_layers=analog, other_ops={})
    return replace(checkpoint.manifest, timesteps=timesteps, plan=plan)


def counts(*steps: tuple[float, float]) -> SpikeCount:
    """Of each step the synaptic operations of both sites; a fifth as many spikes, a tenth as many neurons that fire."""
    sites = [
        SiteCount(
            name=name,
            neurons=neurons,
            spikes=np.array([step[k] for step in steps]) / 200,
            firing=np.array([step[k] for step in steps]) / 400,
            synaptic_ops=np.array([step[k] for step in steps]),
        )
        for k, (name, neurons) in enumerate((("p", 10), ("q", 30)))
    ]
    return SpikeCount(images=7, sites=tuple(sites), skipped=())


def test_one_timestep_is_accounted_by_hand():
    report = account(manifest_of(1, READS_IMAGE), counts((400.0, 1200.0)), PROFILE)
    energy = report.energy_mj
    assert energy.ann == pytest.approx(6000 * 4.0e-9)
    assert energy.ann_int8 == pytest.approx(6000 * 0.5e-9)
    assert energy.snn_spiking == pytest.approx(1600 * 1.0e-9)
    assert energy.snn_analog == pytest.approx(1000 * 4.0e-9)
    assert energy.snn == pytest.approx(5600e-9)
    assert energy.snn_per_step == (pytest.approx(5600e-9),)
    assert report.ratio == pytest.approx(24000 / 5600)
    assert report.ratio_int8 == pytest.approx(3000 / 5600)
    assert (report.images, report.timesteps, report.profile, report.source) == (7, 1, "round", "made up")
    assert (report.macs, report.synaptic_ops) == (6000, (1600.0,))
    assert report.spikes_per_neuron == (pytest.approx(8 / 40),)
    assert report.firing_rate == (pytest.approx(100 * 4 / 40),)
    assert report.assumptions[-1] == "none"
    first, second = report.sites
    assert (first.name, first.readers, first.neurons, first.macs) == ("p", ("p layer",), 10, 2000)
    assert (first.spikes_per_neuron, first.firing_rate) == ((0.2,), (10.0,))
    assert (second.spikes_per_neuron, second.firing_rate) == ((0.2,), (10.0,))
    assert first.ann_mj == pytest.approx(8000e-9)
    assert (first.snn_mj, second.snn_mj) == (pytest.approx(400e-9), pytest.approx(1200e-9))
    assert first.break_even_spikes == 4.0


def test_layers_that_follow_spikes_cost_again_at_every_timestep():
    report = account(manifest_of(3, READS_IMAGE, LATER), counts((400.0, 1200.0), (100.0, 0.0), (0.0, 50.0)), PROFILE)
    steps = [1600 + 6000, 100 + 2000, 50 + 2000]
    assert report.energy_mj.snn_per_step == tuple(pytest.approx(step * 1e-9) for step in steps)
    assert report.energy_mj.snn == pytest.approx(sum(steps) * 1e-9)
    assert report.energy_mj.snn_analog == pytest.approx(10000e-9)
    assert report.energy_mj.ann == pytest.approx(6500 * 4e-9)  # the source computes everything once
    assert report.synaptic_ops == (1600.0, 100.0, 50.0)


def test_a_layer_of_unknown_size_is_said_to_be_left_out():
    report = account(manifest_of(1, UNKNOWN), counts((400.0, 1200.0)), PROFILE)
    assert report.assumptions[-2:] == (
        "none",
        "odd (Einsum) is not counted, on either side: its work is not known",
    )


def test_a_silent_network_has_no_ratio():
    report = account(manifest_of(1), counts((0.0, 0.0)), PROFILE)
    assert (report.energy_mj.snn, report.ratio, report.ratio_int8) == (0.0, None, None)


def test_the_estimate_agrees_with_the_count_on_the_calibration_images():
    images = tiny.images(40)
    checkpoint = spiking.checkpoint_of(tiny.residual(), images, levels=15)
    estimated = estimate_spikes(checkpoint)
    counted = count_spikes(checkpoint, spiking.batches_of(images, 16))
    assert estimated.images == 0
    for guess, truth in zip(estimated.sites, counted.sites, strict=True):
        assert guess.neurons == truth.neurons
        # Sites behind others see values that spikes have changed already.
        np.testing.assert_allclose(guess.spikes, truth.spikes, rtol=0.02)
        np.testing.assert_allclose(guess.firing, truth.firing, rtol=0.02)
        np.testing.assert_allclose(guess.synaptic_ops, truth.synaptic_ops, rtol=0.04)
    first = (estimated.sites[0], counted.sites[0])  # this one sees what calibration saw
    np.testing.assert_allclose(first[0].spikes, first[1].spikes, rtol=2e-3)


def test_more_timesteps_cannot_be_estimated():
    checkpoint = spiking.checkpoint_of(tiny.convolutional(), tiny.images(4), timesteps=2)
    with pytest.raises(UsageError, match="the spikes of later timesteps have to be measured"):
        estimate_spikes(checkpoint)

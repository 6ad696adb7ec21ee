"""The networks side by side: every part of a bill worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import spiking
import tiny

from pmsm_cli.energy.account import account
from pmsm_cli.energy.columns import ANN, ANN_INT8, QUANTISED, QUANTISING, SNN, SNN_INT8, Bill, Map
from pmsm_cli.energy.constants import (
    EnergyProfile,
    MemoryLevel,
    NeuronPicojoule,
    Picojoule,
    RestPicojoule,
    SpikeSize,
)
from pmsm_cli.energy.findings import findings
from pmsm_cli.energy.profile import open_profile
from pmsm_cli.energy.records import ColumnReport, EnergyReport
from pmsm_cli.graph.operations import Operations
from pmsm_cli.graph.work import LayerWork, RestWork, Work
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.runtime.count import count_spikes

ARITHMETIC = EnergyProfile(
    name="round",
    description="",
    source="made up",
    assumptions=(),
    picojoule=Picojoule(mac_fp32=5.0, accumulate_fp32=1.0, mac_int8=0.5, accumulate_int8=0.1),
)
NEAR, MIDDLE, FAR = (
    MemoryLevel(name="near", size=16, access=64.0),  # 1 pJ a bit
    MemoryLevel(name="middle", size=1000, access=128.0),
    MemoryLevel(name="far", size=None, access=6400.0),
)
MEMORY = replace(ARITHMETIC, memory=(NEAR, MIDDLE, FAR))
REST = replace(ARITHMETIC, rest=RestPicojoule(compare=2.0, exponential=3.0, divide=4.0, root=6.0))
LAYER = LayerWork(weights=30, constant=True, inputs=20, outputs=6)
WORK = Work(layers={("a", 0): LAYER}, rest=(), uncounted=())
# 20 neurons, of which 4 fire, 6 synapses each; a spike has 2 bits.
SPIKES = Map(neurons=20, firing=4.0, events=24.0, macs=120, bits=2, layers=(LAYER,))
DENSE = Map(neurons=20, firing=20.0, events=120.0, macs=120, bits=8, layers=(LAYER,))


def bill(profile: EnergyProfile, state_bits: float = 0) -> Bill:
    return Bill(profile, WORK, state_bits=state_bits)


def test_arithmetic_is_billed_by_each_network_s_own_operations():
    by = bill(ARITHMETIC)
    assert by.dense(DENSE, ANN).compute == 120 * 5.0
    assert by.dense(DENSE, ANN_INT8).compute == 120 * 0.5
    # The product of 8 bits with 2 costs a quarter of 0.4; 24 of 120 products are not with 0.
    assert by.quantised(SPIKES, QUANTISED).compute == pytest.approx(24 * (0.1 + 0.1))
    assert by.spiking(SPIKES, SNN, 40.0).compute == 40 * 1.0
    assert by.spiking(SPIKES, SNN_INT8, 40.0).compute == pytest.approx(40 * 0.1)
    assert by.dense(DENSE, ANN).memory == by.spiking(SPIKES, SNN, 40.0).memory == 0


def test_a_dense_layer_reads_operands_nearby_and_everything_once_from_its_home():
    # 160 bits of values and 240 bits of weights live in the middle, 2 pJ a bit; an operation reads 8 + 8 bits nearby.
    operands, weights, read, written = 120 * 16 * 1, 240 * 2, 160 * 2, 160 * 2
    assert bill(MEMORY).dense(DENSE, ANN_INT8).memory == operands + weights + read + written


def test_weights_live_where_all_of_the_network_s_do():
    large = replace(WORK, layers={("a", 0): LAYER, ("b", 0): replace(LAYER, weights=2000)})
    before = bill(MEMORY).dense(DENSE, ANN_INT8).memory
    after = Bill(MEMORY, large, state_bits=0).dense(DENSE, ANN_INT8).memory
    assert after - before == 240 * (100 - 2)


def test_what_lives_nearby_is_not_fetched():
    small = Map(neurons=2, firing=2.0, events=12.0, macs=12, bits=8, layers=(replace(LAYER, weights=6),))
    by = Bill(MEMORY, replace(WORK, layers={("a", 0): replace(LAYER, weights=6)}), state_bits=0)
    assert by.dense(small, ANN_INT8).memory == 12 * 16 + 16  # the operands, and the map written


def test_few_spikes_are_followed_one_by_one_and_many_layer_by_layer():
    # 4 spikes of 5 + 2 bits, as few bits as they are, against a map of 40; both live nearby.
    written = 28 * 1
    by_event = 24 * (8 + 64) * 1 + 28 * 1 + 24 / 30 * 240 * 2
    dense = 120 * (8 + 2) * 1 + 240 * 2
    assert by_event > dense
    cost = bill(MEMORY).quantised(SPIKES, QUANTISED)
    assert cost.memory == pytest.approx(written + dense)
    rare = replace(SPIKES, firing=1.0, events=6.0)
    seldom = bill(MEMORY).quantised(rare, QUANTISED)
    assert seldom.memory == pytest.approx(7 + 6 * 72 + 7 + 6 / 30 * 240 * 2)
    assert bill(MEMORY).spiking(rare, SNN_INT8, 9.0).memory == seldom.memory
    # What grows with the spikes: their sums, and following them.
    assert bill(MEMORY).spiking(rare, SNN_INT8, 9.0).variable == pytest.approx(9 * 0.1 + 6 * 72 + 7)
    assert bill(MEMORY).spiking(SPIKES, SNN_INT8, 9.0).variable == pytest.approx(9 * 0.1)


def test_membranes_are_written_for_the_next_step_and_read_from_the_one_before():
    by = bill(MEMORY, state_bits=7000)  # of all layers, in the middle
    assert [by.kept(500, step=step, timesteps=3).memory for step in range(3)] == [1000, 2000, 1000]
    assert by.kept(500, step=0, timesteps=1).memory == 0
    assert bill(MEMORY, state_bits=9000).kept(500, step=0, timesteps=2).memory == 500 * 100


def test_graded_spikes_are_events_whatever_their_size():
    profile = replace(
        MEMORY,
        picojoule=replace(ARITHMETIC.picojoule, graded_event=20.0),
        spike=SpikeSize.GRADED,
        neuron=NeuronPicojoule(active=8.0, idle=5.0, spike=2.0),
    )
    for column in (SNN, SNN_INT8):
        cost = bill(profile, 7000).spiking(SPIKES, column, 999.0)
        assert (cost.compute, cost.memory, cost.variable) == (24 * 20, 0, 24 * 20)
    assert bill(profile, 7000).neurons(20, 4.0, QUANTISING).compute == 4 * 8 + 16 * 5 + 4 * 2
    assert bill(profile, 7000).kept(500, step=1, timesteps=3).memory == 0  # part of the event


def test_the_rest_is_billed_in_whole_numbers_where_that_can_be():
    by = bill(REST)
    linear = Operations(add=1, multiply=10, compare=100)
    assert by.arithmetic(linear, integer=False) == 1 * 1.0 + 10 * 4.0 + 100 * 2.0
    assert by.arithmetic(linear, integer=True) == pytest.approx(1 * 0.1 + 10 * 0.4 + 100 * 0.1)
    curved = linear + Operations(exponential=1, divide=1, root=1)
    assert by.arithmetic(curved, integer=True) == by.arithmetic(curved, integer=False) == 241 + 3 + 4 + 6
    assert bill(ARITHMETIC).arithmetic(curved, integer=False) == 0  # counted, not billed


def test_neurons_and_quantisers_cost_a_product_and_three_comparisons():
    neuron = 4.0 + 3 * 2.0
    assert bill(REST).neurons(20, 4.0, QUANTISING).compute == 20 * neuron
    assert bill(REST).dense(DENSE, ANN_INT8).compute == 120 * 0.5 + 20 * neuron
    assert bill(REST).dense(DENSE, ANN).compute == 120 * 5.0


def test_what_waits_is_written_and_read_and_constants_are_fetched():
    rest = RestWork(
        kind="softmax",
        added=False,
        operators=1,
        first=Operations(add=1),
        later=Operations(add=2),
        waiting_first=(4, 100),
        waiting_later=(4,),
        constants_first=10,
        constants_later=0,
    )
    by = Bill(replace(MEMORY, rest=REST.rest), replace(WORK, rest=(rest,)), state_bits=0)
    assert by.rest(rest, ANN_INT8).memory == 2 * 32 * 1 + 2 * 800 * 2 + 80 * 2
    later = by.rest(rest, SNN_INT8, later=True)
    assert (later.memory, later.compute) == (2 * 32 * 1, pytest.approx(2 * 0.1))


def test_resting_values_are_biases_of_a_machine_that_has_neurons():
    rest = RestWork(
        kind="resting values",
        added=True,
        operators=1,
        first=Operations(add=5),
        later=Operations(),
        waiting_first=(),
        waiting_later=(),
        constants_first=0,
        constants_later=0,
    )
    chip = replace(REST, neuron=NeuronPicojoule(active=8.0, idle=5.0, spike=2.0))
    assert (bill(REST).rest(rest, SNN).compute, bill(chip).rest(rest, SNN).compute) == (5.0, 0.0)
    assert bill(chip).rest(rest, QUANTISED).compute == bill(REST).rest(rest, QUANTISED).compute > 0


def report_of(profile: EnergyProfile, timesteps: int = 1, coding: Coding = Coding.REFINE) -> EnergyReport:
    images = tiny.images(12)
    checkpoint = spiking.checkpoint_of(tiny.convolutional(), images, timesteps=timesteps, coding=coding, levels=3)
    return account(checkpoint.manifest, count_spikes(checkpoint, spiking.batches_of(images, 5)), profile)


@pytest.mark.parametrize("name", ["45nm", "45nm-memory", "loihi2"])
@pytest.mark.parametrize("timesteps", [1, 3])
def test_a_report_adds_up(name: str, timesteps: int):
    report = report_of(open_profile(name), timesteps)
    energy = report.energy_mj
    parts = [*report.sites, *report.analog_layers, *report.rest]
    for column in report.columns:
        assert column.total_mj == pytest.approx(column.compute_mj + column.memory_mj)
        assert column.total_mj == pytest.approx(sum(part.columns[column.name].total for part in parts))
        assert getattr(energy, column.name) == column.total_mj
        assert column.over_snn == pytest.approx(column.total_mj / energy.snn)
        assert column.over_snn_int8 == pytest.approx(column.total_mj / energy.snn_int8)
    assert energy.snn == pytest.approx(energy.snn_spiking + energy.snn_analog)
    assert energy.snn == pytest.approx(sum(energy.snn_per_step))
    assert energy.snn_int8 == pytest.approx(sum(energy.snn_int8_per_step))
    assert len(energy.snn_per_step) == timesteps
    assert report.memory_billed == any(column.memory_mj for column in report.columns)
    assert report.version == 2


@pytest.mark.parametrize("name", ["45nm", "45nm-memory"])
def test_at_the_break_even_both_networks_cost_the_same(name: str):
    report, profile = report_of(open_profile(name)), open_profile(name)
    here = sum(report.spikes_per_neuron)
    source = report.columns[0]
    assert source.break_even is not None
    assert (source.break_even > here) == (source.over_snn > 1)
    images = tiny.images(12)
    checkpoint = spiking.checkpoint_of(tiny.convolutional(), images, levels=3)
    count = count_spikes(checkpoint, spiking.batches_of(images, 5))
    factor = source.break_even / here
    if name == "45nm":  # where all that spikes cause is proportional to them
        sites = tuple(
            replace(site, spikes=site.spikes * factor, synaptic_ops=site.synaptic_ops * factor) for site in count.sites
        )
        there = account(checkpoint.manifest, replace(count, sites=sites), profile)
        assert there.energy_mj.snn == pytest.approx(there.energy_mj.ann)


def test_no_number_of_spikes_breaks_even_with_what_costs_less_than_silence():
    report = report_of(replace(ARITHMETIC, picojoule=replace(ARITHMETIC.picojoule, mac_int8=0.001, accumulate_int8=0)))
    int8 = report.columns[1]
    assert int8.break_even is None  # the analog layer alone costs more
    assert int8.over_snn is not None
    assert int8.over_snn < 1


def test_at_one_timestep_the_quantised_network_moves_the_same_data():
    report = report_of(open_profile("45nm-memory"))
    quantised, int8 = report.columns[2], report.columns[4]
    assert quantised.name == "quantised"
    assert int8.name == "snn_int8"
    assert quantised.memory_mj == pytest.approx(int8.memory_mj)


def test_the_quantised_network_is_as_fine_as_all_timesteps_together():
    # Three steps of `refine` tell four times as many levels apart, of `rate` three times as many: two bits more.
    one, refined, rated = (
        report_of(ARITHMETIC, timesteps, coding)
        for timesteps, coding in ((1, Coding.REFINE), (3, Coding.REFINE), (3, Coding.RATE))
    )
    for report in (refined, rated):
        for first, later in zip(one.sites, report.sites, strict=True):
            # More values are told from 0, and each product is wider.
            assert later.columns["quantised"].compute > first.columns["quantised"].compute
            bits = 4 if first.negative_levels == 0 else 5
            product = 0.4 * bits / 8 + 0.1
            assert later.columns["quantised"].compute <= later.macs * product * 1e-9 * 1.0001


def test_a_profile_that_bills_memory_needs_to_know_the_layers():
    images = tiny.images(4)
    checkpoint = spiking.checkpoint_of(tiny.convolutional(), images)
    count = replace(count_spikes(checkpoint, spiking.batches_of(images, 4)), work=None)
    with pytest.raises(ValueError, match=r"count\.work"):
        account(checkpoint.manifest, count, MEMORY)


def test_events_are_taken_from_sizes_where_they_were_not_counted():
    images = tiny.images(12)
    checkpoint = spiking.checkpoint_of(tiny.convolutional(), images, levels=3)
    count = count_spikes(checkpoint, spiking.batches_of(images, 12))
    bare = replace(
        count,
        work=None,
        sites=tuple(replace(site, events=None, nonzero=None, nonzero_ops=None) for site in count.sites),
    )
    full, guess = (account(checkpoint.manifest, each, ARITHMETIC) for each in (count, bare))
    for one, other in zip(full.sites, guess.sites, strict=True):
        np.testing.assert_allclose(other.synaptic_events, one.synaptic_events, rtol=0.1)
    assert guess.energy_mj.snn == full.energy_mj.snn


def column(name: str, over_snn: float | None, over_snn_int8: float | None) -> ColumnReport:
    return ColumnReport(
        name=name,
        label=name,
        compute_mj=1,
        memory_mj=0,
        total_mj=1,
        over_snn=over_snn,
        over_snn_int8=over_snn_int8,
        break_even=None,
        break_even_int8=None,
    )


def test_what_is_better_and_what_is_worse_is_said_in_a_sentence_each():
    columns = [column("ann", 3.0, 90.0), column("ann_int8", 0.125, 4.5), column("quantised", 0.05, 0.8)]
    assert findings([*columns, column("snn", 1.0, 29.0)]) == (
        "With fp32 weights the spiking network takes 3.00x less energy than the source in fp32; with int8 weights "
        "90x less energy than the source in fp32 and 4.50x less than the source in int8.",
        "With fp32 weights the spiking network takes 8.00x more energy than the source in int8 and 20x more than "
        "the equally precise quantised network; with int8 weights 1.25x more energy than the equally precise "
        "quantised network.",
    )
    assert findings([column("ann", 2.0, 2.0)])[1] is None
    assert findings([column("ann", None, None)]) == (None, None)
    assert findings([column("ann", 1.0, 0.9999)]) == (None, None)  # told apart by nobody

"""Spending spikes where errors reach the output: the table of what thresholds cost, prices, and fewest levels."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from observing import observe

from pmsm_cli.calibration.allocation import (
    MOST_LEVELS,
    SiteCost,
    neurons_at,
    neurons_of_precision,
    price_for,
    rate_table,
    smoothed_loss,
)
from pmsm_cli.calibration.emission import Neurons, squared_error


def half_normal(channels: int = 1, count: int = 20000, scale: float = 1.0) -> np.ndarray:
    return scale * np.abs(np.random.default_rng(3).normal(size=(channels, count)))


def cost(values: np.ndarray, *, error: float = 1.0, neurons: float = 1.0) -> SiteCost:
    table = rate_table(observe(values), may_rest=False)
    return SiteCost(table=table, error=np.full(len(values), error), neurons=neurons)


def test_the_table_holds_the_distortion_and_the_spikes_of_the_values_themselves():
    values = half_normal()
    table = rate_table(observe(values), may_rest=False)
    for index in (6, 18, 30):
        theta = float(table.threshold[0, index])
        spikes = np.round(values / theta)
        assert table.distortion[0, index] == pytest.approx(np.mean((values - theta * spikes) ** 2), rel=0.05)
        assert table.spikes[0, index] == pytest.approx(spikes.mean(), rel=0.02)


def test_a_finer_threshold_costs_more_spikes_and_distorts_less():
    table = rate_table(observe(half_normal()), may_rest=False)
    assert (np.diff(table.spikes[0]) >= 0).all()
    assert table.distortion[0, 24] < table.distortion[0, 12] / 10


def test_a_busy_channel_that_may_rest_costs_fewer_spikes_at_the_same_distortion():
    values = 5 + np.random.default_rng(0).normal(size=(1, 20000))
    still, resting = (rate_table(observe(values), may_rest=may) for may in (False, True))
    np.testing.assert_allclose(resting.distortion[0, 12:30], still.distortion[0, 12:30], rtol=0.05)
    assert (resting.spikes[0, 12:30] < still.spikes[0, 12:30] / 3).all()


def test_a_mean_error_costs_nothing_where_means_are_matched_again():
    values = 0.3 + 0.01 * np.random.default_rng(0).normal(size=(1, 20000))
    values[0, 0] = 1.0
    plain, matched = (rate_table(observe(values), may_rest=False, means_matched=means) for means in (False, True))
    silent = int((plain.threshold[0] > 0.8).nonzero()[0][-1])  # all but one value are rounded to 0
    assert plain.distortion[0, silent] == pytest.approx(0.09, rel=0.05)
    assert matched.distortion[0, silent] == pytest.approx(1e-4, rel=0.3)
    np.testing.assert_array_equal(matched.spikes, plain.spikes)


def test_the_price_found_gives_the_predicted_error_that_was_asked_for():
    costs = {"a": cost(half_normal()), "b": cost(half_normal(scale=3), error=0.2)}
    for wanted in (0.3, 0.1, 0.03):
        price = price_for(costs, wanted)
        predicted = sum(each.predicted_error(price) for each in costs.values()) ** 0.5
        assert wanted / 1.25 < predicted <= wanted  # thresholds are tried an eighth of an octave apart


def test_no_other_thresholds_of_the_same_error_cost_fewer_spikes():
    costs = [cost(half_normal()), cost(half_normal(scale=2), error=0.05, neurons=4.0)]
    price = price_for(dict(zip("ab", costs, strict=True)), 0.1)
    chosen = [int(each.choice(price)[0]) for each in costs]

    def totals(indices: list[int]) -> tuple[float, float]:
        pairs = list(zip(costs, indices, strict=True))
        return (
            sum(float(each.error[0] * each.table.distortion[0, k]) for each, k in pairs),
            sum(float(each.neurons * each.table.spikes[0, k]) for each, k in pairs),
        )

    error, spikes = totals(chosen)
    candidates = range(costs[0].table.threshold.shape[1])
    others = [totals([one, other]) for one in candidates for other in candidates]
    assert min(total for bad, total in others if bad <= error) == pytest.approx(spikes)


def test_a_channel_whose_errors_matter_more_gets_the_finer_threshold():
    values = np.repeat(half_normal(), 2, axis=0)
    table = rate_table(observe(values), may_rest=False)
    important = SiteCost(table=table, error=np.array([1.0, 0.01]), neurons=1.0)
    chosen = neurons_at(observe(values), important, price_for({"site": important}, 0.1))
    assert chosen.threshold[0] < chosen.threshold[1] / 2


def test_neurons_of_a_precision_have_it_in_every_channel_and_are_no_finer():
    values = np.concatenate([half_normal(), half_normal(scale=50)])
    seen = observe(values)
    chosen = neurons_of_precision(seen, rate_table(seen, may_rest=False), 300)
    ratio = np.square(values).mean(axis=1) / squared_error(seen, Neurons.of(chosen, 2))
    assert (ratio >= 290).all()
    assert (ratio < 600).all()


def test_levels_reach_no_further_than_is_worth_it():
    values = np.concatenate([half_normal(), [[20.0]]], axis=1)  # one value in 20,000 lies far out
    seen = observe(values)
    site = cost(values)
    chosen = neurons_at(seen, site, price_for({"site": site}, 0.4))
    needed = round(20 / float(chosen.threshold))
    assert chosen.positive_levels < needed
    full = float(squared_error(seen, Neurons.of(chosen, 1)._replace(positive_levels=needed))[0])
    assert float(squared_error(seen, Neurons.of(chosen, 1))[0]) <= 1.03 * full


def test_levels_chosen_are_the_fewest_whose_error_is_tolerated():
    values = np.random.default_rng(5).standard_t(3, size=(3, 4000)) * np.array([[1.0], [4.0], [0.3]])
    seen = observe(values)
    site = SiteCost(table=rate_table(seen, may_rest=False), error=np.array([1.0, 0.1, 5.0]), neurons=1.0)
    chosen = neurons_at(seen, site, price_for({"site": site}, 0.3))
    binned = seen.merged(512)

    def error(negative: int, positive: int) -> float:
        limited = Neurons.of(chosen, 3)._replace(negative_levels=negative, positive_levels=positive)
        return float(site.error @ squared_error(binned, limited))

    tolerated = 1.02 * error(MOST_LEVELS, MOST_LEVELS)
    positive = next(levels for levels in range(1, 256) if error(MOST_LEVELS, levels) <= tolerated)
    negative = next(levels for levels in range(256) if error(levels, positive) <= tolerated)
    assert (chosen.negative_levels, chosen.positive_levels) == (negative, positive)


def test_dead_channels_and_constant_tensors_get_usable_neurons():
    values = np.concatenate([half_normal(), np.zeros((1, 20000))])
    site = cost(values)
    chosen = neurons_at(observe(values), site, price_for({"site": site}, 0.1))
    assert chosen.threshold[1] == chosen.threshold[0]
    nothing = cost(np.zeros((2, 50)))
    chosen = neurons_at(observe(np.zeros((2, 50))), nothing, 1.0)
    assert (chosen.threshold > 0).all()
    assert 1 <= chosen.positive_levels <= MOST_LEVELS


SAMPLES = Path(__file__).parent.parent.parent / "sample_models"
DIGITS, IMAGES, TEST = SAMPLES / "digits.onnx", SAMPLES / "digits" / "calibration", SAMPLES / "digits" / "test"
SETTINGS = ["--data", IMAGES, "--preprocess", "none", "--threads", 1, "--json"]


def test_levels_found_keep_the_target_with_fewer_spikes_than_even_levels_do(pmsm, tmp_path):
    found = pmsm("convert", DIGITS, *SETTINGS, "--target-drop", 1, "-o", tmp_path / "auto.onnx")
    assert found.code == 0, found.err
    allocation = found.record["allocation"]
    assert allocation["kept"]
    assert allocation["measure"] == "top-1"
    assert allocation["drop"] <= 1
    assert allocation["chosen"] in allocation["curve"]
    spikes = [point["spikes_per_neuron"] for point in allocation["curve"]]
    assert spikes == sorted(spikes)
    even = pmsm("convert", DIGITS, *SETTINGS, "--levels", 15, "-o", tmp_path / "even.onnx")
    assert found.record["mean_spikes"] < 0.75 * even.record["mean_spikes"]
    result = pmsm("eval", tmp_path / "auto.onnx", TEST, "--against", DIGITS, "--threads", 1, "--json").record
    assert result["ann"]["top1"] - result["snn"]["top1"] <= 3  # 200 images measure a point no better than that


def test_without_labels_agreement_stands_in_for_accuracy(pmsm, tmp_path):
    images = tmp_path / "images.npy"
    from pmsm_cli.sources.images import open_images, read_batches
    from pmsm_cli.sources.preprocessing import InputShape, Layout, resolve_preprocessing

    shape = InputShape(height=8, width=8, channel_count=1, layout=Layout.NCHW)
    batches = read_batches(open_images(IMAGES), resolve_preprocessing("none", shape), 64)
    np.save(images, np.concatenate([batch.inputs for batch in batches]))
    found = pmsm("convert", DIGITS, "--data", images, *SETTINGS[2:], "-o", tmp_path / "auto.onnx")
    assert found.code == 0, found.err
    assert found.record["allocation"]["measure"] == "agreement"
    assert all(point["top1"] is None for point in found.record["allocation"]["curve"])


MAPS = """
<ir_version: 8, opset_import: ["" : 17]>
maps (float[N, 1, 8, 8] image) => (float[N, 2, 8, 8] map)
{
   a = Conv <pads = [1, 1, 1, 1]> (image, w)
   b = Relu (a)
   map = Conv <pads = [1, 1, 1, 1]> (b, v)
}
"""


NUMBER = """
<ir_version: 8, opset_import: ["" : 17]>
number (float[N, 1, 8, 8] image) => (float[N, 1] logit)
{
   a = Conv <pads = [1, 1, 1, 1]> (image, w)
   b = Relu (a)
   c = Conv <pads = [1, 1, 1, 1]> (b, v)
   d = GlobalAveragePool (c)
   logit = Flatten (d)
}
"""


@pytest.mark.parametrize(("graph", "outputs"), [(MAPS, 2), (NUMBER, 1)], ids=["maps", "a number"])
def test_without_classes_levels_are_aimed_at_an_error_of_the_output(pmsm, tmp_path, graph, outputs):
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(graph)
    weights = {"w": (6, 1, 3, 3), "v": (outputs, 6, 3, 3)}
    for name, shape in weights.items():
        weight = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "net.onnx")
    found = pmsm("convert", tmp_path / "net.onnx", *SETTINGS, "-o", tmp_path / "spiking.onnx")
    assert found.code == 0, found.err
    allocation = found.record["allocation"]
    assert allocation["measure"] == "output error"
    assert allocation["kept"]
    # A number that is mostly the same for all images is not let off further than a fifth of what it varies by.
    least = 0.7 * allocation["target_drop"] if graph is MAPS else 0
    assert least <= allocation["drop"] <= allocation["target_drop"]
    assert len(allocation["curve"]) <= 4


def test_labels_of_another_network_are_noticed_and_left_aside(pmsm, tmp_path):
    """Each digit lies in the folder of the next one."""
    for index in range(10):
        shutil.copytree(IMAGES / str(index), tmp_path / "images" / str((index + 1) % 10))
    target = tmp_path / "auto.onnx"
    shown = pmsm("convert", DIGITS, "--data", tmp_path / "images", *SETTINGS[2:], "--target-drop", 1, "-o", target)
    assert shown.code == 0
    assert "warning: the source gets hardly more of the labels right than chance would" in shown.err
    assert shown.record["allocation"]["measure"] == "agreement"


def test_a_target_that_nothing_keeps_ends_with_code_5_and_the_file_is_there(pmsm, tmp_path, monkeypatch):
    monkeypatch.setattr("pmsm_cli.pipeline.levels._ERRORS", (0.9,))
    target = tmp_path / "auto.onnx"
    shown = pmsm("convert", DIGITS, *SETTINGS[:-1], "--target-drop", 0, "-o", target)
    assert shown.code == 5
    assert "no point keeps that, the finest was taken" in shown.out
    assert "error: no levels keep top-1 within 0 points: " in shown.err
    assert f"{target} was written with these\nhint: " in shown.err
    assert target.exists()


def test_a_calibration_file_remembers_how_levels_were_found(pmsm, tmp_path):
    file, target = tmp_path / "d.json", tmp_path / "d.onnx"
    made = pmsm("calibrate", DIGITS, IMAGES, *SETTINGS[2:], "--target-drop", 1, "-o", file)
    assert made.code == 0, made.err
    direct = pmsm("convert", DIGITS, *SETTINGS, "--target-drop", 1, "-o", target)
    images = [*SETTINGS[:2], "--calibration", file]
    copied = pmsm("convert", DIGITS, *images, "-o", tmp_path / "again.onnx", "--json")
    assert copied.record["allocation"] == direct.record["allocation"] == made.record["allocation"]
    assert (tmp_path / "again.onnx").read_bytes() == target.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--levels", 7], "--target-drop finds the levels, --levels 7 sets them\nhint: leave out one of the two"),
        (["--method", "mse"], "--target-drop goes by entropy, --method mse does not\nhint: leave out one of the two"),
    ],
)
def test_a_target_beside_what_contradicts_it_is_refused(pmsm, tmp_path, options, message):
    shown = pmsm("convert", DIGITS, *SETTINGS, "--target-drop", 1, *options, "-o", tmp_path / "x.onnx")
    assert (shown.code, shown.err) == (2, f"error: {message}\n")


def test_a_target_without_images_is_refused(pmsm, tmp_path):
    shown = pmsm("convert", DIGITS, "--target-drop", 1, "-o", tmp_path / "x.onnx")
    assert shown.code == 2
    assert "--target-drop has to measure what is lost\nhint: pass --data IMAGES as well" in shown.err


@pytest.mark.parametrize("wrong", ["none", "0", "-3", "3.5", "70000"])
def test_levels_that_are_neither_auto_nor_a_number_are_refused(pmsm, tmp_path, wrong):
    shown = pmsm("convert", DIGITS, *SETTINGS, f"--levels={wrong}", "-o", tmp_path / "x.onnx")
    assert shown.code == 2
    assert f"'{wrong}' is neither auto nor a number from 1 to 65535" in shown.err


def test_losses_are_smoothed_over_all_points_by_the_likeliest_power_of_the_error():
    for power in (2.0, 3.0, 4.0):
        points = [(error, 0.002 * error**power) for error in (16.0, 8.0, 4.0)]
        for error in (16.0, 10.0, 2.0):
            assert smoothed_loss(points, error) == pytest.approx(0.002 * error**power)
    # A lucky point and an unlucky one beside it are both taken for what lies between.
    points = [(10.0, 1.0), (8.0, 0.2), (7.0, 0.8), (5.0, 0.25)]
    assert 0.4 < smoothed_loss(points, 8.0) < 0.8
    assert 0.3 < smoothed_loss(points, 7.0) < 0.7


def test_a_loss_is_none_where_nothing_was_lost_and_gains_do_not_make_up_for_losses():
    assert smoothed_loss([], 5.0) == 0
    assert smoothed_loss([(5.0, -0.3), (3.0, 0.0)], 5.0) == 0
    assert smoothed_loss([(6.0, 0.9), (3.0, -0.9)], 6.0) > 0.8
    assert smoothed_loss([(6.0, 0.9), (0.0, 0.0)], 0.0) == pytest.approx(0, abs=1e-6)

"""`pmsm compare`: one network by several methods, as a table, JSON, Markdown and a picture."""

import copy
import json
from pathlib import Path

import onnx
import pytest
import tiny
from conftest import fails, first_column, shows, write_images

from pmsm_cli.baselines.methods import Baseline
from pmsm_cli.errors import CheckFailedError

METHODS = ["pmsm-refine", "pmsm-rate", *Baseline]
DIGITS = Path(__file__).parent.parent.parent / "sample_models/digits"
QUICK = ["--preprocess", "none", "--levels", "7", "-T", "1,2,5"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, network: Path, pictures: Path):
    """The record of one comparison, and the files written beside it."""
    folder = tmp_path_factory.mktemp("compared")
    from pmsm_cli.cli.app import run

    options = ["--data", str(pictures), "--calibration-data", str(pictures), *QUICK]
    files = ["-o", str(folder / "c.json"), "--plot", str(folder / "c.png")]
    assert run(["compare", str(network), *options, *files]) == 0
    return json.loads((folder / "c.json").read_text()), folder


def by_name(record) -> dict:
    return {method["name"]: method for method in record["methods"]}


def test_the_record_has_every_method_after_every_number_of_timesteps(compared):
    record, _ = compared
    assert record.keys() == {
        "version", "source", "images", "origin", "calibration_images", "calibration_origin", "within", "measure",
        "profile", "profiles", "ann", "methods", "assumptions", "seed", "skipped", "warnings",
    }  # fmt: skip
    assert (record["version"], record["profile"], record["profiles"]) == (2, "45nm", ["45nm", "45nm-memory"])
    assert record["ann"].keys() == {
        "top1", "energy_mj", "energy_int8_mj", "energy_by_profile", "energy_int8_by_profile",
    }  # fmt: skip
    assert (record["source"], record["images"], record["measure"]) == ("convolutional", 40, "top-1")
    assert [method["name"] for method in record["methods"]] == METHODS
    for method in record["methods"]:
        assert method.keys() == {
            "name", "title", "paper", "tried", "neurons", "reason", "points", "first_within",
        }  # fmt: skip
        assert [point["timesteps"] for point in method["points"]] == [1, 2, 5]
        for point in method["points"]:
            assert point.keys() == {
                "timesteps", "top1", "agreement", "output_error", "spikes_per_neuron", "synaptic_ops", "energy_mj",
                "energy_by_profile", "setting",
            }  # fmt: skip
            assert point["energy_by_profile"]["45nm"] == point["energy_mj"]
            assert point["energy_by_profile"]["45nm-memory"] > point["energy_mj"]
            assert 0 <= point["top1"] <= 100
        for key in ("spikes_per_neuron", "synaptic_ops", "energy_mj"):
            assert min(point[key] for point in method["points"]) > 0
    ours = record["methods"][0]
    assert len({point["setting"] for point in ours["points"]}) == ours["tried"] == 1
    assert all(method["tried"] > 3 for method in record["methods"][2:])


def test_a_baseline_emits_no_more_than_one_spike_a_step(compared):
    for method in compared[0]["methods"][2:]:
        for point in method["points"]:
            assert 0 < point["spikes_per_neuron"] <= point["timesteps"]


def test_the_first_sufficient_number_of_timesteps_is_the_first_that_keeps_the_accuracy(compared):
    record, _ = compared
    for method in record["methods"]:
        kept = [point for point in method["points"] if record["ann"]["top1"] - point["top1"] <= record["within"]]
        assert method["first_within"] == (kept[0] if kept else None)


def test_energy_is_the_first_layer_once_and_an_accumulate_a_synaptic_operation(compared):
    record, _ = compared
    analog = 3 * 4 * (8 * 8 * 9 - 92)  # products of the first layer, padding left out
    for method in record["methods"]:
        for point in method["points"]:
            expected = 1e-9 * (4.6 * analog + 0.9 * point["synaptic_ops"])
            assert point["energy_mj"] == pytest.approx(expected, rel=1e-9)


def energies_agree(pmsm, record, point, target, pictures) -> None:
    """Ours and the source's, by every profile, with those of `pmsm report` for the same checkpoint and images."""
    assert len(record["profiles"]) == 2
    for profile in record["profiles"]:
        reported = pmsm("report", target, "--data", pictures, "--profile", profile, "--json").record["energy_mj"]
        ann = record["ann"]
        assert point["energy_by_profile"][profile] == pytest.approx(reported["snn"], rel=1e-12)
        assert ann["energy_by_profile"][profile] == pytest.approx(reported["ann"], rel=1e-12)
        assert ann["energy_int8_by_profile"][profile] == pytest.approx(reported["ann_int8"], rel=1e-12)


@pytest.mark.parametrize("coding", ["refine", "rate"])
def test_our_rows_are_what_convert_eval_and_report_give(pmsm, compared, network, pictures, tmp_path, coding):
    target = tmp_path / "x.onnx"
    options = ["--data", pictures, "--preprocess", "none", "--levels", "7", "--coding", coding, "-T", "5"]
    assert pmsm("convert", network, *options, "-o", target).code == 0
    evaluated = pmsm("eval", target, pictures, "--against", network, "--json").record
    reported = pmsm("report", target, "--data", pictures, "--json").record
    last = by_name(compared[0])[f"pmsm-{coding}"]["points"][-1]
    assert last["top1"] == evaluated["snn"]["top1"]
    assert last["agreement"] == evaluated["agreement"]
    assert last["synaptic_ops"] == pytest.approx(sum(reported["synaptic_ops"]))
    assert last["spikes_per_neuron"] == pytest.approx(sum(reported["spikes_per_neuron"]))
    energies_agree(pmsm, compared[0], last, target, pictures)


@pytest.mark.parametrize("profile", ["45nm-memory", "loihi2"])
def test_every_method_is_billed_by_the_profile_chosen(pmsm, compared, network, pictures, profile):
    options = ["--data", pictures, "--calibration-data", pictures, *QUICK, "--profile", profile, "--json"]
    record = pmsm("compare", network, *options).record
    assert (record["profile"], record["profiles"]) == (profile, [profile])
    beside = by_name(compared[0])
    for method in record["methods"]:
        energies = [point["energy_mj"] for point in method["points"]]
        assert energies == sorted(energies)
        for point, other in zip(method["points"], beside[method["name"]]["points"], strict=True):
            assert point["synaptic_ops"] == other["synaptic_ops"]
            if profile == "45nm-memory":
                assert point["energy_mj"] == other["energy_by_profile"][profile]


def test_the_same_command_gives_the_same_figures_and_a_table(pmsm, compared, network, pictures, tmp_path):
    options = ["--data", pictures, "--calibration-data", pictures, *QUICK, "-o", tmp_path / "again.json"]
    shown = pmsm("compare", network, *options)
    assert (shown.code, shown.err) == (0, f"written to {tmp_path / 'again.json'}\n")
    assert json.loads((tmp_path / "again.json").read_text()) == compared[0]
    for text in (
        "QCFS",
        "signed with memory",
        "rate, max norm",
        "polarity multi-spike, refine",
        "2303.04347",
        "seed 0",
    ):
        assert text in shown.out


def test_a_plot_is_drawn(compared):
    assert (compared[1] / "c.png").read_bytes().startswith(b"\x89PNG")


def test_without_labels_agreement_decides_and_broken_images_are_named(pmsm, network, tmp_path):
    write_images(tmp_path / "x", 20)
    (tmp_path / "x" / "broken.png").write_bytes(b"no picture")
    shown = pmsm("compare", network, "--data", tmp_path / "x", *QUICK, "--within", "30", "--json")
    assert shown.code == 0
    assert "--calibration-data names another one" in shown.err
    record = shown.record
    assert (record["images"], record["measure"], record["ann"]["top1"]) == (20, "agreement", None)
    assert [Path(each["name"]).name for each in record["skipped"]] == ["broken.png"]
    for method in record["methods"]:
        kept = [point for point in method["points"] if point["agreement"] >= 70]
        assert method["first_within"] == (kept[0] if kept else None)


def test_a_network_without_classes_is_compared_by_its_output_error(pmsm, tmp_path):
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 2, 8, 8] map) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Relu (a)
            map = Conv (b, w2)
        }""",
        w1=tiny.weights(4, 3, 3, 3),
        w2=tiny.weights(2, 4, 1, 1),
    )
    write_images(tmp_path / "x", 12)
    source = tiny.save(proto, tmp_path / "map.onnx")
    record = pmsm("compare", source, "--data", tmp_path / "x", *QUICK, "--json").record
    assert record["measure"] is None
    for method in record["methods"]:
        assert method["first_within"] is None
        errors = [point["output_error"] for point in method["points"]]
        assert errors[-1] < errors[0] or method["name"] == "rate-max"


def signed_network() -> onnx.ModelProto:
    """A sum without an activation, and a gate."""
    return tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Relu (a)
            c = Conv (b, w2)
            d = Conv (c, w3)
            s = Sigmoid (d)
            e = Conv (s, w4)
            f = GlobalAveragePool (e)
            h = Flatten (f)
            r = Relu (h)
            scores = Gemm (r, w5)
        }""",
        w1=tiny.weights(4, 3, 3, 3),
        w2=tiny.weights(4, 4, 1, 1),
        w3=tiny.weights(4, 4, 1, 1, seed=1),
        w4=tiny.weights(4, 4, 1, 1, seed=2),
        w5=tiny.weights(4, 5),
    )


def test_methods_that_do_not_apply_say_why_and_ours_are_measured(pmsm, pictures, tmp_path):
    source = tiny.save(signed_network(), tmp_path / "signed.onnx")
    options = ["compare", source, "--data", pictures, *QUICK]
    shown = pmsm(*options, "-o", tmp_path / "signed.json")
    assert shown.code == 0
    reason = "of 4 tensors that synapses read 1 needs negative values; 1 more does not come out of a ReLU"
    for method in json.loads((tmp_path / "signed.json").read_text())["methods"]:
        ours = method["name"].startswith("pmsm")
        assert method["reason"] == (None if ours else reason)
        assert len(method["points"]) == (3 if ours else 0)
    assert shows(first_column(shown.out), "QCFS: not applicable")
    assert shows(shown.out, f"QCFS does not apply: {reason}")


def test_one_timestep_is_compared_without_a_second_coding(pmsm, network, pictures, tmp_path):
    options = ["--data", pictures, "--preprocess", "none", "--levels", "7", "-T", "1"]
    record = pmsm("compare", network, *options, "--json").record
    assert [method["name"] for method in record["methods"]] == ["pmsm-refine", *Baseline]
    assert all(len(method["points"]) == 1 for method in record["methods"])
    assert pmsm("convert", network, *options, "-o", tmp_path / "x.onnx").code == 0
    energies_agree(pmsm, record, record["methods"][0]["points"][0], tmp_path / "x.onnx", pictures)


def test_baselines_of_a_fixed_batch_give_the_figures_of_an_open_one(pmsm, compared, pictures, tmp_path):
    fixed = tiny.save(tiny.convolutional(batch=4), tmp_path / "fixed.onnx")
    options = ["--data", pictures, "--calibration-data", pictures, *QUICK, "--json"]
    other = by_name(pmsm("compare", fixed, *options).record)
    for name in Baseline:
        method = copy.deepcopy(by_name(compared[0])[name])
        for mine, theirs in zip(method["points"], other[name]["points"], strict=True):
            assert mine.pop("setting") == theirs.pop("setting")
            assert {key: pytest.approx(value, rel=1e-5) for key, value in mine.items()} == theirs


@pytest.mark.parametrize("steps", ["0,1", "2,1", "1,1", "1,two", "1,,2", "1.5", "1,4096"])
def test_numbers_of_timesteps_that_are_no_rising_list_are_refused(pmsm, network, pictures, steps):
    message = f"{steps!r} is not a rising list of numbers from 1 to 1024\nhint: pmsm compare --help"
    fails(pmsm("compare", network, "--data", pictures, "-T", steps), 2, f"Invalid value: {message}")


def test_labels_beyond_the_network_s_classes_are_refused(pmsm, network, tmp_path):
    for index in range(6):
        write_images(tmp_path / "many" / f"{index}", 1)
    shown = pmsm("compare", network, "--data", tmp_path / "many", *QUICK)
    assert shown.code == 3
    assert "its labels need 6 classes, the network has 5" in shown.err


def test_the_source_must_be_a_network_and_not_a_checkpoint(pmsm, checkpoint, pictures):
    shown = pmsm("compare", checkpoint, "--data", pictures)
    assert shown.code == 3
    assert "is a spiking checkpoint already" in shown.err


def test_an_unknown_energy_profile_is_refused_before_the_work(pmsm, network, pictures):
    shown = pmsm("compare", network, "--data", pictures, "--profile", "3nm", *QUICK)
    assert (shown.code, shown.out) == (3, "")
    assert "unknown energy profile '3nm'" in shown.err


def test_training_adds_a_row_of_ours_and_one_of_qcfs(pmsm, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torch")
    # What refitting leaves of a network this small is too little for two epochs to be sure to lessen it.
    monkeypatch.setattr("pmsm_cli.pipeline.conversion.can_refit", lambda *_: False)
    options = ["--data", DIGITS / "test", "--calibration-data", DIGITS / "calibration", "--preprocess", "none"]
    options += ["-T", "1,2,5", "--samples", "40", "--levels", "2", "--finetune", "2", "--json"]
    shown = pmsm("compare", DIGITS.with_suffix(".onnx"), *options)
    assert shown.code == 0
    methods = by_name(shown.record)
    assert list(methods) == ["pmsm-refine", "pmsm-rate", "pmsm-finetuned", *Baseline, "qcfs-finetuned"]
    assert [point["timesteps"] for point in methods["pmsm-finetuned"]["points"]] == [1]
    assert [point["timesteps"] for point in methods["qcfs-finetuned"]["points"]] == [1, 2, 5]
    for name in ("pmsm-finetuned", "qcfs-finetuned"):
        assert methods[name]["reason"] is None
        assert all("trained for" in point["setting"] for point in methods[name]["points"])
    assert shown.err.count("before training: loss") == 3


def test_training_that_does_not_help_is_said(pmsm, network, pictures, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torch")

    def fail(*args: object, **kwargs: object) -> None:
        raise CheckFailedError("no epoch came closer than the start")

    monkeypatch.setattr("pmsm_cli.finetune.training.finetune", fail)
    options = ["--preprocess", "none", "--levels", "7", "-T", "1", "--finetune", "1"]
    methods = by_name(pmsm("compare", network, "--data", pictures, *options, "--json").record)
    for name in ("pmsm-finetuned", "qcfs-finetuned"):
        assert methods[name]["reason"] == "no epoch came closer than the start"
        assert (methods[name]["points"], methods[name]["first_within"]) == ([], None)

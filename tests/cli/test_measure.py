"""`pmsm inspect`, `eval`, `run` and `report`: tables, JSON keys and files."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tiny
from conftest import CLASSES, fails, write_images
from PIL import Image

from pmsm_cli.sources.images import open_images, read_batches
from pmsm_cli.sources.preprocessing import Channels, Layout, Preprocessing

PLAIN = Preprocessing(height=8, width=8, channels=Channels.RGB, layout=Layout.NCHW)


def outputs_of(path: Path, images: Path) -> dict[str, np.ndarray]:
    """What stock onnxruntime makes of all images of a folder."""
    (batch,) = read_batches(open_images(images), PLAIN, 1000)
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": batch.inputs}), strict=True))


LABELS = np.repeat(np.arange(5), 8)  # of `pictures`


def percent(right: np.ndarray) -> float:
    return pytest.approx(100 * right.mean(), abs=1e-3)


def among_best(scores: np.ndarray, count: int) -> np.ndarray:
    return (np.argsort(-scores, axis=1)[:, :count] == LABELS[:, None]).any(axis=1)


# inspect


def test_inspect_says_what_spikes_and_what_stays_analog_and_why(pmsm, network):
    shown = pmsm("inspect", network)
    assert (shown.code, shown.err) == (0, "")
    for text in ("What becomes spikes", "Conv", "Gemm", "reads the image (direct coding)", "1 Flatten"):
        assert text in shown.out
    macs = (3 * 4 * (8 * 8 * 9 - 92), 4 * 6 * (8 * 8 * 9 - 92), 6 * 5)  # 92 products with padding
    share = 100 * (macs[1] + macs[2]) / sum(macs)
    assert f"2 tensors become spikes and drive {share:.1f} % of " in shown.out


def test_inspect_gives_the_plan_as_json(pmsm, network):
    record = pmsm("inspect", network, "--json").record
    assert record.keys() == {
        "sites", "analog_layers", "other_ops", "spiking_share", "spiking_macs", "total_macs", "checkpoint"
    }  # fmt: skip
    assert [site["name"] for site in record["sites"]] == ["b", "f"]
    assert [layer["op_type"] for layer in record["analog_layers"]] == ["Conv"]
    assert record["other_ops"] == {"Flatten": 1, "GlobalAveragePool": 1, "Relu": 2}
    assert record["checkpoint"] is None
    assert record["spiking_share"] == pytest.approx(100 * record["spiking_macs"] / record["total_macs"])


@pytest.mark.parametrize("name", ["one.onnx", "three.onnx"])
def test_inspect_shows_a_checkpoints_thresholds_and_levels(pmsm, checkpoints, calibration_file, name):
    shown = pmsm("inspect", checkpoints / name)
    assert (shown.code, shown.err) == (0, "")
    assert "threshold" in shown.out
    record = pmsm("inspect", checkpoints / name, "--json").record
    for site in json.loads(calibration_file.read_text())["sites"]:
        assert f"{-site['negative_levels']} to {site['positive_levels']}" in shown.out
    assert record["checkpoint"]["timesteps"] == {"one.onnx": 1, "three.onnx": 3}[name]
    assert record["checkpoint"]["source_name"] == "convolutional"


# eval


def test_eval_gives_accuracy_and_agreement_as_the_outputs_have_it(pmsm, checkpoint, network, pictures):
    shown = pmsm("eval", checkpoint, pictures, "--against", network, "--json")
    assert (shown.code, shown.err) == (0, "")
    record = shown.record
    spiking, source = outputs_of(checkpoint, pictures)["scores"], outputs_of(network, pictures)["scores"]
    assert record.keys() >= {"images", "timesteps", "ann", "snn", "agreement"}
    assert (record["images"], record["timesteps"]) == (40, 1)
    for name, scores in (("snn", spiking), ("ann", source)):
        assert record[name]["top1"] == percent(scores.argmax(1) == LABELS)
        assert record[name]["top5"] == percent(among_best(scores, 5))
    assert record["snn"]["top1_per_step"] == [record["snn"]["top1"]]
    assert record["agreement"] == percent(spiking.argmax(1) == source.argmax(1))
    error = 100 * np.linalg.norm(spiking - source) / np.linalg.norm(source)
    assert record["outputs"][0]["relative_error"] == pytest.approx(error, rel=1e-3)


def test_a_folder_that_lacks_a_class_is_measured_by_its_folders_names(pmsm, checkpoint, pictures, tmp_path: Path):
    some = tmp_path / "some"
    shutil.copytree(pictures, some)
    shutil.rmtree(some / CLASSES[0])
    shown = pmsm("eval", checkpoint, some, "--json")
    predicted = outputs_of(checkpoint, pictures)["scores"].argmax(1)
    assert (shown.err, shown.record["images"]) == ("", 32)
    assert shown.record["snn"]["top1"] == percent(predicted[8:] == LABELS[8:])
    accuracy = pmsm("report", checkpoint, "--data", some, "--json").record["accuracy"]
    assert accuracy["top1_per_step"] == [shown.record["snn"]["top1"]]


@pytest.mark.parametrize("command", ["eval", "report", "diff"])
def test_a_folder_of_fewer_classes_of_other_names_is_warned_of(pmsm, checkpoint, network, tmp_path: Path, command):
    for name in ("one", "two"):
        write_images(tmp_path / "other" / name, 4)
    path = tmp_path / "other"
    options = {"eval": [path], "report": ["--data", path], "diff": ["--data", path, "--against", network]}[command]
    shown = pmsm(command, checkpoint, *options)
    assert shown.code == 0
    assert shown.err == (
        f"warning: {path}: its 2 class folders are taken for classes 0 to 1 of 5: the network's classes do not have their "
        "names\n"
    )


def test_another_network_of_the_same_name_is_warned_of(pmsm, checkpoint, pictures, tmp_path: Path):
    twin = tiny.save(tiny.convolutional(seed=40), tmp_path / "convolutional.onnx")
    shown = pmsm("eval", checkpoint, pictures, "--against", twin)
    assert shown.err == (
        f"warning: {twin} is another convolutional than the one that the checkpoint was made from, by its weights or its export\n"
    )


def test_a_report_s_form_and_its_file_s_ending_may_not_contradict_each_other(pmsm, checkpoint, tmp_path: Path):
    target = tmp_path / "r.json"
    shown = pmsm("report", checkpoint, "--format", "html", "-o", target)
    fails(shown, 2, f"--format html and the ending of {target} contradict each other")
    assert not target.exists()


def test_eval_gives_every_step_of_a_checkpoint_with_several(pmsm, stepwise, network, pictures):
    record = pmsm("eval", stepwise, pictures, "--against", network, "--json").record
    steps = outputs_of(stepwise, pictures)["scores_per_step"]
    source = outputs_of(network, pictures)["scores"]
    assert record["timesteps"] == 3
    assert record["snn"]["top1_per_step"] == [percent(step.argmax(1) == LABELS) for step in steps]
    assert record["snn"]["top1"] == record["snn"]["top1_per_step"][-1]
    assert record["agreement_per_step"] == [percent(step.argmax(1) == source.argmax(1)) for step in steps]
    errors = record["outputs"][0]["per_step"]
    assert errors == sorted(errors, reverse=True)


def test_eval_without_the_source_gives_the_spiking_network_alone(pmsm, checkpoint, pictures):
    record = pmsm("eval", checkpoint, pictures, "--json").record
    assert (record["ann"], record["agreement"]) == (None, None)
    assert record["snn"]["top1"] == percent(outputs_of(checkpoint, pictures)["scores"].argmax(1) == LABELS)


def test_eval_without_labels_gives_agreement_alone(pmsm, checkpoint, network, pictures):
    record = pmsm("eval", checkpoint, pictures / "bee", "--against", network, "--json").record
    assert record["snn"] == record["ann"] == {"top1": None, "top5": None, "top1_per_step": None}
    assert record["agreement"] is not None


def test_eval_shows_one_row_a_step(pmsm, stepwise, network, pictures):
    shown = pmsm("eval", stepwise, pictures, "--against", network)
    assert (shown.code, shown.err) == (0, "")
    assert "40 images" in shown.out
    for text in ("top-1", "top-5", "agreement", "source", "spiking, T = 1", "spiking, T = 2", "spiking, T = 3"):
        assert text in shown.out


def test_eval_draws_the_samples_that_the_seed_says(pmsm, checkpoint, network, pictures):
    def errors(seed: int) -> float:
        arguments = ["--against", network, "--samples", 3, "--seed", seed, "--json"]
        record = pmsm("eval", checkpoint, pictures, *arguments).record
        assert record["images"] == 3
        return record["outputs"][0]["relative_error"]

    assert errors(1) == errors(1)
    assert errors(1) != errors(2)


@pytest.mark.parametrize("threads", [1, 2])
def test_eval_gives_the_same_whatever_the_threads(pmsm, checkpoint, pictures, threads):
    record = pmsm("eval", checkpoint, pictures, "--threads", threads, "--json").record
    assert record["snn"]["top1"] == percent(outputs_of(checkpoint, pictures)["scores"].argmax(1) == LABELS)


def test_eval_reads_an_array_file_with_labels(pmsm, checkpoint, pictures, tmp_path: Path):
    pixels = [np.asarray(Image.open(path)) for path in sorted(pictures.rglob("*.png"))]
    np.savez(tmp_path / "x.npz", x=np.stack(pixels), y=LABELS)
    from_array = pmsm("eval", checkpoint, tmp_path / "x.npz", "--json").record
    assert from_array == pmsm("eval", checkpoint, pictures, "--json").record


def test_eval_passes_when_the_drop_is_within_bounds(pmsm, stepwise, network, pictures):
    assert pmsm("eval", stepwise, pictures, "--against", network, "--max-drop", 100).code == 0


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of the same shape as `network` that says something else of every image."""
    return tiny.save(tiny.convolutional(seed=40), tmp_path_factory.mktemp("stranger") / "stranger.onnx")


def test_eval_fails_with_code_5_when_top_1_drops_too_far(pmsm, stranger, checkpoint, pictures, tmp_path: Path):
    pixels = [np.asarray(Image.open(path)) for path in sorted(pictures.rglob("*.png"))]
    right = outputs_of(stranger, pictures)["scores"].argmax(1)
    np.savez(tmp_path / "x.npz", x=np.stack(pixels), y=right)
    shown = pmsm("eval", checkpoint, tmp_path / "x.npz", "--against", stranger, "--max-drop", 1.5, "--json")
    assert shown.record["ann"]["top1"] == 100
    drop = 100 * (outputs_of(checkpoint, pictures)["scores"].argmax(1) != right).mean()
    assert drop > 1.5
    assert (shown.code, shown.err) == (
        5,
        f"warning: {stranger} is not the network that the checkpoint was made from (convolutional)\n"
        f"error: {checkpoint}: lost {drop:.2f} points, 1.5 were allowed\n"
        "hint: convert with more --levels or --timesteps\n",
    )


def test_eval_fails_with_code_5_when_agreement_drops_too_far_without_labels(pmsm, stranger, checkpoint, pictures):
    shown = pmsm("eval", checkpoint, pictures / "ant", "--against", stranger, "--max-drop", 1)
    assert shown.code == 5
    assert f"\nerror: {checkpoint}: lost " in shown.err


def test_a_bound_where_there_are_no_classes_is_refused(pmsm, networks, pictures, tmp_path: Path):
    source, target = networks / "one_layer.onnx", tmp_path / "out.onnx"
    assert pmsm("convert", source, "--spiking-input", "--data", pictures, "-o", target).code == 0
    shown = pmsm("eval", target, pictures, "--against", source, "--max-drop", 1)
    assert (shown.code, shown.err) == (
        2,
        f"error: {target}: --max-drop compares classes, which the network gives no scores of\nhint: leave it out\n",
    )


# run


def test_run_prints_the_best_classes_of_each_image(pmsm, checkpoint, pictures):
    images = [pictures / "ant" / "000.png", pictures / "elk" / "007.png"]
    shown = pmsm("run", checkpoint, *images, "--top-k", 2, "--json")
    assert (shown.code, shown.err) == (0, "")
    assert shown.record.keys() == {"predictions", "skipped"}
    scores = outputs_of(checkpoint, pictures)["scores"]
    for prediction, index, path in zip(shown.record["predictions"], (0, 39), images, strict=True):
        best = np.argsort(-scores[index])[:2]
        assert prediction["image"] == str(path)
        assert [each["index"] for each in prediction["top"]] == best.tolist()
        assert [each["score"] for each in prediction["top"]] == pytest.approx(scores[index][best].tolist(), rel=1e-5)
        assert [each["label"] for each in prediction["top"]] == [CLASSES[k] for k in best]  # the calibration's folders


def test_run_prints_five_classes_of_all_images_of_a_folder_in_a_table(pmsm, checkpoint, pictures):
    shown = pmsm("run", checkpoint, pictures)
    assert (shown.code, shown.err) == (0, "")
    assert sum(shown.out.count(f"│ {name} ") for name in CLASSES) == 5 * 40
    assert "000.png" in shown.out


def test_run_prints_the_names_of_classes_from_a_file(pmsm, checkpoint, pictures, tmp_path: Path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(name.upper() for name in CLASSES))
    record = pmsm("run", checkpoint, pictures / "ant", "--labels", names, "--json").record
    for each in record["predictions"][0]["top"]:
        assert each["label"] == CLASSES[each["index"]].upper()


@pytest.mark.parametrize("name", ["one.onnx", "three.onnx"])
def test_run_writes_what_stock_onnxruntime_gives(pmsm, checkpoints, pictures, tmp_path: Path, name):
    target = tmp_path / "raw.npz"
    assert pmsm("run", checkpoints / name, pictures, "--outputs", target).code == 0
    expected = outputs_of(checkpoints / name, pictures)
    with np.load(target) as raw:
        assert set(raw) == set(expected)
        for key, value in expected.items():
            np.testing.assert_allclose(raw[key], value, rtol=1e-5, atol=1e-5)


def test_run_describes_outputs_that_are_no_scores(pmsm, networks, pictures, tmp_path: Path):
    target = tmp_path / "out.onnx"
    made = pmsm("convert", networks / "one_layer.onnx", "--spiking-input", "--data", pictures, "-o", target)
    assert made.code == 0
    record = pmsm("run", target, pictures / "ant" / "000.png", "--json").record
    (prediction,) = record["predictions"]
    assert prediction["top"] == []
    (output,) = prediction["outputs"]
    assert (output["name"], output["shape"]) == ("scores", [4, 8, 8])
    assert output["lowest"] <= output["mean"] <= output["highest"]
    assert "scores: 4x8x8" in pmsm("run", target, pictures / "ant" / "000.png").out


# report


@pytest.mark.parametrize("name", ["one.onnx", "three.onnx"])
def test_report_gives_spikes_and_energy_measured_on_images(pmsm, checkpoints, pictures, name):
    record = pmsm("report", checkpoints / name, "--data", pictures, "--json").record
    assert record.keys() >= {"energy_mj", "profile", "sites", "images", "timesteps"}
    assert (record["images"], record["profile"]) == (40, "45nm")
    energy = record["energy_mj"]
    assert energy.keys() >= {"ann", "snn"}
    assert energy["snn"] == pytest.approx(energy["snn_spiking"] + energy["snn_analog"])
    assert energy["snn"] == pytest.approx(sum(energy["snn_per_step"]))
    assert energy["ann"] == pytest.approx(record["macs"] * 4.6e-9)
    assert [site["name"] for site in record["sites"]] == ["b", "f"]
    assert all(len(site["spikes_per_neuron"]) == record["timesteps"] for site in record["sites"])


def test_report_estimates_from_the_calibration_when_there_are_no_images(pmsm, checkpoint, pictures):
    shown = pmsm("report", checkpoint)
    assert (shown.code, shown.err) == (0, "")
    assert "estimated from the calibration" in shown.out
    estimated = pmsm("report", checkpoint, "--json").record
    measured = pmsm("report", checkpoint, "--data", pictures, "--json").record
    assert estimated["images"] == 0
    assert estimated["energy_mj"]["ann"] == measured["energy_mj"]["ann"]
    assert estimated["energy_mj"]["snn"] == pytest.approx(measured["energy_mj"]["snn"], rel=0.1)


def test_report_prints_a_table_markdown_json_or_a_page(pmsm, checkpoint):
    forms = ("table", "md", "json", "html")
    table, markdown, json_, page = (pmsm("report", checkpoint, "--format", form) for form in forms)
    assert page.out.startswith("<!doctype html>")
    assert (page.code, page.err) == (0, "")
    assert "Spikes and energy per image" in table.out
    assert markdown.out.startswith("## Spikes and energy per image")
    assert json_.out == pmsm("report", checkpoint, "--json").out
    json.loads(json_.out)


@pytest.mark.parametrize("form", ["json", "md", "html"])
def test_report_writes_a_file_in_the_form_of_its_ending(pmsm, checkpoint, tmp_path: Path, form):
    target = tmp_path / f"r.{form}"
    shown = pmsm("report", checkpoint, "-o", target)
    assert (shown.code, shown.out, shown.err) == (0, "", f"written to {target}\n")
    assert target.read_text(encoding="utf-8") == pmsm("report", checkpoint, "--format", form).out


def test_report_writes_the_form_asked_for_whatever_the_ending(pmsm, checkpoint, tmp_path: Path):
    assert pmsm("report", checkpoint, "-o", tmp_path / "r.txt", "--format", "md").code == 0
    assert (tmp_path / "r.txt").read_text(encoding="utf-8").startswith("## ")


def test_report_prints_json_beside_the_file_when_asked_for_both(pmsm, checkpoint, tmp_path: Path):
    shown = pmsm("report", checkpoint, "-o", tmp_path / "r.md", "--json")
    assert shown.record["profile"] == "45nm"
    assert (tmp_path / "r.md").read_text(encoding="utf-8").startswith("## ")


def test_report_takes_the_users_own_constants(pmsm, checkpoint, tmp_path: Path):
    profile = tmp_path / "mine.toml"
    profile.write_text("[picojoule]\nmac_fp32 = 9.2\naccumulate_fp32 = 0\nmac_int8 = 1\naccumulate_int8 = 1\n")
    record = pmsm("report", checkpoint, "--profile", profile, "--json").record
    assert record["profile"] == "mine"
    assert record["energy_mj"]["ann"] == pytest.approx(record["macs"] * 9.2e-9)
    assert record["energy_mj"]["snn_spiking"] == 0
    assert pmsm("report", checkpoint, "--profile", profile).code == 0
    assert pmsm("report", checkpoint, "--profile", profile, "--format", "md").code == 0


@pytest.mark.parametrize("name", ["45nm", "45nm-memory", "loihi2"])
@pytest.mark.parametrize("made", ["one.onnx", "three.onnx"])
def test_report_gives_the_same_figures_on_repeat_in_every_profile(pmsm, checkpoints, pictures, name, made):
    arguments = ["report", checkpoints / made, "--data", pictures, "--profile", name, "--json"]
    first, again = pmsm(*arguments), pmsm(*arguments)
    assert (first.code, first.err) == (0, "")
    assert first.out == again.out
    assert first.record["version"] == 2
    assert first.record["profile"] == name
    assert [column["name"] for column in first.record["columns"]] == ["ann", "ann_int8", "quantised", "snn", "snn_int8"]
    assert first.record["constants"]


@pytest.mark.parametrize("name", ["one.onnx", "three.onnx"])
def test_report_gives_the_accuracy_that_eval_gives(pmsm, checkpoints, pictures, network, name):
    data = ["--against", network, "--json"]
    report = pmsm("report", checkpoints / name, "--data", pictures, *data).record["accuracy"]
    evaluated = pmsm("eval", checkpoints / name, pictures, *data).record
    assert report["top1_per_step"] == evaluated["snn"]["top1_per_step"]
    assert report["source_top1"] == evaluated["ann"]["top1"]
    assert report["agreement_per_step"] == evaluated["agreement_per_step"]
    alone = pmsm("report", checkpoints / name, "--data", pictures, "--json").record["accuracy"]
    assert alone["source_top1"] is None
    assert alone["top1_per_step"] == report["top1_per_step"]


def test_report_warns_of_another_source_and_of_labels_beyond_the_classes(pmsm, checkpoint, stranger, tmp_path: Path):
    for name in "abcdefg":
        write_images(tmp_path / "images" / name, 1)
    shown = pmsm("report", checkpoint, "--data", tmp_path / "images", "--against", stranger, "--json")
    assert (shown.code, shown.err) == (
        0,
        f"warning: {stranger} is not the network that the checkpoint was made from (convolutional)\n"
        f"warning: {tmp_path / 'images'}: its labels need more classes than the network has, so that there is no "
        "accuracy\n",
    )
    assert shown.record["accuracy"]["top1_per_step"] is None
    assert shown.record["accuracy"]["agreement_per_step"] is not None


def test_report_shows_ten_sites_and_all_of_them_on_request(pmsm, pictures, tmp_path: Path):
    layers = "".join(f"x{place + 1} = Conv (x{place}, w) " for place in range(14))
    proto = tiny.model(
        f"g (float[N, 3, 8, 8] image) => (float[N, 3, 8, 8] y) {{ x0 = Conv (image, w) {layers} y = Relu (x14) }}",
        w=tiny.weights(3, 3, 1, 1),
    )
    source, target = tiny.save(proto, tmp_path / "deep.onnx"), tmp_path / "deep.snn.onnx"
    made = pmsm("convert", source, "--data", pictures, "--preprocess", "none", "--levels", 3, "-o", target)
    assert made.code == 0
    some, everything = pmsm("report", target).out, pmsm("report", target, "--all").out
    assert "4 more (--all)" in some
    assert sum(f"│ x{place} " in some for place in range(14)) == 10
    assert sum(f"│ x{place} " in everything for place in range(14)) == 14
    assert "more (--all)" not in everything


def test_report_fits_a_narrow_terminal(pmsm, stepwise, pictures, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = pmsm("report", stepwise, "--data", pictures, "--profile", "45nm-memory").out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert "│ b " in shown

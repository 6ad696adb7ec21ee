"""`pmsm diff`: where a checkpoint's accuracy goes."""

from pathlib import Path

import onnx
import pytest
import tiny
from conftest import fails


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory, network: Path, pictures: Path) -> Path:
    """`network` with two levels a sign."""
    from pmsm_cli.cli.app import run

    target = tmp_path_factory.mktemp("coarse") / "coarse.onnx"
    options = ["--data", str(pictures), "--preprocess", "none", "--levels", "2"]
    assert run(["convert", str(network), *options, "-o", str(target)]) == 0
    return target


def test_the_record_has_every_site_by_falling_damage(pmsm, coarse, network, pictures):
    shown = pmsm("diff", coarse, "--against", network, "--data", pictures, "--json")
    assert (shown.code, shown.err) == (0, "")
    record = shown.record
    assert record.keys() == {
        "checkpoint", "source", "images", "probed_images", "timesteps", "source_top1", "top1", "agreement",
        "output_error", "sites", "bisection", "skipped", "warnings",
    }  # fmt: skip
    assert (record["images"], record["probed_images"], record["timesteps"]) == (40, 32, 1)
    assert {site["name"] for site in record["sites"]} == {"b", "f"}
    damages = [site["damage"] for site in record["sites"]]
    assert damages == sorted(damages, reverse=True)
    for site in record["sites"]:
        assert site.keys() == {
            "name", "readers", "neurons", "negative_levels", "positive_levels", "alone_db", "accumulated_db",
            "alone_cosine", "accumulated_cosine", "clipped", "clipped_error", "damage", "advice",
        }  # fmt: skip
        assert 0 < site["alone_db"] < 40
        assert 0.5 < site["accumulated_cosine"] < 1
    assert record["bisection"] is None


def test_the_accuracy_is_that_of_eval(pmsm, coarse, network, pictures):
    record = pmsm("diff", coarse, "--against", network, "--data", pictures, "--json").record
    evaluated = pmsm("eval", coarse, pictures, "--against", network, "--json").record
    assert record["top1"] == evaluated["snn"]["top1"]
    assert record["agreement"] == evaluated["agreement"]
    assert record["output_error"] == evaluated["outputs"][0]["relative_error"]


def test_more_timesteps_leave_less_error(pmsm, checkpoint, stepwise, network, pictures):
    def ratios(path: Path) -> dict[str, float]:
        record = pmsm("diff", path, "--against", network, "--data", pictures, "--json").record
        return {site["name"]: site["accumulated_db"] for site in record["sites"]}

    one, three = ratios(checkpoint), ratios(stepwise)
    assert all(three[name] > one[name] + 6 for name in one)


def test_bisect_names_tensors_that_keep_the_target_with_more_levels(pmsm, coarse, network, pictures):
    shown = pmsm("diff", coarse, "--against", network, "--data", pictures, "--bisect", "--json")
    assert shown.code == 0
    found = shown.record["bisection"]
    assert found.keys() == {
        "target_drop", "measure", "factor", "drop_before", "drop_everywhere", "drop", "kept", "sites", "tried",
    }  # fmt: skip
    assert found["target_drop"] == 0.5
    assert found["kept"] == (found["drop"] <= 0.5)
    assert set(found["sites"]) <= {"b", "f"}


def test_the_table_says_what_its_columns_are_and_what_to_try(pmsm, coarse, network, pictures):
    shown = pmsm("diff", coarse, "--against", network, "--data", pictures, "--bisect")
    assert shown.code == 0
    text = " ".join(shown.out.split())
    for part in ("what to try", "SNR (dB)", "more levels", "damage: error of the outputs", "points of", "agreement"):
        assert part in text


def test_a_target_that_more_levels_cannot_keep_ends_with_5_after_the_table(
    pmsm, coarse, network, pictures, monkeypatch
):
    monkeypatch.setattr("pmsm_cli.pipeline.bisection.Trial.drop", lambda self, finer: 7.0)
    monkeypatch.setattr("pmsm_cli.runtime.evaluate.Evaluation.drop", 9.0)
    shown = pmsm("diff", coarse, "--against", network, "--data", pictures, "--bisect", "--target-drop", "1")
    assert shown.code == 5
    assert "4 times the levels at all tensors still lose 7.00 points" in shown.err
    assert "what to try" in shown.out


def test_bisect_needs_one_timestep(pmsm, stepwise, network, pictures):
    message = (
        f"{stepwise}: has 3 timesteps; --bisect gives more levels at one\n"
        "hint: look at a checkpoint of `pmsm convert --timesteps 1`"
    )
    fails(pmsm("diff", stepwise, "--against", network, "--data", pictures, "--bisect"), 2, message)


def test_a_target_without_bisect_is_refused(pmsm, coarse, network, pictures):
    message = "--target-drop is what --bisect looks for: pass --bisect as well"
    fails(pmsm("diff", coarse, "--against", network, "--data", pictures, "--target-drop", "1"), 2, message)


def test_another_network_is_refused(pmsm, coarse, networks, pictures):
    shown = pmsm("diff", coarse, "--against", networks / "two_outputs.onnx", "--data", pictures)
    assert shown.code == 3
    assert "is not the network that the checkpoint was made from (convolutional)" in shown.err


def unlike() -> onnx.ModelProto:
    """The sizes of `network` outside, other tensors inside."""
    return tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            x = Flatten (image)
            y = Gemm (x, w1)
            z = Relu (y)
            scores = Gemm (z, w2)
        }""",
        w1=tiny.weights(192, 7),
        w2=tiny.weights(7, 5),
    )


@pytest.mark.parametrize(("make", "tensors"), [(unlike, ["b", "f"]), (tiny.residual, ["f: 6x8x8 here"])])
def test_a_network_of_the_same_sizes_without_the_tensors_is_refused(pmsm, coarse, pictures, tmp_path, make, tensors):
    other = tiny.save(make(), tmp_path / "other.onnx")
    lines = [f"{other}: has not {len(tensors)} of the 2 tensors that became spikes in the checkpoint", *tensors]
    hint = "hint: --against takes the file that the checkpoint was made from (convolutional)"
    fails(pmsm("diff", coarse, "--against", other, "--data", pictures), 3, "\n  ".join(lines) + f"\n{hint}")


def test_the_same_network_in_another_file_is_warned_of(pmsm, coarse, pictures, tmp_path):
    other = tiny.save(tiny.convolutional(seed=1), tmp_path / "other.onnx")
    shown = pmsm("diff", coarse, "--against", other, "--data", pictures, "--json")
    assert shown.code == 0
    assert f"{other} is not the network that the checkpoint was made from" in shown.err


def test_a_source_is_no_checkpoint(pmsm, network, pictures):
    shown = pmsm("diff", network, "--against", network, "--data", pictures)
    assert shown.code == 3
    assert "is not a spiking checkpoint" in shown.err

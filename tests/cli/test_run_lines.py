"""`pmsm run --lines`: results as they come, and runs that go on where another one ended."""

import itertools
import json

import onnx
import pytest
from conftest import fails, write_images

from pmsm_cli.checkpoint.lines import LineFile
from pmsm_cli.pipeline import measurement
from pmsm_cli.runtime.predict import predict


def read(path):
    """The results, which all say that they are of one checkpoint."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line.pop("checkpoint") for line in lines}) == 1
    return lines


def test_lines_hold_what_json_holds(pmsm, checkpoint, pictures, tmp_path):
    target = tmp_path / "results.jsonl"
    shown = pmsm("run", checkpoint, pictures, "--lines", target, "--json")
    assert shown.record == {"lines": str(target), "images": 40, "skipped": 0}
    assert read(target) == pmsm("run", checkpoint, pictures, "--json").record["predictions"]


def test_unreadable_images_are_lines_too(pmsm, checkpoint, tmp_path):
    write_images(tmp_path / "in", 3)
    (tmp_path / "in" / "001.png").write_bytes(b"no image")
    shown = pmsm("run", checkpoint, tmp_path / "in", "--lines", tmp_path / "out.jsonl")
    assert shown.err.endswith(f"3 image(s) written to {tmp_path / 'out.jsonl'}, 1 of them unreadable\n")
    (skipped,) = [line for line in read(tmp_path / "out.jsonl") if "skipped" in line]
    assert skipped == {"image": str(tmp_path / "in" / "001.png"), "skipped": "not an image file"}


def test_an_interrupted_run_goes_on_where_it_ended(pmsm, checkpoint, pictures, tmp_path, monkeypatch):
    target = tmp_path / "results.jsonl"

    def stopped(*arguments, **options):
        yield from itertools.islice(predict(*arguments, **options), 11)
        raise KeyboardInterrupt

    monkeypatch.setattr(measurement, "predict", stopped)
    fails(
        pmsm("run", checkpoint, pictures, "--lines", target),
        130,
        f"interrupted after 11 image(s), which {target} has\nhint: the same command with --resume goes on",
    )
    monkeypatch.undo()
    with target.open("a") as file:
        file.write('{"image": "cut sho')
    assert pmsm("run", checkpoint, pictures, "--lines", target, "--resume", "--json").record["images"] == 29
    assert read(target) == pmsm("run", checkpoint, pictures, "--json").record["predictions"]
    assert pmsm("run", checkpoint, pictures, "--lines", target, "--resume", "--json").record["images"] == 0


def test_results_are_in_the_file_before_the_next_ones_come(checkpoint, pictures, tmp_path):
    lines = LineFile(tmp_path / "x.jsonl", sha256="0" * 64, resume=False)
    lines.write({"image": "a"})
    assert read(tmp_path / "x.jsonl") == [{"image": "a"}]
    lines.close()


def test_a_file_that_is_there_is_not_lost(pmsm, checkpoint, pictures, tmp_path):
    target = tmp_path / "results.jsonl"
    target.write_text("precious\n")
    fails(
        pmsm("run", checkpoint, pictures, "--lines", target),
        4,
        f"{target}: is there already\nhint: pass --resume to go on with it, or name another file",
    )
    fails(
        pmsm("run", checkpoint, pictures, "--lines", target, "--resume"),
        3,
        f"{target}: its line 1 is no result of `pmsm run --lines`\nhint: name another file",
    )
    assert target.read_text() == "precious\n"


def test_results_of_another_checkpoint_are_not_gone_on_with(pmsm, checkpoint, pictures, tmp_path):
    target, other = tmp_path / "results.jsonl", tmp_path / "other.onnx"
    pmsm("run", checkpoint, pictures, "--lines", target)
    model = onnx.load(checkpoint)
    model.doc_string = "another one"
    onnx.save(model, other)
    written = target.read_text()
    fails(
        pmsm("run", other, pictures, "--lines", target, "--resume"),
        3,
        f"{target}: its line 1 is of another checkpoint\nhint: name another file",
    )
    assert target.read_text() == written


def test_lines_of_earlier_versions_do_not_say_whose_they_are(pmsm, checkpoint, pictures, tmp_path):
    target = tmp_path / "results.jsonl"
    target.write_text('{"image": "elsewhere.png"}\n')
    assert pmsm("run", checkpoint, pictures, "--lines", target, "--resume", "--json").record["images"] == 40


def test_resuming_needs_a_file(pmsm, checkpoint, pictures):
    fails(
        pmsm("run", checkpoint, pictures, "--resume"),
        2,
        "--resume goes on with a file of results: name it with --lines",
    )


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_folder_that_is_missing_is_named(pmsm, checkpoint, pictures, tmp_path, resume):
    target = tmp_path / "nowhere" / "x.jsonl"
    shown = pmsm("run", checkpoint, pictures, "--lines", target, *resume)
    assert shown.code == 4
    assert "the folder to write to does not exist" in shown.err


def test_a_file_of_something_else_without_an_end_of_line_is_refused_too(pmsm, checkpoint, pictures, tmp_path):
    target = tmp_path / "notes.txt"
    target.write_text("precious notes without an end")
    shown = pmsm("run", checkpoint, pictures, "--lines", target, "--resume")
    message = f"{target}: its line 1 is no result of `pmsm run --lines`\nhint: name another file"
    fails(shown, 3, message)
    assert target.read_text() == "precious notes without an end"


def test_a_run_that_fails_before_its_first_result_leaves_no_file(pmsm, checkpoint, tmp_path):
    target = tmp_path / "out.jsonl"
    assert pmsm("run", checkpoint, tmp_path / "nowhere", "--lines", target).code == 3
    assert not target.exists()

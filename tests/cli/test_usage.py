"""How the command line is used: help, wrong and contradicting options, places that cannot be written, odd names."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import fails
from PIL import Image

from pmsm_cli import __version__
from pmsm_cli.checkpoint import file as checkpoint_file
from pmsm_cli.cli.app import app

PMSM = [sys.executable, "-c", "from pmsm_cli.cli.app import main; main()"]
COMMANDS = {command.name or command.callback.__name__: command for command in app.registered_commands}


def plain(text: str) -> str:
    """Without the box that rich draws around the help, in one line."""
    return " ".join(re.sub("[╭╮╰╯─│]", " ", text).split())


# Help


def test_the_commands_are_those_that_are_documented():
    assert set(COMMANDS) >= {"convert", "calibrate", "inspect", "eval", "run", "report", "compare", "diff"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_shows_an_example(name):
    first, *rest = COMMANDS[name].callback.__doc__.strip().splitlines()
    assert first.endswith(".")
    assert any(line.strip().startswith(f"pmsm {name} ") for line in rest)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_one_that_the_parser_takes(name, monkeypatch: pytest.MonkeyPatch):
    (example,) = (line for line in COMMANDS[name].callback.__doc__.splitlines() if line.strip().startswith("pmsm "))
    group = typer.main.get_command(app)
    command = group.commands[name]
    command.make_context(name, shlex.split(example)[2:])  # raises where it does not


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_has_a_help_text(name):
    parameters = typer.main.get_command(app).commands[name].params
    assert len(parameters) > 1
    missing = [parameter.name for parameter in parameters if not parameter.help]
    assert missing == []


# What these mean depends on the command.
OF_EACH = {
    None,
    "--batch",
    "--all",
    "--data",
    "--finetune",
    "--labels",
    "--output",
    "--plot",
    "--samples",
    "--target-drop",
    "--timesteps",
}


def test_an_option_of_several_commands_has_one_default_and_one_text():
    described: dict[str, set[tuple[object, str]]] = {}
    for name in COMMANDS:
        for parameter in typer.main.get_command(app).commands[name].params:
            option = next((each for each in parameter.opts if each.startswith("--")), None)
            if option not in OF_EACH:
                described.setdefault(option, set()).add((parameter.default, parameter.help))
    assert {option: kinds for option, kinds in described.items() if len(kinds) > 1} == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_json_and_help(pmsm, name):
    shown = pmsm(name, "--help")
    assert (shown.code, shown.err) == (0, "")
    text = plain(shown.out)
    assert f"Usage: pmsm {name}" in text
    assert "--json" in text
    assert pmsm(name, "-h").out == shown.out


def test_help_lists_every_command(pmsm):
    shown = pmsm("--help")
    assert (shown.code, shown.err) == (0, "")
    for name in COMMANDS:
        assert f" {name} " in plain(shown.out)


def test_pmsm_alone_shows_the_help_once_and_fails(pmsm):
    shown = pmsm()
    assert (shown.code, shown.err) == (2, "")
    assert plain(shown.out).count("Usage: pmsm") == 1


def test_the_version_is_printed(pmsm):
    shown = pmsm("--version")
    assert (shown.code, shown.out, shown.err) == (0, f"pmsm {__version__}\n", "")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from pmsm_cli.cli.app import run; code = run(['--help'])\n"
        "heavy = {'torch', 'timm', 'numpy', 'onnx', 'onnx_ir', 'onnxscript', 'onnxruntime', 'PIL'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "0 []\n"


# Wrong options


def test_an_unknown_command_is_refused(pmsm):
    shown = pmsm("konvert")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: No such command 'konvert'.")
    assert shown.err.endswith("hint: pmsm --help\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_refused(pmsm, name):
    fails(pmsm(name, "x", "--xyzzy"), 2, f"No such option: --xyzzy\nhint: pmsm {name} --help")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_argument_is_refused(pmsm, name):
    shown = pmsm(name)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: Missing argument ")
    assert shown.err.endswith(f"\nhint: pmsm {name} --help\n")


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("convert", "--timesteps", "0"),
        ("convert", "--timesteps", "1.5"),
        ("convert", "--levels", "0"),
        ("convert", "--samples", "0"),
        ("convert", "--coding", "both"),
        ("convert", "--image-size", "0"),
        ("convert", "--seed", "-1"),
        ("calibrate", "--threads", "0"),
        ("eval", "--max-drop", "-1"),
        ("run", "--top-k", "0"),
        ("report", "--format", "pdf"),
        ("compare", "--within", "-1"),
        ("compare", "--samples", "0"),
        ("compare", "--levels", "none"),
    ],
)
def test_a_value_out_of_range_is_refused(pmsm, command, option, value):
    shown = pmsm(command, "x", "y", option, value)
    assert (shown.code, shown.out) == (2, "")
    assert f"Invalid value for '{option}'" in shown.err
    assert shown.err.endswith(f"hint: pmsm {command} --help\n")


# Contradictions, all found out before any work


CONTRADICTIONS = {
    "two sources of thresholds": (
        "convert {network} --calibration {calibration} --data {pictures} --no-refit",
        "--calibration brings its own thresholds, levels and moments: leave out --data\nhint: images beside it refit "
        "weights, without --no-refit",
    ),
    "levels for a calibration": (
        "convert {network} --calibration {calibration} --levels 3",
        "--calibration brings its own thresholds, levels and moments: leave out --levels",
    ),
    "moments for a calibration": (
        "convert {network} --calibration {calibration} --no-match-moments",
        "--calibration brings its own thresholds, levels and moments: leave out --no-match-moments",
    ),
    "a method and a target for a calibration": (
        "convert {network} --calibration {calibration} --method max --target-drop 1",
        "--calibration brings its own thresholds, levels and moments: leave out --target-drop and --method",
    ),
    "a report of later steps without images": (
        "convert {network} -T 2 --report {here}/r.md -o {here}/x.onnx",
        "--report has to measure the spikes of later timesteps\nhint: pass --data IMAGES as well",
    ),
    "a number of images of none": (
        "convert {network} --samples 9",
        "--samples 9 draws from --data, which is not given\nhint: pass --data IMAGES as well",
    ),
    "weights to be refitted on no images": (
        "convert {network} --refit",
        "--refit needs images to refit weights on\nhint: pass --data IMAGES as well",
    ),
    "a number of images of none to report on": (
        "report {checkpoint} --samples 9",
        "--samples 9 draws from --data, which is not given\nhint: pass --data IMAGES as well",
    ),
    "a report of unknown form": (
        "convert {network} --report {here}/r.pdf",
        "{here}/r.pdf: a report is written as .json, .md, .html, not .pdf",
    ),
    "a report without form": (
        "report {checkpoint} -o {here}/r",
        "{here}/r: a report is written as .json, .md, .html, not without an ending",
    ),
    "a size for a network that has one": (
        "inspect {network} --image-size 9 --json",
        "",
    ),
    "options of a source for a checkpoint": (
        "inspect {checkpoint} --preprocess none",
        "{checkpoint}: is a checkpoint, in which all is settled: "
        "leave out --preprocess, --image-size and --spiking-input",
    ),
    "a bound without a source": (
        "eval {checkpoint} {pictures} --max-drop 1",
        "--max-drop compares with the source: name it with --against",
    ),
    "two forms of one comparison": (
        "compare {network} --data {pictures} --json --format md",
        "--json and --format md contradict each other\nhint: with --output, one of them may be a file",
    ),
    "a comparison drawn in an unknown form": (
        "compare {network} --data {pictures} --plot {here}/c.bmp",
        "{here}/c.bmp: a plot is written as .png, .svg, .pdf, not .bmp",
    ),
    "a comparison over the source": (
        "compare {network} --data {pictures} -o {here}/x.json --plot {here}/../here/x.json",
        "{here}/../here/x.json: a plot is written as .png, .svg, .pdf, not .json",
    ),
    "two forms of one report": (
        "report {checkpoint} --json --format md",
        "--json and --format md contradict each other\nhint: with --output, one of them may be a file",
    ),
    "a page and JSON of one report": (
        "report {checkpoint} --json --format html",
        "--json and --format html contradict each other\nhint: with --output, one of them may be a file",
    ),
    "the source's accuracy without images": (
        "report {checkpoint} --against {network}",
        "--against measures the source's accuracy\nhint: pass --data IMAGES as well",
    ),
    "later steps without images": (
        "report {stepwise}",
        "{stepwise}: the spikes of later timesteps have to be measured\nhint: pass --data IMAGES",
    ),
    "output over the source": (
        "convert {network} -o {network}",
        "{network}: is written and read by one command\nhint: name another file",
    ),
    "calibration over the source": (
        "calibrate {network} {pictures} -o {network}",
        "{network}: is written and read by one command\nhint: name another file",
    ),
    "output over the calibration": (
        "convert {network} --calibration {calibration} -o {calibration}",
        "{calibration}: is written and read by one command\nhint: name another file",
    ),
    "report over the output": (
        "convert {network} -o {here}/x.json --report {here}/../here/x.json",
        "{here}/../here/x.json: is written twice\nhint: name another file",
    ),
    "a comparison in another form than its ending": (
        "compare {network} --data {pictures} --format md -o {here}/c.json",
        "--format md and the ending of {here}/c.json contradict each other",
    ),
    "raw outputs of a part of a run": (
        "run {checkpoint} {pictures} --lines {here}/l.jsonl --resume --outputs {here}/o.npz",
        "--outputs holds the raw outputs of one whole run, and --resume leaves images out",
    ),
    "outputs over the checkpoint": (
        "run {checkpoint} {pictures} --outputs {checkpoint}",
        "{checkpoint}: is written and read by one command\nhint: name another file",
    ),
    "a checkpoint over the images": (
        "convert {network} --data {array} -o {array}",
        "{array}: is written and read by one command\nhint: name another file",
    ),
    "a checkpoint over its preprocessing": (
        "convert {network} --data {pictures} --preprocess {preset} -o {preset}",
        "{preset}: is written and read by one command\nhint: name another file",
    ),
    "a calibration over the images": (
        "calibrate {network} {array} -o {array}",
        "{array}: is written and read by one command\nhint: name another file",
    ),
    "a trained checkpoint over the images": (
        "finetune {checkpoint} --data {array} -o {array}",
        "{array}: is written and read by one command\nhint: name another file",
    ),
    "a comparison over its preprocessing": (
        "compare {network} --data {pictures} --preprocess {preset} -o {preset}",
        "{preset}: is written and read by one command\nhint: name another file",
    ),
    "images to quantise no source on": (
        "bench {checkpoint} --data {pictures}",
        "--data serves to quantise the source\nhint: pass --against SOURCE as well",
    ),
    "report over the checkpoint": (
        "report {checkpoint} --format json -o {checkpoint}",
        "{checkpoint}: is written and read by one command\nhint: name another file",
    ),
}


@pytest.fixture
def places(tmp_path: Path, network, checkpoint, stepwise, calibration_file, pictures):
    """What the command lines of this file can name."""
    here = tmp_path / "here"
    here.mkdir()
    given = tmp_path / "given"
    given.mkdir()
    (given / "x.npz").write_bytes(b"images")
    (given / "own.json").write_text("{}")
    return {
        "array": given / "x.npz",
        "preset": given / "own.json",
        "here": here,
        "network": network,
        "checkpoint": checkpoint,
        "stepwise": stepwise,
        "calibration": calibration_file,
        "pictures": pictures,
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [each for each in CONTRADICTIONS.values() if each[1]],
    ids=[k for k, v in CONTRADICTIONS.items() if v[1]],
)
def test_options_that_contradict_each_other_are_refused(pmsm, places, line, message):
    before = {path: path.read_bytes() for path in places.values() if path.is_file()}
    fails(pmsm(*line.format(**places).split()), 2, message.format(**places))
    assert list(places["here"].iterdir()) == []
    assert {path: path.read_bytes() for path in before} == before


# Places that cannot be written, found out before any work


WRITERS = {
    "convert": "convert {network} --data {pictures} -o",
    "convert --report": "convert {network} --data {pictures} -o {here}/x.onnx --report",
    "calibrate": "calibrate {network} {pictures} -o",
    "run": "run {checkpoint} {pictures} --outputs",
    "report": "report {checkpoint} -o",
    "compare": "compare {network} --data {pictures} -o",
}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch):
    """Reading the network or the checkpoint would be work."""

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("the command began to work")

    monkeypatch.setattr("pmsm_cli.pipeline.load_source", fail)
    monkeypatch.setattr("pmsm_cli.checkpoint.file.open_checkpoint", fail)


@pytest.mark.parametrize("line", WRITERS.values(), ids=WRITERS)
@pytest.mark.usefixtures("no_work")
def test_an_output_in_a_missing_folder_is_refused(pmsm, places, line):
    folder = places["here"] / "nowhere"
    fails(
        pmsm(*line.format(**places).split(), folder / "x.json"),
        4,
        f"{folder}: the folder to write to does not exist\nhint: mkdir -p {folder}",
    )
    assert list(places["here"].iterdir()) == []


@pytest.mark.parametrize("line", WRITERS.values(), ids=WRITERS)
@pytest.mark.usefixtures("no_work")
def test_an_output_that_is_a_folder_is_refused(pmsm, places, line):
    folder = places["here"] / "x.json"
    folder.mkdir()
    fails(pmsm(*line.format(**places).split(), folder), 4, f"{folder}: is a folder; name a file")


@pytest.mark.parametrize("line", WRITERS.values(), ids=WRITERS)
@pytest.mark.usefixtures("no_work")
def test_an_output_that_may_not_be_written_is_refused(pmsm, places, line, monkeypatch: pytest.MonkeyPatch):
    target = places["here"] / "x.json"
    target.write_text("precious")
    monkeypatch.setattr(checkpoint_file.os, "access", lambda path, mode: Path(path) != target)  # root may all
    message = f"{target}: cannot be written (it is read-only)\nhint: name another file"
    fails(pmsm(*line.format(**places).split(), target), 4, message)
    assert target.read_text() == "precious"


@pytest.mark.parametrize("line", WRITERS.values(), ids=WRITERS)
def test_a_disk_that_fills_up_leaves_the_old_file_and_no_other(pmsm, places, line, monkeypatch: pytest.MonkeyPatch):
    target = places["here"] / "x.json"
    target.write_text("precious")

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(checkpoint_file.os, "fsync", full)
    shown = pmsm(*line.format(**places).split(), target)
    assert (shown.code, shown.out) == (4, "")
    assert shown.err.splitlines()[-1].endswith(": cannot be written (No space left on device)")
    assert target.read_text() == "precious"
    assert list(places["here"].iterdir()) == [target]


@pytest.mark.parametrize("command", ["convert", "eval", "run"])
def test_an_unreadable_path_is_left_to_our_own_messages(pmsm, places, command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    line = {
        "convert": "convert {network} --data {pictures} -o {here}/x.onnx",
        "eval": "eval {checkpoint} {pictures} --against {network}",
        "run": "run {checkpoint} {pictures}",
    }[command]
    shown = pmsm(*line.format(**places).split())  # the system, asked by reading, gives it all the same
    assert shown.code == 0, shown.err


# Odd names, and readers that leave


def test_names_with_spaces_brackets_and_letters_of_any_script_are_taken_as_they_are(
    pmsm, network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "400")
    folder = tmp_path / "[bold] :cat: ü [" / "red] 犬"  # a closing tag and an emoji, to those who look for such
    (folder / "class [1]").mkdir(parents=True)
    source = folder / "net [red] é.onnx"
    source.write_bytes(network.read_bytes())
    image = folder / "class [1]" / "im ü.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(image)
    target = folder / "out [x].onnx"
    made = pmsm("convert", source, "--data", folder / "class [1]", "--preprocess", "none", "-o", target)
    assert made.code == 0, made.err
    assert "net [red] é as a spiking network" in made.out
    assert str(target) in made.out
    shown = pmsm("run", target, image, "--top-k", 1)
    assert str(image) in shown.out
    for command in (
        ["eval", target, folder / "class [1]", "--against", source],
        ["report", target],
        ["inspect", target],
    ):
        shown = pmsm(*command)
        assert (shown.code, shown.err) == (0, "")


def test_a_name_that_is_no_text_is_taken_too(pmsm, network, tmp_path: Path):
    source, image, target = (tmp_path / name for name in ("n\udcff.onnx", "i\udcfe.png", "o\udcfd.onnx"))
    source.write_bytes(network.read_bytes())
    Image.new("RGB", (8, 8)).save(os.fsencode(image))
    made = pmsm("convert", source, "--data", image, "--preprocess", "none", "-o", target, "--json")
    assert (made.code, made.record["checkpoint"]) == (0, str(target))
    done = subprocess.run([*PMSM, "run", target, image], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert any("i\\udcfe.png" in line for line in lines)
    assert len({len(line) for line in lines}) == 1  # the table's columns stay


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_that_leaves_early_is_no_failure(checkpoint, form):
    """As in `pmsm inspect r20.onnx | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*PMSM, "inspect", checkpoint, *form],
            stdout=writing, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")

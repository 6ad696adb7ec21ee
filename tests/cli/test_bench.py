"""`pmsm bench`: who runs, what is measured, and what goes wrong."""

import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from conftest import fails, first_column, shows

from pmsm_cli.errors import SetupError, UnsupportedGraphError
from pmsm_cli.pipeline import racing
from pmsm_cli.pipeline.racing import INTEGERS, INTEGERS_ON_LIBRARY, LIBRARY, PORTABLE, SOURCE, STATIC, STOCK
from pmsm_cli.runtime import race as module
from pmsm_cli.runtime import spiking
from pmsm_cli.runtime.library import find_library
from pmsm_cli.runtime.race import Racer, race

FEW = ["--runs", "3", "--threads", "1"]
NATIVE = [LIBRARY] if find_library() else []
BOTH = [INTEGERS_ON_LIBRARY] if find_library() else []


@pytest.fixture(scope="module")
def rounded(network, pictures, tmp_path_factory) -> Path:
    from pmsm_cli.cli.app import run

    target = tmp_path_factory.mktemp("bench") / "int8.onnx"
    options = ["--data", str(pictures), "--preprocess", "none", "--levels", "15", "--weights", "int8"]
    assert run(["convert", str(network), *options, "-o", str(target)]) == 0
    return target


def test_all_forms_run_in_turn_and_are_measured(pmsm, rounded, network):
    shown = pmsm("bench", rounded, "--against", network, *FEW, "--json")
    assert shown.code == 0, shown.err
    record = shown.record
    assert [each["name"] for each in record["contenders"]] == [
        SOURCE,
        STATIC,
        PORTABLE,
        STOCK,
        *NATIVE,
        INTEGERS,
        *BOTH,
    ]
    for each in record["contenders"]:
        assert 0 < each["median_ms"] <= each["p95_ms"]
        assert each["images_per_second"] == pytest.approx(1000 / each["median_ms"])
        assert each["model_mb"] > 0
    assert (record["ann"]["name"], record["snn"]["name"]) == (SOURCE, [INTEGERS, *BOTH][-1])
    assert record["speedup"] == pytest.approx(record["ann"]["median_ms"] / record["snn"]["median_ms"])
    assert (record["batch"], record["runs"], record["threads"], record["weights"]) == (1, 3, 1, "int8")


def convert_to_int8(network: Path, pictures: Path, target: Path, *options: str) -> Path:
    from pmsm_cli.cli.app import run

    settings = ["--data", str(pictures), "--preprocess", "none", "--weights", "int8", "--timesteps", "4", *options]
    assert run(["convert", str(network), *settings, "-o", str(target)]) == 0
    return target


def with_fast_products(monkeypatch, fast: bool) -> None:
    library = find_library()
    if library is None:
        pytest.skip("no native library")
    for user in (racing, spiking):
        monkeypatch.setattr(
            user, "find_library", lambda: replace(library, multiplies_fast=fast, multiplies_slices=fast)
        )


def test_several_timesteps_run_on_integers_where_their_spikes_fit_a_byte(
    pmsm, network, pictures, tmp_path, monkeypatch
):
    with_fast_products(monkeypatch, True)
    few = convert_to_int8(network, pictures, tmp_path / "few.onnx", "--levels", "7")
    record = pmsm("bench", few, *FEW, "--json").record
    assert [each["name"] for each in record["contenders"]] == [PORTABLE, LIBRARY, INTEGERS_ON_LIBRARY]
    assert record["snn"]["name"] == INTEGERS_ON_LIBRARY


@pytest.mark.parametrize(
    ("options", "fast", "why"),
    [
        (
            ["--levels", "63"],
            True,
            "at T = 4 no tensor's spikes add up to what a byte holds; fewer levels or timesteps would",
        ),
        (["--levels", "7", "--coding", "rate"], True, "the timesteps of `rate` have no unit in common"),
        (["--levels", "7"], False, "on this processor only one timestep runs on integers, and it has 4"),
    ],
)
def test_why_int8_weights_are_run_in_floats_is_said(pmsm, network, pictures, tmp_path, monkeypatch, options, fast, why):
    with_fast_products(monkeypatch, fast)
    checkpoint = convert_to_int8(network, pictures, tmp_path / "net.onnx", *options)
    shown = pmsm("bench", checkpoint, *FEW, "--json")
    assert shown.record["snn"]["name"] == LIBRARY
    assert f"warning: its int8 weights are run in floats: {why}" in shown.err


def test_without_a_source_there_is_no_speedup(pmsm, stepwise):
    record = pmsm("bench", stepwise, *FEW, "--batch", "4", "--json").record
    library = find_library()
    in_slices = [INTEGERS_ON_LIBRARY] if library is not None and library.multiplies_slices else []
    assert [each["name"] for each in record["contenders"]] == [PORTABLE, *NATIVE, *in_slices]
    assert (record["ann"], record["speedup"], record["batch"], record["timesteps"]) == (None, None, 4, 3)
    assert record["snn"]["images_per_second"] == pytest.approx(4000 / record["snn"]["median_ms"])


def test_the_table_names_every_contender_and_the_circumstances(pmsm, rounded, network):
    out = pmsm("bench", rounded, "--against", network, *FEW).out
    assert all(shows(first_column(out), name) for name in (SOURCE, STATIC, PORTABLE, INTEGERS))
    assert "3 runs of 1 image(s) each, in turn, 1 thread(s)" in out


def test_a_batch_beyond_the_memory_ends_with_a_message_alone(checkpoint):
    command = [sys.executable, "-m", "pmsm_cli", "bench", checkpoint, *FEW, "--batch", str(10**9)]
    shown = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert shown.returncode == 4
    assert "is there enough memory? try a smaller --batch" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_network_of_fixed_batch_runs_with_that(pmsm, pictures, tmp_path):
    source = tiny.save(tiny.convolutional(batch=2), tmp_path / "two.onnx")
    target = tmp_path / "two.snn.onnx"
    options = ["--data", pictures, "--preprocess", "none", "--levels", "7"]
    assert pmsm("convert", source, *options, "-o", target).code == 0
    assert pmsm("bench", target, "--against", source, *FEW, "--json").record["batch"] == 2
    fails(
        pmsm("bench", target, *FEW, "--batch", "3"),
        2,
        f"{target}: reads 2 image(s) at a time, not 3\nhint: leave out --batch",
    )


def test_another_network_as_source_is_refused(pmsm, checkpoint, networks):
    shown = pmsm("bench", checkpoint, "--against", networks / "two_outputs.onnx", *FEW)
    assert (shown.code, shown.out) == (3, "")


def test_a_source_that_onnxruntime_cannot_quantise_is_left_out_with_a_warning(pmsm, checkpoint, network, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedGraphError("onnxruntime's static quantisation does not take it", subject="x", details=["why"])

    monkeypatch.setattr(racing, "quantise_statically", refuse)
    shown = pmsm("bench", checkpoint, "--against", network, *FEW, "--json")
    assert STATIC not in [each["name"] for each in shown.record["contenders"]]
    assert "warning: onnxruntime's static quantisation does not take it; why" in shown.err


def test_without_the_library_stock_operators_count_and_the_reason_is_given(pmsm, checkpoint, monkeypatch):
    monkeypatch.setenv("PMSM_NATIVE", "0")
    shown = pmsm("bench", checkpoint, *FEW, "--json")
    assert shown.record["snn"]["name"] == STOCK
    assert "warning: the native library cannot be used: switched off by PMSM_NATIVE=0" in shown.err


def test_what_cannot_be_opened_fails_in_our_words_and_leaves_no_process(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    with pytest.raises(UnsupportedGraphError, match="cannot run it"):
        race([Racer(name="broken", path=broken)], (1, 3, 8, 8), runs=1, threads=1)
    assert not multiprocessing.active_children()


def test_a_process_that_does_not_answer_is_given_up(network, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    with pytest.raises(SetupError, match="did not answer"):
        race([Racer(name="slow", path=network)], (1, 3, 8, 8), runs=1, threads=1)
    assert not multiprocessing.active_children()

"""Reading ONNX files: whole ones, broken ones, and those whose weights lie in files beside them."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import tiny

from pmsm_cli.errors import ModelFileError
from pmsm_cli.sources.onnx_file import open_onnx

INCOMPLETE = "hint: was the file downloaded or copied completely?"


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        open_onnx(path)
    return str(caught.value)


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A network whose weights lie in `weights.bin` beside it."""
    path = tmp_path / "network.onnx"
    onnx.save_model(tiny.convolutional(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_a_network_carries_its_name_and_the_digest_of_its_file(network: Path):
    source = open_onnx(network)
    assert (source.name, source.path) == ("convolutional", network)
    assert source.sha256 == hashlib.sha256(network.read_bytes()).hexdigest()
    assert [node.op_type for node in source.proto.graph.node][:2] == ["Conv", "Relu"]


def test_external_weights_are_loaded_with_the_network(external: Path):
    weights = {value.name: onnx.numpy_helper.to_array(value) for value in open_onnx(external).proto.graph.initializer}
    expected = {value.name: onnx.numpy_helper.to_array(value) for value in tiny.convolutional().graph.initializer}
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value)


def test_the_digest_tells_networks_apart_that_differ_in_external_weights_only(external: Path):
    before = open_onnx(external).sha256
    weights = external.with_name("weights.bin")
    changed = bytearray(weights.read_bytes())
    changed[0] ^= 1
    weights.write_bytes(bytes(changed))
    assert open_onnx(external).sha256 != before


def test_a_missing_weight_file_is_named(external: Path):
    external.with_name("weights.bin").unlink()
    assert refusal(external) == (
        f"{external}: its external data is missing\n"
        "  weights.bin\n"
        "hint: copy the weight files that were exported with it into the same folder"
    )


def test_a_weight_file_cut_short_is_refused(external: Path):
    weights = external.with_name("weights.bin")
    weights.write_bytes(weights.read_bytes()[:100])
    assert refusal(external).startswith(f"{external}: its external data cannot be read\n  ")


def test_weights_outside_the_networks_folder_are_refused(external: Path, tmp_path: Path):
    proto = onnx.load(external, load_external_data=False)
    (tmp_path / "inner").mkdir()
    inner = tmp_path / "inner" / "network.onnx"
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    tiny.save(proto, inner)
    assert refusal(inner).startswith(f"{inner}: its external data cannot be read\n  ")


def test_a_missing_file_is_refused(tmp_path: Path):
    assert refusal(tmp_path / "none.onnx") == f"{tmp_path / 'none.onnx'}: no such file"


def test_a_folder_is_refused(tmp_path: Path):
    assert refusal(tmp_path) == f"{tmp_path}: is a folder, not an ONNX file"


def test_a_file_taken_for_a_folder_is_refused(network: Path):
    assert refusal(network / "x.onnx") == f"{network / 'x.onnx'}: cannot be read (Not a directory)"


def test_an_empty_file_is_refused(tmp_path: Path):
    path = tmp_path / "empty.onnx"
    path.touch()
    assert refusal(path) == f"{path}: is empty\n{INCOMPLETE}"


def test_a_text_is_refused(tmp_path: Path):
    path = tmp_path / "text.onnx"
    path.write_text("hello, I am no network")
    assert refusal(path) == f"{path}: is not an ONNX model, or is cut short\n{INCOMPLETE}"


def test_a_message_that_means_nothing_is_refused(tmp_path: Path):
    path = tmp_path / "other.onnx"
    path.write_bytes(b"\x08\x03")  # parses, as a model of IR version 3 without anything in it
    assert refusal(path) == f"{path}: is not an ONNX model\nhint: export the network to ONNX first"


def test_a_network_cut_short_anywhere_is_refused(network: Path, tmp_path: Path):
    whole = network.read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole), max(1, len(whole) // 100)):
        path.write_bytes(whole[:length])
        assert refusal(path).startswith(f"{path}: is ")
    path.write_bytes(whole[:-1])
    assert refusal(path) == f"{path}: is not an ONNX model, or is cut short\n{INCOMPLETE}"


def test_a_name_that_is_no_text_becomes_one(network: Path, tmp_path: Path):
    path = tmp_path / "a\udcff.onnx"  # how Python shows the byte 0xff in a name
    path.write_bytes(network.read_bytes())
    assert open_onnx(path).name == "a\\udcff"

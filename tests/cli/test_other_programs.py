"""What other programs do to our files, and shells to our output: it runs alike, or a message says what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from conftest import fails, write_images
from onnx import inliner

PMSM = (sys.executable, "-m", "pmsm_cli")
FULL = Path("/dev/full")


@pytest.fixture
def inlined(checkpoint: Path, stepwise: Path, tmp_path: Path) -> dict[str, Path]:
    """Checkpoints without functions of ours, as optimisers leave them."""
    paths = {"one": checkpoint, "several": stepwise}
    return {
        name: tiny.save(inliner.inline_local_functions(onnx.load(path)), tmp_path / f"{name}.onnx")
        for name, path in paths.items()
    }


@pytest.mark.parametrize("name", ["one", "several"])
def test_a_checkpoint_with_its_functions_inlined_gives_the_same(
    pmsm, checkpoint, stepwise, inlined, pictures, tmp_path: Path, name
):
    outputs = []
    for path in (inlined[name], checkpoint if name == "one" else stepwise):
        raw = tmp_path / f"{len(outputs)}.npz"
        assert pmsm("run", path, pictures, "--outputs", raw).code == 0
        outputs.append(np.load(raw))
    for key in outputs[0]:
        np.testing.assert_allclose(outputs[0][key], outputs[1][key], atol=1e-5)


def test_a_report_on_operators_of_other_names_says_that_they_are_gone(pmsm, checkpoint, pictures, tmp_path: Path):
    proto = onnx.load(checkpoint)
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"
    shown = pmsm("report", tiny.save(proto, tmp_path / "renamed.onnx"), "--data", pictures)
    assert shown.code == 3
    assert "was changed by another program: operators that it speaks of are gone, or have other names" in shown.err


@pytest.mark.parametrize("command", ["eval", "report"])
@pytest.mark.parametrize(("of", "stated"), [("checkpoint", "2"), ("stepwise", "1")])
def test_a_checkpoint_whose_timesteps_are_not_those_of_its_graph_is_refused(
    pmsm, request, pictures, tmp_path: Path, command, of, stated
):
    proto = onnx.load(request.getfixturevalue(of))
    next(entry for entry in proto.metadata_props if entry.key == "pmsm.timesteps").value = stated
    path = tiny.save(proto, tmp_path / "x.onnx")
    message = f"its outputs are not those of {stated} timestep(s)\nhint: convert the source again"
    images = [pictures] if command == "eval" else ["--data", pictures]
    fails(pmsm(command, path, *images), 3, f"{path}: was changed by another program: {message}")


def test_a_checkpoint_whose_metadata_lack_a_site_is_refused(pmsm, checkpoint, pictures, tmp_path: Path):
    proto = onnx.load(checkpoint)
    entry = next(entry for entry in proto.metadata_props if entry.key == "pmsm.sites")
    entry.value = json.dumps(json.loads(entry.value)[1:])
    path = tiny.save(proto, tmp_path / "x.onnx")
    message = "it has 2 tensors of spikes, its metadata speak of 1\nhint: convert the source again"
    fails(pmsm("report", path), 3, f"{path}: was changed by another program: {message}")


@pytest.mark.parametrize("name", ["checkpoint", "stepwise"])
def test_a_checkpoint_whose_neurons_have_other_levels_than_its_metadata_say_is_refused(
    pmsm, request, pictures, tmp_path: Path, name
):
    proto = onnx.load(request.getfixturevalue(name))
    neuron = next(node for node in proto.graph.node if node.op_type == "PolarityNeuron")
    levels = next(attribute for attribute in neuron.attribute if attribute.name == "positive_levels")
    levels.i += 1
    path = tiny.save(proto, tmp_path / "x.onnx")
    shown = pmsm("eval", path, pictures)
    assert shown.code == 3
    site = neuron.name.removesuffix("/neuron")
    assert f"was changed by another program: the neurons of {site} have N, P = " in shown.err


def test_a_checkpoint_with_an_output_from_nowhere_is_refused(pmsm, checkpoint, pictures, tmp_path: Path):
    proto = onnx.load(checkpoint)
    proto.graph.output[0].name = "nowhere"
    path = tiny.save(proto, tmp_path / "x.onnx")
    message = "nothing makes some of its outputs\nhint: convert the source again"
    fails(pmsm("eval", path, pictures), 3, f"{path}: was changed by another program: {message}")


def test_a_comparison_covers_networks_that_put_out_what_later_layers_read(pmsm, pictures, tmp_path: Path):
    proto = tiny.convolutional()
    for name in ("b", "f"):  # an activation, and what is made of one
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    source = tiny.save(onnx.shape_inference.infer_shapes(proto), tmp_path / "x.onnx")
    steps = ["-T", "1,2", "--levels", 3, "--samples", 20]
    assert pmsm("compare", source, "--data", pictures, "--preprocess", "none", *steps).code == 0


def test_a_search_for_levels_does_not_take_soft_scores_for_kept_classes(pmsm, pictures, tmp_path: Path):
    # Scores so close to each other that a change of class costs next to nothing by the source's own probabilities.
    proto = tiny.convolutional()
    last = proto.graph.node[-1]
    for initializer in proto.graph.initializer:
        if initializer.name in last.input:
            values = onnx.numpy_helper.to_array(initializer) * np.float32(1e-3)
            initializer.CopyFrom(onnx.numpy_helper.from_array(values, initializer.name))
    source, target = tiny.save(proto, tmp_path / "x.onnx"), tmp_path / "out.onnx"
    options = ["--data", pictures, "--preprocess", "none", "--target-drop", 0.5]
    shown = pmsm("convert", source, *options, "-o", target, "--json")
    chosen = shown.record["allocation"]["chosen"]
    assert shown.code == 5 or chosen["agreement"] > 97


def test_a_source_whose_outputs_are_called_like_those_of_several_timesteps_can_be_opened(
    pmsm, pictures, tmp_path: Path
):
    proto = tiny.convolutional()
    last = proto.graph.output[0].name
    proto.graph.node.append(onnx.helper.make_node("Relu", [last], [f"{last}_per_step"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info(f"{last}_per_step", onnx.TensorProto.FLOAT, None))
    source, target = tiny.save(onnx.shape_inference.infer_shapes(proto), tmp_path / "x.onnx"), tmp_path / "out.onnx"
    options = ["--data", pictures, "--preprocess", "none", "--levels", 7]
    assert pmsm("convert", source, *options, "-o", target).code == 0
    assert pmsm("inspect", target).code == 0


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"]])
def test_a_full_standard_output_is_an_error_and_no_traceback(network, arguments):
    with FULL.open("w") as full:
        done = subprocess.run([*PMSM, *arguments, network], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == "error: the standard output: cannot be written (No space left on device)"


def test_a_closed_standard_output_is_nobody_who_listens(network):
    line = " ".join(("exec", *PMSM, "inspect", str(network), ">&-"))
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_links_in_a_circle_are_refused_as_a_source(pmsm, tmp_path: Path):
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    one.symlink_to(other)
    other.symlink_to(one)
    shown = pmsm("convert", one)
    assert (shown.code, "Traceback" in shown.err) == (3, False)
    assert "symbolic links" in shown.err


def test_a_checkpoint_of_fewer_timesteps_than_its_graph_runs_is_refused(pmsm, stepwise, pictures, tmp_path: Path):
    proto = onnx.load(stepwise)
    entry = next(entry for entry in proto.metadata_props if entry.key == "pmsm.timesteps")
    entry.value = str(int(entry.value) + 1)
    shown = pmsm("eval", tiny.save(proto, tmp_path / "x.onnx"), pictures)
    assert shown.code == 3
    assert f"its outputs are not those of {entry.value} timestep(s)" in shown.err


@pytest.mark.parametrize(
    ("key", "path", "value"),
    [
        ("sites", (0, "statistics", "mean_spikes"), "abc"),
        ("sites", (0, "statistics", "firing"), None),
        ("sites", (0, "statistics", "information_bits"), float("nan")),
        ("sites", (0, "neurons"), "abc"),
        ("sites", (0, "readers", 0, "macs"), 1e308),
        ("analog", ("layers", 0, "node"), 3),
        ("source", ("name",), 2.5),
        ("preprocessing", ("height",), 10**30),
        ("timesteps", (), 1.5),
    ],
)
def test_metadata_of_another_type_are_damaged(pmsm, checkpoint, tmp_path: Path, key, path, value):
    proto = onnx.load(checkpoint)
    entry = next(entry for entry in proto.metadata_props if entry.key == f"pmsm.{key}")
    whole = [json.loads(entry.value)]
    place, last = whole, 0
    for step in path:
        place, last = place[last], step
    place[last] = value
    entry.value = json.dumps(whole[0])
    shown = pmsm("report", tiny.save(proto, tmp_path / "x.onnx"))
    assert (shown.code, "Traceback" in shown.err) == (3, False)
    assert "its metadata are damaged" in shown.err


def test_a_report_on_a_site_of_another_name_says_that_it_is_gone(pmsm, checkpoint, pictures, tmp_path: Path):
    proto = onnx.load(checkpoint)
    entry = next(entry for entry in proto.metadata_props if entry.key == "pmsm.sites")
    sites = json.loads(entry.value)
    sites[0]["name"] = "elsewhere"
    entry.value = json.dumps(sites)
    shown = pmsm("report", tiny.save(proto, tmp_path / "x.onnx"), "--data", pictures)
    assert shown.code == 3
    assert "elsewhere/spikes" in shown.err


# What is read is not written over


def test_an_image_of_the_folder_is_not_written_over(pmsm, network, tmp_path: Path):
    write_images(tmp_path / "in", 10)
    before = (tmp_path / "in" / "003.png").read_bytes()
    target = tmp_path / "in" / "003.png"
    shown = pmsm("convert", network, "--data", tmp_path / "in", "--preprocess", "none", "--levels", 3, "-o", target)
    fails(shown, 2, f"{target}: is part of what the command reads\nhint: name another file")
    assert target.read_bytes() == before


def test_the_weights_beside_a_source_are_not_written_over(pmsm, network, tmp_path: Path):
    source, target = tmp_path / "net.onnx", tmp_path / "net.weights"
    onnx.save(onnx.load(network), source, save_as_external_data=True, location=target.name, size_threshold=0)
    before = target.read_bytes()
    shown = pmsm("convert", source, "--levels", 3, "-o", target)
    fails(shown, 2, f"{target}: is part of what the command reads\nhint: name another file")
    assert target.read_bytes() == before


def test_external_data_without_a_place_is_missing(pmsm, network, tmp_path: Path):
    source = tmp_path / "net.onnx"
    onnx.save(onnx.load(network), source, save_as_external_data=True, location="weights", size_threshold=0)
    proto = onnx.load(source, load_external_data=False)
    del proto.graph.initializer[0].external_data[:]
    source.write_bytes(proto.SerializeToString())
    shown = pmsm("inspect", source)
    assert (shown.code, "its external data is missing" in shown.err) == (3, True)


def test_an_empty_argument_is_not_the_folder_that_one_is_in(pmsm, network):
    fails(pmsm("convert", network, "--data", ""), 2, "an argument is empty\nhint: is a variable of the shell not set?")


def test_an_output_may_be_called_like_an_option_of_numpy(pmsm, pictures, tmp_path: Path):
    proto = tiny.convolutional()
    old = proto.graph.output[0].name
    for node in proto.graph.node:
        node.output[:] = ["file" if name == old else name for name in node.output]
    proto.graph.output[0].name = "file"
    source, target, raw = (tmp_path / name for name in ("x.onnx", "s.onnx", "raw.npz"))
    options = ["--data", pictures, "--preprocess", "none", "--levels", 3, "-o", target]
    assert pmsm("convert", tiny.save(proto, source), *options).code == 0
    assert pmsm("run", target, pictures, "--outputs", raw).code == 0
    assert list(np.load(raw)) == ["file"]


def test_arrays_of_images_without_pixels_hold_none(pmsm, checkpoint, tmp_path: Path):
    np.save(tmp_path / "none.npy", np.zeros((6, 0, 0, 3), np.uint8))
    fails(pmsm("eval", checkpoint, tmp_path / "none.npy"), 3, f"{tmp_path / 'none.npy'}: holds no images")

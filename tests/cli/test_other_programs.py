"""What other programs do to our files, and shells to our output: it runs alike, or a message says what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from conftest import fails
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

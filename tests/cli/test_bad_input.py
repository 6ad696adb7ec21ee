"""What the user hands over and cannot be used: one message each, exit code 3, and nothing left behind."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from conftest import fails, write_images
from PIL import Image

from pmsm_cli.checkpoint.file import open_checkpoint

INCOMPLETE = "hint: was the file downloaded or copied completely?\n"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """Whatever is not named lands here, and nothing may."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


# Networks that cannot be converted: the same message from each command that reads one


def no_kernel() -> onnx.ModelProto:
    """Relu of 16-bit integers, which the standard allows and onnxruntime does not have on a CPU."""
    return tiny.model(
        """
        no_kernel (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            a = Conv (image, w1)
            b = Cast <to = 5> (a)
            c = Relu (b)
            d = Cast <to = 1> (c)
            e = Conv (d, w2)
            f = GlobalAveragePool (e)
            scores = Flatten (f)
        }""",
        w1=tiny.weights(4, 3, 1, 1),
        w2=tiny.weights(5, 4, 1, 1),
    )


NETWORKS = {
    "without_synapse": (
        "has no synaptic operator that could be driven by spikes\n"
        "hint: synaptic operators are Conv, ConvTranspose, Gemm, MatMul"
    ),
    "one_layer": (
        "has no synaptic operator that could be driven by spikes\n"
        "  scores: Conv, reads the image (direct coding)\n"
        "hint: --spiking-input turns the image itself into spikes"
    ),
    "vector_input": "its input is not a batch of images (four axes)\n  features: float Nx16",
    "text_input": (
        "its input does not hold 32-bit floats\n"
        "  tokens: int64 Nx16\n"
        "hint: export the network in float32, with normalised images as input"
    ),
    "quantised": (
        "is quantised already: 2 quantised operators\n"
        "  q: QuantizeLinear\n"
        "  d: DequantizeLinear\n"
        "hint: pass the float network that it was made from"
    ),
    "custom_op": (
        "uses 1 operators that onnxruntime does not know\n"
        "  b: com.example.Mystery\n"
        "hint: export the network without custom operators"
    ),
}


@pytest.mark.parametrize("command", ["convert", "calibrate", "inspect"])
@pytest.mark.parametrize(("name", "message"), NETWORKS.items(), ids=NETWORKS)
def test_a_network_that_has_no_spiking_form_is_refused(pmsm, networks, pictures, command, name, message):
    source = networks / f"{name}.onnx"
    options = {"convert": ["--data", pictures], "calibrate": [pictures], "inspect": []}[command]
    fails(pmsm(command, source, "--preprocess", "none", *options), 3, f"{source}: {message}")


def test_an_operator_without_a_kernel_is_named(pmsm, pictures, tmp_path: Path):
    source = tiny.save(no_kernel(), tmp_path / "x.onnx")
    made = pmsm("convert", source, "--data", pictures, "--preprocess", "none")
    assert (made.code, made.out) == (3, "")
    first, second, third = made.err.splitlines()
    assert first == f"error: {source}: onnxruntime has no kernel for one of its operators"
    assert "Relu(14)" in second
    assert third == "hint: export the network with another opset or without this operator"


FILES = {
    "missing": (None, "no such file"),
    "empty": (b"", f"is empty\n{INCOMPLETE}"),
    "text": (b"no network", f"is not an ONNX model, or is cut short\n{INCOMPLETE}"),
}


@pytest.mark.parametrize("command", ["convert", "calibrate", "inspect", "eval", "run", "report"])
@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_network_is_refused(pmsm, pictures, tmp_path: Path, command, content, message):
    path = tmp_path / "x [b].onnx"
    if content is not None:
        path.write_bytes(content)
    images = [pictures] if command in ("calibrate", "eval", "run") else []
    fails(pmsm(command, path, *images), 3, f"{path}: {message.rstrip()}")


def test_a_network_cut_short_is_refused(pmsm, network, tmp_path: Path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(network.read_bytes()[: len(network.read_bytes()) // 2])
    fails(pmsm("convert", path), 3, f"{path}: is not an ONNX model, or is cut short\n{INCOMPLETE.rstrip()}")


def test_missing_external_data_are_named(pmsm, tmp_path: Path):
    path = tmp_path / "x.onnx"
    onnx.save_model(tiny.convolutional(), path, save_as_external_data=True, location="x.bin", size_threshold=0)
    assert pmsm("inspect", path).code == 0
    (tmp_path / "x.bin").unlink()
    fails(
        pmsm("convert", path),
        3,
        f"{path}: its external data is missing\n"
        "  x.bin\n"
        "hint: copy the weight files that were exported with it into the same folder",
    )


def test_a_network_of_open_size_is_refused_with_the_option_that_states_it(pmsm, tmp_path: Path):
    source = tiny.save(tiny.convolutional(size="S"), tmp_path / "open.onnx")
    fails(
        pmsm("convert", source),
        3,
        "the network leaves the height and width of its input open\nhint: state them: --image-size 224",
    )


@pytest.mark.parametrize("command", ["convert", "calibrate"])
@pytest.mark.parametrize("name", ["one.onnx", "three.onnx"])
def test_a_checkpoint_is_refused_where_a_source_is_wanted(pmsm, checkpoints, pictures, command, name):
    path = checkpoints / name
    images = [pictures] if command == "calibrate" else []
    fails(pmsm(command, path, *images), 3, f"{path}: is a spiking checkpoint already\nhint: pass the source network")


def test_a_checkpoint_is_refused_as_the_source_to_compare_with(pmsm, checkpoint, pictures):
    message = f"{checkpoint}: is a spiking checkpoint already\nhint: pass the source network"
    fails(pmsm("eval", checkpoint, pictures, "--against", checkpoint), 3, message)


@pytest.mark.parametrize("command", ["eval", "run", "report"])
def test_a_source_is_refused_where_a_checkpoint_is_wanted(pmsm, network, pictures, command):
    images = [] if command == "report" else [pictures]
    message = f"{network}: is not a spiking checkpoint\nhint: make one first: pmsm convert {network}"
    fails(pmsm(command, network, *images), 3, message)


@pytest.mark.parametrize("command", ["eval", "run", "report", "inspect"])
def test_a_checkpoint_of_an_unknown_format_version_is_refused(pmsm, checkpoint, pictures, tmp_path: Path, command):
    proto = onnx.load(checkpoint)
    for entry in proto.metadata_props:
        if entry.key == "pmsm.format_version":
            entry.value = "7"
    path = tiny.save(proto, tmp_path / "future.onnx")
    images = [pictures] if command in ("eval", "run") else []
    message = (
        "has checkpoint format version 7; this pmsm knows version 1\nhint: update pmsm, or convert the source again"
    )
    fails(pmsm(command, path, *images), 3, f"{path}: {message}")


def test_a_checkpoint_with_damaged_metadata_is_refused(pmsm, checkpoint, tmp_path: Path):
    proto = onnx.load(checkpoint)
    del proto.metadata_props[:]
    proto.metadata_props.add(key="pmsm.format_version", value="1")
    path = tiny.save(proto, tmp_path / "damaged.onnx")
    message = "its metadata are damaged ('pmsm.sites')\nhint: convert the source again"
    fails(pmsm("report", path), 3, f"{path}: {message}")


def test_another_network_is_refused_as_the_source_to_compare_with(pmsm, networks, checkpoint, pictures):
    path = networks / "two_outputs.onnx"
    fails(
        pmsm("eval", checkpoint, pictures, "--against", path),
        3,
        f"{path}: is not the network that the checkpoint was made from (convolutional)\n"
        "  2 outputs, in the checkpoint 1\n"
        "hint: --against takes the source network, as one ONNX file or another",
    )


def test_a_network_of_another_size_is_refused_as_the_source_to_compare_with(pmsm, checkpoint, pictures, tmp_path: Path):
    path = tiny.save(tiny.convolutional(size=9, classes=6), tmp_path / "other.onnx")
    fails(
        pmsm("eval", checkpoint, pictures, "--against", path),
        3,
        f"{path}: is not the network that the checkpoint was made from (convolutional)\n"
        "  image: Nx3x9x9, in the checkpoint image: Nx3x8x8\n"
        "  scores: Nx6, in the checkpoint scores: Nx5\n"
        "hint: --against takes the source network, as one ONNX file or another",
    )


# Images


IMAGE_COMMANDS = ["convert", "calibrate", "eval", "run", "report"]


@pytest.fixture
def with_images(pmsm, network, checkpoint, tmp_path: Path):
    """Run a command on images, wherever it takes them."""

    def call(command: str, images: Path, *more: object):
        source = network if command in ("convert", "calibrate") else checkpoint
        data = ["--data", images] if command in ("convert", "report") else [images]
        output = ["-o", tmp_path / "out", "--preprocess", "none"] if command in ("convert", "calibrate") else []
        return pmsm(command, source, *data, *output, *more)

    return call


@pytest.mark.parametrize("command", IMAGE_COMMANDS)
def test_a_missing_folder_is_refused(with_images, tmp_path: Path, command):
    fails(with_images(command, tmp_path / "no [x]"), 3, f"{tmp_path / 'no [x]'}: no such file or folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", IMAGE_COMMANDS)
def test_an_empty_folder_is_refused(with_images, tmp_path: Path, command):
    folder = tmp_path / "empty"
    folder.mkdir()
    endings = ".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp"
    fails(with_images(command, folder), 3, f"{folder}: holds no images\nhint: known endings: {endings}")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("command", IMAGE_COMMANDS)
def test_a_folder_of_broken_images_is_refused(with_images, tmp_path: Path, command):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "1.png").write_text("no image")
    message = f"none of the 1 images can be read\n  {folder / '1.png'}: not an image file"
    fails(with_images(command, folder), 3, f"{folder}: {message}")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("command", IMAGE_COMMANDS)
def test_a_broken_image_among_good_ones_is_skipped_counted_and_named(with_images, tmp_path: Path, command):
    folder = tmp_path / "images ["
    write_images(folder, 17)
    broken = folder / "red] :cat:.png"  # in all a closing tag and an emoji, to those who look for such
    broken.write_text("no image")
    shown = with_images(command, folder, "--json")
    assert shown.code == 0
    assert shown.err.startswith(
        f"warning: 1 image(s) could not be read and were skipped:\n  {broken}: not an image file\n"
    )
    record = shown.record
    if command == "calibrate":
        assert (record["images"]["images"], record["images"]["skipped"]) == (17, 1)
    else:
        assert record["skipped"] == [{"name": str(broken), "reason": "not an image file"}]
        images = len(record["predictions"]) if command == "run" else record["images"]
        assert images == 17


def test_of_many_broken_images_the_first_few_are_named(with_images, tmp_path: Path):
    folder = tmp_path / "images"
    write_images(folder, 17)
    for index in range(7):
        (folder / f"bad{index}.png").write_text("no image")
    shown = with_images("eval", folder)
    named = "".join(f"  {folder / f'bad{index}.png'}: not an image file\n" for index in range(5))
    assert shown.err == f"warning: 7 image(s) could not be read and were skipped:\n{named}  ... and 2 more\n"


@pytest.mark.parametrize("command", IMAGE_COMMANDS)
def test_images_of_any_size_and_mode_are_taken(with_images, tmp_path: Path, command):
    folder = tmp_path / "images"
    write_images(folder, 4, size=(8, 8))
    Image.new("RGB", (300, 20), (9, 9, 9)).save(folder / "wide.jpg")
    Image.new("RGB", (1, 1), (9, 9, 9)).save(folder / "dot.bmp")
    Image.new("L", (10, 10), 9).save(folder / "grey.png")
    Image.new("RGBA", (10, 10), (9, 9, 9, 128)).save(folder / "alpha.png")
    Image.new("CMYK", (10, 10)).save(folder / "print.tiff")
    Image.fromarray(np.full((10, 10), 30000, np.uint16)).save(folder / "deep.png")
    palette = Image.new("P", (10, 10))
    palette.save(folder / "palette.gif", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (10, 12)).save(folder / "turned.jpg", exif=exif)
    shown = with_images(command, folder, "--json")
    assert shown.code == 0, shown.err
    assert "skipped" not in shown.err
    record = shown.record
    if command == "run":
        assert len(record["predictions"]) == 12
    else:
        assert (record["images"] if command != "calibrate" else record["images"]["images"]) == 12


def test_an_array_of_another_shape_is_refused(with_images, tmp_path: Path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((3, 1, 8, 8), np.float32))
    message = "holds inputs of shape (1, 8, 8), the network reads (3, 8, 8)"
    fails(with_images("eval", path), 3, f"{path}: {message}")


def test_an_array_beside_a_folder_is_refused(pmsm, checkpoint, pictures, tmp_path: Path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((3, 3, 8, 8), np.float32))
    message = "array files cannot be mixed with other paths\nhint: pass one .npy or .npz file at a time"
    fails(pmsm("run", checkpoint, pictures, path), 3, message)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("command", IMAGE_COMMANDS)
def test_an_input_with_values_that_are_no_numbers_is_skipped_and_named(with_images, tmp_path: Path, command, value):
    values = tiny.images(60)
    values[7, 0, 0, 0] = value
    path = tmp_path / "x.npy"
    np.save(path, values)
    shown = with_images(command, path)
    assert (shown.code, shown.err.removesuffix(f"written to {tmp_path / 'out'}\n")) == (
        0,
        "warning: 1 image(s) could not be read and were skipped:\n"
        f"  {path}[7]: holds values beyond float32 or such that are no numbers\n",
    )


def test_a_network_that_gives_no_numbers_is_refused(pmsm, pictures, tmp_path: Path):
    proto = tiny.convolutional()
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((4, 3, 3, 3), 3e38, np.float32), "w1"))
    source = tiny.save(proto, tmp_path / "x.onnx")
    made = pmsm("convert", source, "--data", pictures, "--preprocess", "none", "-o", tmp_path / "out.onnx")
    assert (made.code, made.out) == (3, "")
    assert "the source network produces values that are infinite or not a number" in made.err
    assert not (tmp_path / "out.onnx").exists()


def test_labels_beyond_the_networks_classes_are_refused_before_the_run(with_images, tmp_path: Path):
    for name in "abcdefg":
        write_images(tmp_path / "images" / name, 1)
    fails(
        with_images("eval", tmp_path / "images"),
        3,
        f"{tmp_path / 'images'}: its labels need 7 classes, the network has 5\n"
        "hint: one sub-folder a class, all classes present, in the network's alphabetical order",
    )


# Calibrations, labels, presets and profiles


def changed(calibration_file: Path, path: Path, **changes) -> Path:
    record = json.loads(calibration_file.read_text(encoding="utf-8"))
    path.write_text(json.dumps(record | changes))
    return path


def test_a_calibration_of_another_network_is_refused(pmsm, calibration_file, tmp_path: Path):
    other = tiny.save(tiny.convolutional(seed=9), tmp_path / "other.onnx")
    fails(
        pmsm("convert", other, "--calibration", calibration_file),
        3,
        f"{calibration_file}: was made with another network than {other}\n"
        f"hint: pmsm calibrate {other} IMAGES -o {calibration_file}",
    )


def test_a_calibration_of_another_preprocessing_is_refused(pmsm, network, calibration_file):
    fails(
        pmsm("convert", network, "--calibration", calibration_file, "--preprocess", "inception"),
        3,
        f"{calibration_file}: was made with another preprocessing\n"
        "  mean: [0.0] there, [0.5, 0.5, 0.5] here\n"
        "  std: [1.0] there, [0.5, 0.5, 0.5] here\n"
        "hint: leave out --preprocess: the calibration knows its own",
    )


def test_a_calibration_of_other_sites_is_refused(pmsm, network, calibration_file):
    fails(
        pmsm("convert", network, "--calibration", calibration_file, "--spiking-input"),
        3,
        f"{calibration_file}: does not hold the sites that this conversion has\n"
        "  image\n"
        "hint: use the same --spiking-input for both, or calibrate again",
    )


CALIBRATIONS = {
    "no JSON": ("no JSON", "is not JSON\nhint: `pmsm calibrate` writes calibrations"),
    "other JSON": ("{}", "is not a calibration file\nhint: `pmsm calibrate` writes them"),
    "other version": (
        '{"pmsm_calibration": 9}',
        "has format version 9, this pmsm knows 1\nhint: calibrate again with this version",
    ),
    "damaged": ('{"pmsm_calibration": 1}', "is damaged ('source_sha256')\nhint: calibrate again"),
}


@pytest.mark.parametrize(("content", "message"), CALIBRATIONS.values(), ids=CALIBRATIONS)
def test_a_file_that_is_no_calibration_is_refused(pmsm, network, tmp_path: Path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    fails(pmsm("convert", network, "--calibration", path), 3, f"{path}: {message}")


def test_a_missing_calibration_is_refused(pmsm, network, tmp_path: Path):
    path = tmp_path / "x.json"
    fails(pmsm("convert", network, "--calibration", path), 3, f"{path}: cannot be read (No such file or directory)")


def test_a_calibration_with_too_few_thresholds_is_refused(pmsm, network, calibration_file, tmp_path: Path):
    sites = json.loads(calibration_file.read_text(encoding="utf-8"))["sites"]
    sites[0]["threshold"] = sites[0]["threshold"][:3]
    sites[0]["rest"] = 0
    path = changed(calibration_file, tmp_path / "x.json", sites=sites)
    message = "does not fit the network's channels\n  b: (3,) thresholds for 4 channels\nhint: calibrate again"
    fails(pmsm("convert", network, "--calibration", path), 3, f"{path}: {message}")


@pytest.mark.parametrize("levels", [4.5, "7", None])
def test_a_calibration_whose_levels_are_no_whole_numbers_is_refused(
    pmsm, network, calibration_file, tmp_path: Path, levels
):
    sites = json.loads(calibration_file.read_text(encoding="utf-8"))["sites"]
    sites[0]["positive_levels"] = levels
    path = changed(calibration_file, tmp_path / "x.json", sites=sites)
    shown = pmsm("convert", network, "--calibration", path)
    assert (shown.code, shown.err.startswith(f"error: {path}: is damaged (")) == (3, True)


def test_a_calibration_with_a_correction_that_is_no_number_is_refused(pmsm, network, calibration_file, tmp_path: Path):
    corrections = json.loads(calibration_file.read_text(encoding="utf-8"))["corrections"]
    corrections[0]["scale"][0] = float("nan")
    path = changed(calibration_file, tmp_path / "x.json", corrections=corrections)
    message = f"is damaged (the correction of {corrections[0]['node']} must be finite)\nhint: calibrate again"
    fails(pmsm("convert", network, "--calibration", path), 3, f"{path}: {message}")


def test_a_calibration_that_rests_where_nothing_can_is_refused(pmsm, calibration_file, tmp_path: Path):
    """The same network with its image size left open, where what rests behind a padded convolution has no size."""
    source = tiny.save(tiny.convolutional(size="S"), tmp_path / "open.onnx")
    sites = json.loads(calibration_file.read_text(encoding="utf-8"))["sites"]
    sites[0]["rest"] = [2, 0, 0, 0]
    sha = hashlib.sha256(source.read_bytes()).hexdigest()
    path = changed(calibration_file, tmp_path / "x.json", sites=sites, source_sha256=sha)
    message = (
        "does not fit the network's channels\n"
        "  b: rests at another value than 0, which what reads it does not allow\n"
        "hint: calibrate again"
    )
    fails(pmsm("convert", source, "--calibration", path, "--image-size", 8), 3, f"{path}: {message}")


def test_a_calibration_with_corrections_for_other_synapses_is_refused(pmsm, network, calibration_file, tmp_path: Path):
    corrections = json.loads(calibration_file.read_text(encoding="utf-8"))["corrections"]
    name = corrections[0]["node"]
    corrections[0]["shift"] = [0.0]
    corrections[1]["node"] = "nowhere"
    path = changed(calibration_file, tmp_path / "x.json", corrections=corrections)
    fails(
        pmsm("convert", network, "--calibration", path),
        3,
        f"{path}: does not fit the network's channels\n"
        f"  {name}: corrections (6,) and (1,) for 6 channels\n"
        "  nowhere: corrections (5,) and (5,) for 0 channels\n"
        "hint: calibrate again",
    )


LABELS = {
    "missing": (None, "cannot be read (No such file or directory)"),
    "empty": (b"\n \n", "holds no class names\nhint: one name a line, in the order of the classes"),
    "no text": (b"\xff\xfe", "is not a text in UTF-8"),
    "too few": (
        b"a\nb\n",
        "holds 2 class names, the network has 5 classes\nhint: one name a line, in the order of the classes",
    ),
}


@pytest.mark.parametrize("command", ["convert", "run"])
@pytest.mark.parametrize(("content", "message"), LABELS.values(), ids=LABELS)
def test_unusable_class_names_are_refused(with_images, pictures, tmp_path: Path, command, content, message):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    fails(with_images(command, pictures, "--labels", path), 3, f"{path}: {message}")
    assert not (tmp_path / "out").exists()


def test_a_mark_at_the_beginning_of_a_text_is_no_part_of_a_class_name(with_images, pictures, tmp_path: Path):
    """As Windows' editor writes it."""
    path = tmp_path / "names.txt"
    path.write_text("\n".join("abcde"), encoding="utf-8-sig")
    assert with_images("convert", pictures, "--labels", path).code == 0
    assert open_checkpoint(tmp_path / "out").manifest.labels == tuple("abcde")


def test_an_unknown_preset_is_refused(pmsm, network):
    fails(
        pmsm("convert", network, "--preprocess", "imagnet"),
        3,
        "--preprocess: unknown preset 'imagnet'; known: imagenet, inception, cifar10, none, timm:NAME, or a JSON file",
    )


def test_an_unusable_preset_file_is_refused(pmsm, network, tmp_path: Path):
    path = tmp_path / "own [1].json"
    path.write_text('{"std": [0]}')
    message = "std must be finite and positive: (0.0,)"
    fails(pmsm("inspect", network, "--preprocess", path), 3, f"{path}: {message}")


def test_an_unknown_profile_is_refused(pmsm, checkpoint):
    fails(
        pmsm("report", checkpoint, "--profile", "1nm"),
        3,
        "--profile: unknown energy profile '1nm'; known: 45nm, 45nm-memory, loihi2, or a .toml or .json file",
    )

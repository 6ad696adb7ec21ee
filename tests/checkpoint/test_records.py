"""Every record that is saved survives the way to a file and back, with a value of its own in each field."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny

from pmsm_cli.calibration.adequacy import Adequacy, SiteAdequacy
from pmsm_cli.calibration.allocation import Allocation, Point
from pmsm_cli.calibration.calibrate import Calibration, Images, SiteCalibration
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.quality import ChannelQuality, SiteQuality
from pmsm_cli.calibration.record import calibration_from_json, calibration_to_json
from pmsm_cli.checkpoint.file import open_checkpoint, pack, unpack, write_file
from pmsm_cli.checkpoint.manifest import Manifest, TuningRun, manifest_from_metadata, manifest_to_metadata
from pmsm_cli.errors import CalibrationError, CheckpointError
from pmsm_cli.graph.sites import AnalogLayer, Reader, Site, SitePlan
from pmsm_cli.lowering.precision import Precision
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.parameters import Correction, NeuronParameters
from pmsm_cli.runtime.session import model_bytes
from pmsm_cli.sources.preprocessing import Channels, Fit, Layout, Preprocessing

# The statistics of the first format, which files may hold alone.
OLDER = [
    "signal_to_distortion_db",
    "clipped_high",
    "clipped_low",
    "mean_spikes",
    "firing",
    "entropy_bits",
    "levels_used",
    "silent_channels",
]
QUALITY = SiteQuality(
    signal_to_distortion_db=31.25,
    clipped_high=0.5,
    clipped_low=0.25,
    mean_spikes=1.75,
    firing=40.5,
    entropy_bits=2.125,
    levels_used=9,
    silent_channels=1,
    activation_entropy_bits=7.5,
    channel_entropy_bits=2.0,
    information_bits=1.75,
    lost_bits=5.5,
    idle_bits=0.25,
    level_use=87.5,
    constant_channels=2,
)
CHANNELS = ChannelQuality(
    threshold=np.array([0.1, 1 / 3, 1e-30], np.float32),
    rest=np.array([0, 3, -2], np.float32),
    **{
        field.name: np.array([0.25 * index, 1.5, 40.125])
        for index, field in enumerate(dataclasses.fields(ChannelQuality))
        if field.name not in ("threshold", "rest")
    },
)
POINT = Point(spikes_per_neuron=0.5, most_levels=31, mean_levels=7.25, top1=88.5, agreement=97.5, output_error=8.125)
CALIBRATION = Calibration(
    source_sha256="5eed",
    method=Method.MSE,
    levels=7,
    images=Images(origin="a folder [x] ü", images=100, skipped=3, digest="d19e57", seed=11),
    sites=(
        SiteCalibration(
            name="/layer.0/Relu [b]",
            parameters=NeuronParameters(
                threshold=np.array([0.1, 1 / 3, 1e-30], np.float32),
                negative_levels=3,
                positive_levels=4,
                rest=np.array([0, 2, -1], np.float32),
            ),
            quality=QUALITY,
            channels=CHANNELS,
        ),
        SiteCalibration(
            name="whole",
            parameters=NeuronParameters(threshold=np.array(0.7, np.float32), negative_levels=0, positive_levels=7),
            quality=dataclasses.replace(QUALITY, signal_to_distortion_db=None),
            centre=np.array([[[0.1], [1 / 3]]], np.float32),
        ),
    ),
    corrections=(
        Correction(node="/conv", scale=np.array([1.1, 0.9], np.float32), shift=np.array([-0.1, 0.2], np.float32)),
    ),
    allocation=Allocation(
        target_drop=0.75,
        measure="top-1",
        drop=0.25,
        kept=True,
        images=321,
        chosen=POINT,
        curve=(POINT, dataclasses.replace(POINT, spikes_per_neuron=2.5, top1=None, agreement=None)),
    ),
    adequacy=Adequacy(median=3.5, worst_site="whole", sites=(SiteAdequacy(name="whole", median=4.25, worst=20.0),)),
)
MANIFEST = Manifest(
    tool_version="9.8.7",
    timesteps=5,
    coding=Coding.RATE,
    source_name="résnet [1]",
    source_sha256="5eed",
    preprocessing=Preprocessing(
        height=32,
        width=48,
        channels=Channels.BGR,
        layout=Layout.NHWC,
        fit=Fit.STRETCH,
        crop_fraction=0.75,
        interpolation="bicubic",
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    ),
    plan=SitePlan(
        sites=(
            Site(
                name="/layer.0/Relu [b]",
                channel_axis=-3,
                channels=3,
                neurons=12,
                readers=(
                    Reader(node="/conv", op_type="Conv", macs=99),
                    Reader(node="/b", op_type="MatMul", macs=None, operand=1),
                ),
                analog_readers=("Add", "Mul"),
                relative_axis=-1,
            ),
            Site(name="whole", channel_axis=None, channels=1, neurons=None, readers=()),
        ),
        analog_layers=(
            AnalogLayer(node="/first", op_type="Conv", reason="reads the image", macs=1234, every_step=True),
        ),
        other_ops={"Relu": 3, "Add": 1},
    ),
    calibration=dataclasses.replace(
        CALIBRATION,
        corrections=(),  # they are in the weights
        adequacy=None,
        sites=tuple(dataclasses.replace(site, channels=None) for site in CALIBRATION.sites),  # checkpoints stay small
    ),
    weights=Precision.INT8,
    labels=("cat", "chien", "犬"),
    moments_matched=True,
    synapses_refitted=7,
    finetuning=(
        TuningRun(
            epochs=3,
            images=900,
            origin="a folder [x] ü",
            teacher="source",
            learning_rate=0.25,
            seed=4,
            loss_before=0.75,
            loss=0.5,
        ),
    ),
)


def plain(value: Any) -> Any:
    """A record as nested plain values, arrays with their types, so that == compares everything."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return (type(value).__name__, fields)
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tolist())
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(each) for each in value)
    return value


def manifest_in_memory(record: Manifest, folder: Path) -> Manifest:
    return manifest_from_metadata(manifest_to_metadata(record), subject="memory")


def manifest_through_a_file(record: Manifest, folder: Path) -> Manifest:
    model = ir.from_proto(tiny.convolutional())
    write_file(folder / "x.onnx", model_bytes(pack(model, record), subject="x"))
    return unpack(onnx.load(folder / "x.onnx"), subject="x").manifest  # opening asks for a graph of as many timesteps


def calibration_in_memory(record: Calibration, folder: Path) -> Calibration:
    return calibration_from_json(calibration_to_json(record))


def calibration_through_a_file(record: Calibration, folder: Path) -> Calibration:
    write_file(folder / "x.json", json.dumps(calibration_to_json(record)))
    return calibration_from_json(json.loads((folder / "x.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("record", "there_and_back"),
    [
        (MANIFEST, manifest_in_memory),
        (MANIFEST, manifest_through_a_file),
        (CALIBRATION, calibration_in_memory),
        (CALIBRATION, calibration_through_a_file),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_a_record_comes_back_as_it_went(record, there_and_back: Callable, tmp_path: Path):
    assert plain(there_and_back(record, tmp_path)) == plain(record)


@pytest.mark.parametrize("record", [MANIFEST, CALIBRATION], ids=["manifest", "calibration"])
def test_the_record_tried_has_a_value_of_its_own_in_every_field(record):
    """Or else a field that is forgotten on the way would not be noticed."""
    seen: set[tuple[type, str]] = set()
    fields: set[tuple[type, str]] = set()

    def visit(value: Any) -> None:
        if isinstance(value, (tuple, list)):
            for each in value:
                visit(each)
        if not dataclasses.is_dataclass(value):
            return
        for field in dataclasses.fields(value):
            own = getattr(value, field.name)
            fields.add((type(value), field.name))
            default = field.default if field.default is not dataclasses.MISSING else None
            if isinstance(own, np.ndarray) or own != default:
                seen.add((type(value), field.name))
            visit(own)

    visit(record)
    forgotten = {f"{kind.__name__}.{name}" for kind, name in fields - seen}
    assert forgotten <= (
        {"Calibration.corrections", "Calibration.adequacy", "SiteCalibration.channels"} if record is MANIFEST else set()
    )


def test_what_older_versions_wrote_is_still_read():
    record = calibration_to_json(CALIBRATION)
    del record["adequacy"]
    for site in record["sites"]:
        del site["channels"]
        for name in [name for name in site["statistics"] if name not in OLDER]:
            del site["statistics"][name]
    read = calibration_from_json(record)
    assert read.adequacy is None
    assert read.sites[0].channels is None
    assert read.sites[0].quality.levels_used == QUALITY.levels_used
    assert read.sites[0].quality.information_bits is None
    entries = manifest_to_metadata(MANIFEST)
    sites = json.loads(entries["pmsm.sites"])
    for site in sites:
        site["statistics"] = {name: value for name, value in site["statistics"].items() if name in OLDER}
    manifest = manifest_from_metadata(entries | {"pmsm.sites": json.dumps(sites)}, subject="x.onnx")
    assert manifest.calibration.sites[0].quality.activation_entropy_bits is None


def test_files_that_do_not_know_of_resting_are_read_as_resting_at_0():
    record = calibration_to_json(CALIBRATION)
    for site in record["sites"]:
        del site["rest"]
        if site["channels"]:
            del site["channels"]["rest"]
    read = calibration_from_json(record)
    assert all(site.parameters.rests_at_zero for site in read.sites)
    assert read.sites[0].channels.rest.tolist() == [0, 0, 0]
    entries = manifest_to_metadata(MANIFEST)
    sites = [{key: value for key, value in site.items() if key != "rest"} for site in json.loads(entries["pmsm.sites"])]
    manifest = manifest_from_metadata(entries | {"pmsm.sites": json.dumps(sites)}, subject="x.onnx")
    assert all(site.parameters.rests_at_zero for site in manifest.calibration.sites)


def test_figures_channel_by_channel_stay_out_of_checkpoints():
    calibration = dataclasses.replace(MANIFEST.calibration, sites=CALIBRATION.sites, adequacy=CALIBRATION.adequacy)
    assert manifest_to_metadata(dataclasses.replace(MANIFEST, calibration=calibration)) == manifest_to_metadata(
        MANIFEST
    )


def test_an_undefined_figure_of_a_channel_is_null_in_json():
    channels = dataclasses.replace(CHANNELS, signal_to_distortion_db=np.array([np.nan, 1.0, 2.0]))
    (site, _) = CALIBRATION.sites
    record = calibration_to_json(
        dataclasses.replace(CALIBRATION, sites=(dataclasses.replace(site, channels=channels),))
    )
    assert record["sites"][0]["channels"]["signal_to_distortion_db"] == [None, 1.0, 2.0]
    json.dumps(record, allow_nan=False)
    assert np.isnan(calibration_from_json(record).sites[0].channels.signal_to_distortion_db[0])


# Metadata


def metadata(**changes: str | None) -> dict[str, str]:
    """A good manifest's metadata with some keys changed, or taken away by None."""
    entries = manifest_to_metadata(MANIFEST) | {f"pmsm.{key}": value for key, value in changes.items()}
    return {key: value for key, value in entries.items() if value is not None}


def refusal(entries: Mapping[str, str]) -> str:
    with pytest.raises(CheckpointError) as caught:
        manifest_from_metadata(entries, subject="x.onnx")
    return str(caught.value)


def test_every_key_begins_with_our_name_and_holds_json():
    for key, value in metadata().items():
        assert key.startswith("pmsm.")
        json.loads(value)


def test_entries_of_others_are_left_aside():
    entries = metadata() | {"author": "not JSON {"}
    assert plain(manifest_from_metadata(entries, subject="x.onnx")) == plain(MANIFEST)


def test_an_unknown_format_version_is_refused():
    assert refusal(metadata(format_version="2")) == (
        "x.onnx: has checkpoint format version 2; this pmsm knows version 1\n"
        "hint: update pmsm, or convert the source again"
    )


def test_a_file_without_our_metadata_is_no_checkpoint():
    assert refusal({"author": "someone"}) == (
        "x.onnx: is not a spiking checkpoint\nhint: make one first: pmsm convert x.onnx"
    )


def test_a_checkpoint_that_was_never_fine_tuned_says_nothing_of_it():
    """As the files did that were written before there was fine-tuning."""
    untuned = dataclasses.replace(MANIFEST, finetuning=())
    entries = manifest_to_metadata(untuned)
    assert "pmsm.finetuning" not in entries
    assert plain(manifest_from_metadata(entries, subject="x.onnx")) == plain(untuned)


def test_files_from_before_int8_hold_floats():
    entries = metadata()
    del entries["pmsm.weights"]
    assert manifest_from_metadata(entries, subject="x").weights is Precision.FLOAT


@pytest.mark.parametrize("key", sorted(set(metadata()) - {"pmsm.format_version", "pmsm.finetuning", "pmsm.weights"}))
def test_a_missing_key_is_damage(key):
    message = refusal(metadata(**{key.removeprefix("pmsm."): None}))
    assert message == f"x.onnx: its metadata are damaged ('{key}')\nhint: convert the source again"


@pytest.mark.parametrize("value", ["", "{", "null", "7", '"text"', "[]", "{}", '[{"name": 1}]', "[[1]]"])
@pytest.mark.parametrize("key", ["source", "preprocessing", "sites", "calibration", "analog", "coding", "timesteps"])
def test_damage_of_any_kind_is_said_and_never_a_traceback(key, value):
    if (key, value) in {("sites", "[]"), ("sites", "{}"), ("timesteps", "7")}:
        return  # as good as any
    message = refusal(metadata(**{key: value}))
    assert message.startswith("x.onnx: its metadata are damaged (")
    assert message.endswith(")\nhint: convert the source again")


@pytest.mark.parametrize("timesteps", ["0", "-1"])
def test_a_checkpoint_without_timesteps_is_damage(timesteps):
    assert refusal(metadata(timesteps=timesteps)) == (
        f"x.onnx: its metadata are damaged ({timesteps} timesteps)\nhint: convert the source again"
    )


def test_the_model_given_to_pack_is_not_changed():
    model = ir.from_proto(tiny.convolutional())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    packed = pack(model, MANIFEST)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert packed.metadata_props["pmsm.timesteps"] == "5"
    assert packed.producer_name == "pmsm"


def test_unpack_takes_what_pack_gives():
    proto = ir.to_proto(pack(ir.from_proto(tiny.convolutional()), MANIFEST))
    opened = unpack(proto, subject="x.onnx")
    assert plain(opened.manifest) == plain(MANIFEST)
    assert [node.op_type for node in opened.model.graph][:2] == ["Conv", "Relu"]
    assert opened.subject == "x.onnx"


def test_a_checkpoint_that_cannot_be_read_is_a_checkpoints_fault(tmp_path: Path):
    (tmp_path / "x.onnx").write_text("no network")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "x.onnx")
    assert str(caught.value) == (
        f"{tmp_path / 'x.onnx'}: is not an ONNX model, or is cut short\n"
        "hint: was the file downloaded or copied completely?"
    )


def test_a_checkpoint_is_valid_onnx(checkpoint: Path, stepwise: Path):
    for path in (checkpoint, stepwise):
        onnx.checker.check_model(onnx.load(path), full_check=True)


# Calibrations


def calibration_refusal(record: Any) -> str:
    with pytest.raises(CalibrationError) as caught:
        calibration_from_json(record)
    return str(caught.value)


def test_a_calibration_of_an_unknown_version_is_refused():
    assert calibration_refusal(calibration_to_json(CALIBRATION) | {"pmsm_calibration": 2}) == (
        "has format version 2, this pmsm knows 1\nhint: calibrate again with this version"
    )


@pytest.mark.parametrize("record", [None, 3, "text", [], {}, {"sites": []}])
def test_json_of_another_kind_is_no_calibration(record):
    assert calibration_refusal(record) == "is not a calibration file\nhint: `pmsm calibrate` writes them"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "guess"},
        {"levels": "many"},
        {"images": {}},
        {"images": None},
        {"sites": None},
        {"sites": [3]},
        {"sites": ["text"]},
        {"sites": [{"name": "a"}]},
        {"corrections": [{"node": "a"}]},
        {"corrections": 1},
    ],
    ids=str,
)
def test_a_damaged_calibration_is_refused(change):
    message = calibration_refusal(calibration_to_json(CALIBRATION) | change)
    assert message.startswith("is damaged (")
    assert message.endswith(")\nhint: calibrate again")


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_a_threshold_that_no_neuron_can_have_is_damage(threshold):
    record = calibration_to_json(CALIBRATION)
    record["sites"][1]["threshold"] = threshold
    assert calibration_refusal(record) == ("is damaged (thresholds must be finite and positive)\nhint: calibrate again")

"""What a checkpoint says of itself, and how that is written into an ONNX file's metadata.

Every key begins with `pmsm.` and holds JSON:

    pmsm.format_version  the version of this format; a reader refuses one that it does not know
    pmsm.tool_version    the pmsm that wrote the file
    pmsm.timesteps       T
    pmsm.coding          refine or rate
    pmsm.source          name and sha256 of the source file
    pmsm.preprocessing   size, crop, mean, std, channel order, layout, interpolation
    pmsm.sites           per site: the neurons (threshold, rest, N, P), what reads it, what it keeps of the activations
    pmsm.weights         float or int8 (files without it: float)
    pmsm.calibration     method, bound on the levels and how it was found, whether moments were matched, weights
                         refitted, the images
    pmsm.analog          the layers not driven by spikes and why, and the other operators by type
    pmsm.finetuning      the runs of fine-tuning, in order (left out where there was none)
    pmsm.labels          the class names, where known
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import index  # whole numbers as they are
from typing import Any

from pmsm_cli.calibration.calibrate import Calibration, Images
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.plain import plain_record
from pmsm_cli.calibration.record import allocation_from_json, site_from_json, site_to_json
from pmsm_cli.errors import CheckpointError, PmsmError
from pmsm_cli.graph.sites import AnalogLayer, Reader, Site, SitePlan
from pmsm_cli.lowering.precision import Precision
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.sources.preprocessing import Preprocessing

FORMAT_VERSION = 1
PREFIX = "pmsm."


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningRun:
    """One run of fine-tuning that a checkpoint went through."""

    epochs: int  # up to the one that was kept
    images: int  # trained on in each epoch
    origin: str
    teacher: str  # source or labels
    learning_rate: float
    seed: int
    loss_before: float  # on images held out from training
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything that a checkpoint says of itself."""

    tool_version: str
    timesteps: int
    coding: Coding
    source_name: str
    source_sha256: str
    preprocessing: Preprocessing
    plan: SitePlan
    calibration: Calibration
    labels: tuple[str, ...] = ()
    moments_matched: bool = False  # the corrections themselves are in the weights
    synapses_refitted: int = 0  # how many have weights that make up for what spikes lose
    finetuning: tuple[TuningRun, ...] = ()  # in order; weights and thresholds are those after the last run
    weights: Precision = Precision.FLOAT


def manifest_to_metadata(manifest: Manifest) -> dict[str, str]:
    """The manifest as `metadata_props` of an ONNX file."""
    calibration, plan = manifest.calibration, manifest.plan
    records: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "tool_version": manifest.tool_version,
        "timesteps": manifest.timesteps,
        "coding": manifest.coding.value,
        "source": {"name": manifest.source_name, "sha256": manifest.source_sha256},
        "preprocessing": manifest.preprocessing.to_json(),
        "sites": [
            {**dataclasses.asdict(site), **site_to_json(calibrated)}
            for site, calibrated in zip(plan.sites, calibration.sites, strict=True)
        ],
        "calibration": {
            "method": calibration.method.value,
            "levels": calibration.levels,
            "moments_matched": manifest.moments_matched,
            "synapses_refitted": manifest.synapses_refitted,
            "images": dataclasses.asdict(calibration.images),
            "allocation": dataclasses.asdict(calibration.allocation) if calibration.allocation else None,
        },
        "analog": {
            "layers": [dataclasses.asdict(layer) for layer in plan.analog_layers],
            "other_ops": dict(plan.other_ops),
        },
        "labels": list(manifest.labels),
        "weights": manifest.weights.value,
    }
    if manifest.finetuning:
        records["finetuning"] = [dataclasses.asdict(run) for run in manifest.finetuning]
    return {PREFIX + key: json.dumps(value) for key, value in records.items()}


def manifest_from_metadata(metadata: Mapping[str, str], *, subject: str) -> Manifest:
    """The inverse of `manifest_to_metadata`.

    Raises:
        CheckpointError: the metadata are not ours, of an unknown format version, or damaged.
    """
    version = metadata.get(f"{PREFIX}format_version")
    if version is None:
        raise CheckpointError(
            "is not a spiking checkpoint", subject=subject, hint=f"make one first: pmsm convert {subject}"
        )
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"has checkpoint format version {version}; this pmsm knows version {FORMAT_VERSION}",
            subject=subject,
            hint="update pmsm, or convert the source again",
        )
    try:
        return _from_records({key: json.loads(value) for key, value in metadata.items() if key.startswith(PREFIX)})
    except (AttributeError, KeyError, TypeError, ValueError, PmsmError) as error:
        raise CheckpointError(
            f"its metadata are damaged ({error})", subject=subject, hint="convert the source again"
        ) from error


def _from_records(records: dict[str, Any]) -> Manifest:
    sites = records["pmsm.sites"]
    if not sites:
        raise ValueError("they name no site")
    source, calibration, analog = records["pmsm.source"], records["pmsm.calibration"], records["pmsm.analog"]
    timesteps = index(records["pmsm.timesteps"])
    if timesteps < 1:
        raise ValueError(f"{timesteps} timesteps")
    return Manifest(
        tool_version=records["pmsm.tool_version"],
        timesteps=timesteps,
        coding=Coding(records["pmsm.coding"]),
        source_name=_text(source["name"]),
        source_sha256=source["sha256"],
        preprocessing=Preprocessing.from_json(records["pmsm.preprocessing"]),
        plan=SitePlan(
            sites=tuple(_site_from_json(site) for site in sites),
            analog_layers=tuple(plain_record(AnalogLayer, layer) for layer in analog["layers"]),
            other_ops=analog["other_ops"],
        ),
        calibration=Calibration(
            source_sha256=source["sha256"],
            method=Method(calibration["method"]),
            levels=int(calibration["levels"]),
            images=plain_record(Images, calibration["images"]),
            sites=tuple(site_from_json(site) for site in sites),
            allocation=allocation_from_json(calibration.get("allocation")),
        ),
        labels=tuple(map(_text, records["pmsm.labels"])),
        moments_matched=bool(calibration["moments_matched"]),
        synapses_refitted=int(calibration.get("synapses_refitted", 0)),
        finetuning=tuple(TuningRun(**run) for run in records.get("pmsm.finetuning", ())),
        weights=Precision(records.get("pmsm.weights", Precision.FLOAT)),
    )


def _site_from_json(record: dict[str, Any]) -> Site:
    own = {field.name: record[field.name] for field in dataclasses.fields(Site) if field.name in record}  # else default
    own["readers"] = tuple(plain_record(Reader, reader) for reader in record["readers"])
    own["analog_readers"] = tuple(record["analog_readers"])
    return plain_record(Site, own)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value

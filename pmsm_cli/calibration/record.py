"""A calibration as JSON and back: the file that `pmsm calibrate` writes and `pmsm convert --calibration` reads."""

import dataclasses
from operator import index  # whole numbers as they are: int() would round 4.5
from typing import Any

import numpy as np

from pmsm_cli.calibration.adequacy import Adequacy, SiteAdequacy
from pmsm_cli.calibration.allocation import Allocation, Point
from pmsm_cli.calibration.calibrate import Calibration, Images, SiteCalibration
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.plain import plain_record
from pmsm_cli.calibration.quality import ChannelQuality, SiteQuality
from pmsm_cli.errors import CalibrationError
from pmsm_cli.neuron.parameters import Correction, NeuronParameters

FORMAT_VERSION = 1
_EXACT = ("threshold", "rest")  # single precision, as neurons use them


def calibration_to_json(calibration: Calibration) -> dict[str, Any]:
    """The calibration as plain JSON values."""
    return {
        "pmsm_calibration": FORMAT_VERSION,
        "source_sha256": calibration.source_sha256,
        "method": calibration.method.value,
        "levels": calibration.levels,
        "images": dataclasses.asdict(calibration.images),
        "sites": [{**site_to_json(site), "channels": _channels_to_json(site.channels)} for site in calibration.sites],
        "adequacy": dataclasses.asdict(calibration.adequacy) if calibration.adequacy else None,
        "allocation": dataclasses.asdict(calibration.allocation) if calibration.allocation else None,
        "corrections": [
            {"node": each.node, "scale": each.scale.tolist(), "shift": each.shift.tolist()}
            for each in calibration.corrections
        ],
    }


def calibration_from_json(record: Any) -> Calibration:
    """The inverse of `calibration_to_json`.

    Raises:
        CalibrationError: the record is not a calibration, or of a format that this version does not know.
    """
    if not isinstance(record, dict) or "pmsm_calibration" not in record:
        raise CalibrationError("is not a calibration file", hint="`pmsm calibrate` writes them")
    if record["pmsm_calibration"] != FORMAT_VERSION:
        raise CalibrationError(
            f"has format version {record['pmsm_calibration']}, this pmsm knows {FORMAT_VERSION}",
            hint="calibrate again with this version",
        )
    try:
        return Calibration(
            source_sha256=str(record["source_sha256"]),
            method=Method(record["method"]),
            levels=int(record["levels"]),
            images=plain_record(Images, record["images"]),
            sites=tuple(
                dataclasses.replace(site_from_json(site), channels=_channels_from_json(site.get("channels")))
                for site in record["sites"]
            ),
            corrections=tuple(
                Correction(
                    node=each["node"],
                    scale=np.asarray(each["scale"], np.float32),
                    shift=np.asarray(each["shift"], np.float32),
                )
                for each in record["corrections"]
            ),
            adequacy=_adequacy_from_json(record.get("adequacy")),
            allocation=allocation_from_json(record.get("allocation")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"is damaged ({error})", hint="calibrate again") from error


def site_to_json(site: SiteCalibration) -> dict[str, Any]:
    """One site: threshold and resting count (a number, or a list with one a channel), N, P and what they keep."""
    centre = {} if site.centre is None else {"centre": site.centre.tolist()}
    return {
        "name": site.name,
        "threshold": site.parameters.threshold.tolist(),
        "rest": site.parameters.rest.tolist(),
        "negative_levels": site.parameters.negative_levels,
        "positive_levels": site.parameters.positive_levels,
        **centre,
        "statistics": dataclasses.asdict(site.quality),
    }


def site_from_json(record: dict[str, Any]) -> SiteCalibration:
    """The inverse of `site_to_json`; raises what a damaged record makes it trip over."""
    return SiteCalibration(
        name=str(record["name"]),
        parameters=NeuronParameters(
            threshold=np.asarray(record["threshold"], np.float32),
            negative_levels=index(record["negative_levels"]),
            positive_levels=index(record["positive_levels"]),
            rest=np.asarray(record.get("rest", 0), np.float32),  # unknown to older files, whose neurons rest at 0
        ),
        quality=plain_record(SiteQuality, record["statistics"]),
        centre=np.asarray(record["centre"], np.float32) if "centre" in record else None,
    )


def _channels_to_json(channels: ChannelQuality | None) -> dict[str, list[float | None]] | None:
    """One list a field, rounded to what the figures are good for; an undefined value becomes null."""
    if channels is None:
        return None
    record: dict[str, list[float | None]] = {}
    for field in dataclasses.fields(channels):
        values = getattr(channels, field.name).tolist()
        exact = field.name in _EXACT
        record[field.name] = [
            None if np.isnan(value) else value if exact else float(f"{value:.5g}") for value in values
        ]
    return record


def _channels_from_json(record: dict[str, list[float | None]] | None) -> ChannelQuality | None:
    if record is None:
        return None
    older = {"rest": [0.0] * len(record["threshold"])}  # unknown to older files
    arrays: dict[str, Any] = {  # None becomes NaN
        name: np.array(values, np.float32 if name in _EXACT else np.float64)
        for name, values in (older | record).items()
    }
    return ChannelQuality(**arrays)


def allocation_from_json(record: dict[str, Any] | None) -> Allocation | None:
    """How levels were found, from what `dataclasses.asdict` made of it; None where they were stated."""
    if record is None:
        return None
    curve = tuple(Point(**point) for point in record["curve"])
    return Allocation(**{**record, "chosen": Point(**record["chosen"]), "curve": curve})


def _adequacy_from_json(record: dict[str, Any] | None) -> Adequacy | None:
    if record is None:
        return None
    sites = tuple(SiteAdequacy(**site) for site in record["sites"])
    return Adequacy(median=float(record["median"]), worst_site=str(record["worst_site"]), sites=sites)

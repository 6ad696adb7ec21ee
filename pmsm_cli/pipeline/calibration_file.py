"""Calibrations as files: what `pmsm calibrate` writes and `pmsm convert --calibration` reads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pmsm_cli.calibration.record import calibration_from_json, calibration_to_json
from pmsm_cli.errors import CalibrationError, PmsmError
from pmsm_cli.pipeline.conversion import Calibrated, Loaded
from pmsm_cli.runtime.fit import check_calibration


def calibration_record(loaded: Loaded, calibrated: Calibrated) -> dict[str, Any]:
    """What `read_calibration` reads back: the calibration, and the circumstances that it holds for."""
    record = calibration_to_json(calibrated.calibration)
    return {**record, "preprocessing": loaded.preprocessing.to_json(), "labels": calibrated.class_names}


def read_calibration(path: Path, loaded: Loaded) -> Calibrated:
    """A calibration from a file, for the network and the preprocessing that it was made with.

    Raises:
        CalibrationError: the file is unusable, or belongs to another network or preprocessing.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        calibration = calibration_from_json(record)
    except OSError as error:
        raise CalibrationError(f"cannot be read ({error.strerror})", subject=str(path)) from error
    except ValueError as error:
        raise CalibrationError("is not JSON", subject=str(path), hint="`pmsm calibrate` writes calibrations") from error
    except PmsmError as error:
        raise CalibrationError(error.problem, subject=str(path), hint=error.hint) from error
    if calibration.source_sha256 != loaded.source.sha256:
        raise CalibrationError(
            f"was made with another network than {loaded.source.path}",
            subject=str(path),
            hint=f"pmsm calibrate {loaded.source.path} IMAGES -o {path}",
        )
    check_calibration(calibration, loaded.network, loaded.plan, loaded.shapes, subject=str(path))
    own = json.loads(json.dumps(loaded.preprocessing.to_json()))
    theirs = record.get("preprocessing", own)
    if theirs != own:
        raise CalibrationError(
            "was made with another preprocessing",
            subject=str(path),
            details=[
                f"{key}: {value} there, {own.get(key)} here" for key, value in theirs.items() if own.get(key) != value
            ],
            hint="leave out --preprocess: the calibration knows its own",
        )
    ordered = {site.name: site for site in calibration.sites}
    calibration = replace(calibration, sites=tuple(ordered[site.name] for site in loaded.plan.sites))
    names = tuple(str(name) for name in record.get("labels", ()))
    return Calibrated(calibration=calibration, class_names=names, skipped=(), warnings=())

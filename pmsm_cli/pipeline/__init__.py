"""The main jobs, one function a command: each reads like the list of its stages, prints nothing and writes nothing."""

from pmsm_cli.pipeline.calibration_file import calibration_record, read_calibration
from pmsm_cli.pipeline.conversion import (
    CalibrationSettings,
    InputSettings,
    calibrate_source,
    convert,
    load_source,
    summarise,
)
from pmsm_cli.pipeline.image_remarks import accuracy_remarks, image_remarks
from pmsm_cli.pipeline.inputs import (
    Progress,
    is_checkpoint,
    open_network,
    open_sample,
    open_source_of,
    read_labels,
    source_remarks,
)
from pmsm_cli.pipeline.measurement import (
    evaluate_checkpoint,
    has_labels,
    open_reference,
    predict_images,
    report_checkpoint,
    tells_classes_apart,
)
from pmsm_cli.pipeline.refitting import refit_weights
from pmsm_cli.pipeline.rounding import round_to_int8
from pmsm_cli.pipeline.tuning import Guide, check_torch, find_guide, finetune_checkpoint, summarise_tuning

__all__ = [
    "CalibrationSettings",
    "Guide",
    "InputSettings",
    "Progress",
    "accuracy_remarks",
    "calibrate_source",
    "calibration_record",
    "check_torch",
    "convert",
    "evaluate_checkpoint",
    "find_guide",
    "finetune_checkpoint",
    "has_labels",
    "image_remarks",
    "is_checkpoint",
    "load_source",
    "open_network",
    "open_reference",
    "open_sample",
    "open_source_of",
    "predict_images",
    "read_calibration",
    "read_labels",
    "refit_weights",
    "report_checkpoint",
    "round_to_int8",
    "source_remarks",
    "summarise",
    "summarise_tuning",
    "tells_classes_apart",
]

"""Whether what is handed over fits together, found out before a long run rather than in the midst of it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from pmsm_cli.calibration.calibrate import Calibration
from pmsm_cli.errors import BadInputError, CalibrationError, DataError, shorten
from pmsm_cli.graph.keys import keys_of
from pmsm_cli.graph.matching import matched_readers
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.rest import resting_sites
from pmsm_cli.graph.scores import class_count
from pmsm_cli.graph.sites import Site, SitePlan
from pmsm_cli.runtime.evaluate import FOLDERS_HINT, source_outputs
from pmsm_cli.runtime.session import Session
from pmsm_cli.runtime.shapes import known_shapes
from pmsm_cli.sources.images import ImageFiles, ImageSet


def check_calibration(
    calibration: Calibration, network: Network, plan: SitePlan, shapes: Mapping[str, Shape], *, subject: str
) -> None:
    """Fail where a calibration is not one of these sites and synapses.

    Raises:
        CalibrationError: sites are missing or too many, hold thresholds or corrections for other channels, or rest
            where they cannot.
    """
    wanted, held = {site.name for site in plan.sites}, {site.name for site in calibration.sites}
    if wanted != held:
        raise CalibrationError(
            "does not hold the sites that this conversion has",
            subject=subject,
            details=shorten(sorted(wanted ^ held)),
            hint="use the same --spiking-input for both, or calibrate again",
        )
    outputs = {node.name: node.outputs[0].name or "" for node in network.model.graph}
    corrected = {
        each.node: shapes[outputs[each.node]][each.axis] for each in matched_readers(network.model, plan, shapes)
    }
    channels = {site.name: site.channels for site in plan.sites}
    damaged = [
        f"{name}: {threshold.shape} thresholds for {channels[name]} channels"
        for name, threshold in ((site.name, site.parameters.threshold) for site in calibration.sites)
        if threshold.shape not in ((), (channels[name],))
    ] + [
        f"{each.node}: corrections {each.scale.shape} and {each.shift.shape} for {corrected.get(each.node, 0)} channels"
        for each in calibration.corrections
        if not each.scale.shape == each.shift.shape == (corrected.get(each.node),)
    ]
    may_rest = resting_sites(network, plan, shapes)
    damaged += [
        f"{site.name}: rests at another value than 0, which what reads it does not allow"
        for site in calibration.sites
        if not site.parameters.rests_at_zero and site.name not in may_rest
    ]
    keys = {each.site: each.shape for each in keys_of(network, plan, shapes)}
    damaged += [
        f"{name}: a centre {centre.shape}, where {keys.get(name, 'none')} is possible"
        if centre.shape != keys.get(name)
        else f"{name}: a centre that is infinite or not a number"
        for name, centre in calibration.centres.items()
        if centre.shape != keys.get(name) or not np.isfinite(centre).all()
    ]
    if damaged:
        raise CalibrationError(
            "does not fit the network's channels", subject=subject, details=shorten(damaged), hint="calibrate again"
        )


def check_labels(images: ImageSet, model: ir.Model) -> None:
    """Fail where the network has too few classes for the labels.

    Raises:
        DataError: a label is beyond the network's classes, as far as its graph states how many there are.
    """
    classes = class_count(model)
    if images.labels is not None and classes is not None and images.labels.max() >= classes:
        raise DataError(
            f"its labels need {int(images.labels.max()) + 1} classes, the network has {classes}",
            subject=images.origin,
            hint=FOLDERS_HINT
            if isinstance(images, ImageFiles) or images.class_names
            else "labels count classes from 0 on",
        )


def check_comparable(spiking: Session, source: Session, *, source_name: str, option: str = "--against") -> None:
    """Fail where two networks do not read and give tensors of the same sizes; any form of the source will do.

    `option` is what named it on the command line.

    Raises:
        BadInputError: they cannot be the same network.
    """
    kept = source_outputs(spiking.output_names)
    mine = [output for output in spiking.runner.get_outputs() if output.name in kept]
    theirs = source.runner.get_outputs()
    pairs = [(spiking.runner.get_inputs()[0], source.runner.get_inputs()[0]), *zip(mine, theirs, strict=False)]
    different = [
        f"{other.name}: {_sizes(other)}, in the checkpoint {own.name}: {_sizes(own)}"
        for own, other in pairs
        if not _may_be_equal(own.shape, other.shape)
    ]
    if len(mine) != len(theirs):
        different.append(f"{len(theirs)} outputs, in the checkpoint {len(mine)}")
    if different:
        raise BadInputError(
            f"is not the network that the checkpoint was made from ({source_name})",
            subject=source.subject,
            details=different,
            hint=f"{option} takes the source network, as one ONNX file or another",
        )


def check_same_tensors(network: Network, plan: SitePlan, image: Shape, *, source_name: str) -> None:
    """Fail where a network that reads such images, [channels, height, width], has not the tensors that became spikes.

    Raises:
        BadInputError: it is another network, or exported otherwise.
    """
    batch = network.image.batch or 1
    shapes = known_shapes(network, (batch, *image))
    shapes[network.model.graph.inputs[0].name or ""] = (batch, *image)
    missing = []
    for site in plan.sites:
        shape = shapes.get(site.name)
        if shape is None:
            missing.append(site.name)
        elif site.neurons not in (None, math.prod(shape) // batch) or not _has_channels(shape, site):
            missing.append(f"{site.name}: {'x'.join(map(str, shape[1:]))} here")
    if missing:
        raise BadInputError(
            f"has not {len(missing)} of the {len(plan.sites)} tensors that became spikes in the checkpoint",
            subject=network.subject,
            details=shorten(missing),
            hint=f"--against takes the file that the checkpoint was made from ({source_name})",
        )


def _has_channels(shape: Shape, site: Site) -> bool:
    axis = site.channel_axis
    return axis is None or (len(shape) >= -axis and shape[axis] == site.channels)


def _may_be_equal(own: list[Any], other: list[Any]) -> bool:
    """Sizes that a graph leaves open are names or None and fit anything, and so does any size of the batch."""
    pairs = zip(own[1:], other[1:], strict=False)
    return len(own) == len(other) and all(
        mine == theirs for mine, theirs in pairs if isinstance(mine, int) and isinstance(theirs, int)
    )


def _sizes(value: Any) -> str:
    return "x".join("?" if size is None else str(size) for size in value.shape)

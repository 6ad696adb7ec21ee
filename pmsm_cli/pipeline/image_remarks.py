"""What should be said about images before anyone relies on what was measured on them."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pmsm_cli.calibration.allocation import Allocation
from pmsm_cli.graph.scores import class_count, class_scores
from pmsm_cli.runtime.evaluate import Evaluation, beats_chance
from pmsm_cli.sources.arrays import ImageArray
from pmsm_cli.sources.images import ImageSet, Subset
from pmsm_cli.sources.preprocessing import Preprocessing

_LOOKED_AT = 64  # images of an array
_BELOW_0 = -0.25  # what inputs of dark pixels are at most, for it to be noticed that there are none below 0
_FEWEST_JUDGED = 50  # labelled images: of fewer, chance gets more or less right


def image_remarks(
    images: ImageSet, model: ir.Model, preprocessing: Preprocessing, *, known: Sequence[str] = ()
) -> tuple[str, ...]:
    """Warnings about images that a network of this preprocessing is to read: labels and values.

    `known` are the names of the network's classes.
    """
    return (*_label_remarks(images, model, known), *value_remarks(images, preprocessing))


def accuracy_remarks(result: Evaluation, images: ImageSet, model: ir.Model) -> tuple[str, ...]:
    """Warnings about an accuracy that chance would have given, of the source where there is one."""
    right, classes = (result.ann or result.snn).top1, class_count(model)
    if right is None or classes is None or result.images < _FEWEST_JUDGED or beats_chance(right, classes):
        return ()
    whose = "the source" if result.ann else "the network"
    return (
        f"{images.origin}: {whose} gets hardly more of the labels right than chance would: they may be another "
        "network's, in another order, or the preprocessing another one",
    )


def level_remarks(allocation: Allocation, images: ImageSet, *, stated: bool) -> list[str]:
    """Warnings about labels that levels could not be found by; `stated`: a target was asked for."""
    enough = stated or allocation.images >= _FEWEST_JUDGED
    if images.labels is None or allocation.measure != "agreement" or not enough:
        return []
    return [
        "the source gets hardly more of the labels right than chance would, so that they seem to be another network's, "
        "or the preprocessing another one: levels were found by agreement with the source"
    ]


def _label_remarks(images: ImageSet, model: ir.Model, known: Sequence[str]) -> list[str]:
    names, classes, remarks = images.class_names, class_count(model), []
    if images.labels is not None and class_scores(model) is None:
        remarks.append(f"{images.origin}: its labels are of no use: the network gives no class scores")
    elif images.labels is not None and names and classes is not None and len(names) < classes:
        remarks.append(
            f"{images.origin}: its {len(names)} class folders are taken for classes 0 to {len(names) - 1} of "
            f"{classes}: the network's classes do not have their names"
        )
    numbers = [int(name) for name in names if name.isdecimal()]
    if len(numbers) == len(names) and numbers != sorted(numbers) and not set(names) <= set(known):
        remarks.append(
            f"{images.origin}: its class folders are numbers, in the order of texts ({', '.join(names[:3])}, ...), "
            "as most training programs take them; if the network counts them as numbers, put zeros in front"
        )
    return remarks


def value_remarks(images: ImageSet, preprocessing: Preprocessing) -> list[str]:
    """Warnings about floats that look like pixels: they are read as inputs."""
    whole = images.whole if isinstance(images, Subset) else images
    if not isinstance(whole, ImageArray) or whole.values.dtype == np.uint8:
        return []
    seen = np.asarray(whole.values[:_LOOKED_AT], np.float64)
    lowest, highest = float(seen.min(initial=0)), float(seen.max(initial=0))
    black = float(((0 - np.asarray(preprocessing.mean)) / np.asarray(preprocessing.std)).min())
    if lowest < 0 or black > _BELOW_0:
        return []
    return [
        f"{images.origin}: its floats, {lowest:.3g} to {highest:.3g}, are read as they are, though the preprocessing "
        f"makes inputs down to {black:.2g} of pixels: if they are pixels, store them as uint8, and if the network "
        "reads such inputs, --preprocess none says so"
    ]

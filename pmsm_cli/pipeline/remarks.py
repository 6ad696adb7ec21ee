"""What should be said about a calibration before anyone relies on it."""

from pmsm_cli.calibration.adequacy import STEADY
from pmsm_cli.calibration.calibrate import Calibration, SiteCalibration
from pmsm_cli.errors import shorten

FEW_IMAGES = 16
_MOST_NAMED = 3


def remarks(calibration: Calibration, *, synthetic: bool = False) -> list[str]:
    """Warnings, a line each: too few images, thresholds that depend on which images were drawn, constant sites.

    Some dead channels are usual after ReLU; only sites where most channels are constant are worth a warning.
    """
    lines = []
    images, adequacy = calibration.images.images, calibration.adequacy
    if images < FEW_IMAGES:
        lines.append(f"calibrated on {images} image(s) only: a few hundred give steadier thresholds")
    elif adequacy and not adequacy.steady and not synthetic:
        lines.append(
            f"{images} images are too few, or too unlike each other: thresholds from two halves of them differ by "
            f"{adequacy.median:.0f} % ({STEADY:g} % would pass); more --samples give steadier ones"
        )
    channels = {site.name: (site.quality.constant_channels or 0, _rows(site)) for site in calibration.sites}
    constant = {name: (count, rows) for name, (count, rows) in channels.items() if 2 * count > rows}
    if constant:
        named = shorten([f"{name} ({count} of {rows})" for name, (count, rows) in constant.items()], most=_MOST_NAMED)
        lines.append(
            f"most channels hold one value whatever the image, and tell nothing, at {len(constant)} of "
            f"{len(channels)} tensors: {', '.join(named)}; check the images and the preprocessing"
        )
    return lines


def _rows(site: SiteCalibration) -> int:
    return len(site.channels.threshold) if site.channels else site.parameters.threshold.size

"""Statistics of given values, as calibration would gather them."""

import numpy as np

from pmsm_cli.calibration.statistics import HistogramObserver, RangeObserver, SiteStatistics


def observe(values: np.ndarray, *, images: int | None = None, batch: int | None = None) -> SiteStatistics:
    """Of [channels, n], image after image where `images` says how many there are; in batches of so many images."""
    values = values.astype(np.float32)
    ranges = RangeObserver("site", len(values))
    ranges.update(values)
    histogram = HistogramObserver(ranges)
    if images is None:
        histogram.update(values)
        return histogram.result()
    parts = values.reshape(len(values), images, -1)
    size = batch or images
    for first in range(0, images, size):
        part = parts[:, first : first + size]
        histogram.update(part.reshape(len(values), -1), images=part.shape[1], first=first)
    return histogram.result()

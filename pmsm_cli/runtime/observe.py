"""Running the source network over images to see what its sites carry."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from pmsm_cli.calibration.by_site import by_site
from pmsm_cli.calibration.statistics import Floats, HistogramObserver, RangeObserver, SiteStatistics
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.graph.sites import Site, SitePlan
from pmsm_cli.runtime.library import find_library
from pmsm_cli.runtime.session import open_session
from pmsm_cli.runtime.value_counts import counting_of
from pmsm_cli.sources.images import Batch, SkippedImage

PASSES = 2  # over the images: ranges, then histograms

# One threshold for the whole tensor where a threshold a channel would rest on a handful of values each.
_MOST_CHANNELS = 4096
# Of larger maps an evenly spaced part is counted; the extremes are taken from all values.
_VALUES_A_CHANNEL_AND_IMAGE = 4096
_STRIDES = (1, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)


class Observation:
    """What was seen: the statistics of every site, and which images they come from."""

    def __init__(
        self, statistics: dict[str, SiteStatistics], images: int, skipped: tuple[SkippedImage, ...], digest: str
    ) -> None:
        """`digest` is the sha256 of the preprocessed inputs, in order."""
        self.statistics = statistics
        self.images = images
        self.skipped = skipped
        self.digest = digest


def observe(
    network: Network,
    plan: SitePlan,
    batches: Callable[[], Iterator[Batch]],
    *,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Observation:
    """Statistics of every site over two passes of the images; `on_batch` is told how many images each batch had.

    Raises:
        UnsupportedGraphError: onnxruntime cannot run the network.
        CalibrationError: a site carries infinite values or values that are not numbers.
    """
    image_name = network.image.name
    model = with_outputs(network.model, (site.name for site in plan.sites if site.name != image_name))
    session = open_session(model, subject=network.subject, threads=threads)

    def activations(batch: Batch) -> Iterator[tuple[Site, Floats]]:
        results = (
            dict(zip(session.output_names, session.run(batch.inputs), strict=True)) if session.output_names else {}
        )
        for site in plan.sites:
            values = batch.inputs if site.name == image_name else results.pop(site.name)
            yield site, _rows_first(_as_read(values, site), site)

    ranges = {site.name: RangeObserver(site.name, _rows(site)) for site in plan.sites}
    digest, images, skipped = hashlib.sha256(), 0, list[SkippedImage]()
    for batch in batches():
        skipped += batch.skipped
        if len(batch.inputs):
            digest.update(batch.inputs.data)
            images += len(batch.inputs)
            for site, values in activations(batch):
                ranges[site.name].update(values)
        on_batch(len(batch.inputs) + len(batch.skipped))
    counting = counting_of(find_library())
    histograms = {site.name: HistogramObserver(ranges[site.name], counting) for site in plan.sites}
    first = 0  # the number of a batch's first image in the stream
    for batch in batches():
        if count := len(batch.inputs):
            carried = {site.name: values for site, values in activations(batch)}
            _count(histograms, carried, images=count, first=first, threads=threads)
            del carried  # before the next batch has its own
            first += count
        on_batch(len(batch.inputs) + len(batch.skipped))
    statistics = {name: histogram.result() for name, histogram in histograms.items()}
    return Observation(statistics, images, tuple(skipped), digest.hexdigest())


def _count(
    histograms: dict[str, HistogramObserver],
    carried: dict[str, Floats],
    *,
    images: int,
    first: int,
    threads: int | None,
) -> None:
    def update(name: str) -> None:
        histograms[name].update(_thinned(carried[name], images), images=images, first=first)

    by_site(update, carried, threads=threads)


def _as_read(values: Floats, site: Site) -> Floats:
    """What a site's neurons read of its tensor."""
    if site.relative_axis is None:
        return values
    return np.asarray(values / values.max(axis=site.relative_axis, keepdims=True), np.float32)


def _rows_first(values: Floats, site: Site) -> Floats:
    """A site's values as [channels, ...], not copied; one row where it is calibrated as a whole."""
    if _rows(site) == 1 or site.channel_axis is None:
        return values[None]
    return np.moveaxis(values, site.channel_axis, 0)


def _rows(site: Site) -> int:
    return site.channels if site.channel_axis is not None and site.channels <= _MOST_CHANNELS else 1


def _thinned(values: Floats, images: int) -> Floats:
    """An evenly spaced part of each image's values [channels, ...], the same whatever batch the image is in."""
    if values[0].size % images:  # a tensor that does not depend on the image has no batch
        images = 1
    an_image = values.reshape(len(values), images, -1)
    wanted = an_image.shape[2] / (_VALUES_A_CHANNEL_AND_IMAGE * (1 if len(values) > 1 else 64))
    # A stride of a prime number walks through rows and columns of a map alike.
    stride = next((stride for stride in _STRIDES if stride >= wanted), _STRIDES[-1])
    return an_image[:, :, ::stride].reshape(len(values), -1)

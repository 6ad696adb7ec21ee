"""Running the source network over images to see what its sites carry."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pmsm_cli.calibration.by_site import by_site
from pmsm_cli.calibration.statistics import Floats, HistogramObserver, RangeObserver, SiteStatistics
from pmsm_cli.graph.keys import Keys, with_centred_keys
from pmsm_cli.graph.matching import add_moments
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.graph.sites import Site, SitePlan
from pmsm_cli.runtime.centre import KeyObserver
from pmsm_cli.runtime.library import find_library
from pmsm_cli.runtime.match import SourceMoments
from pmsm_cli.runtime.session import open_session
from pmsm_cli.runtime.value_counts import counting_of
from pmsm_cli.sources.images import Batch, SkippedImage

PASSES = 2  # over the images: ranges, then histograms

# One threshold for the whole tensor where a threshold a channel would rest on a handful of values each.
_MOST_CHANNELS = 4096
# Of larger maps an evenly spaced part is counted; the extremes are taken from all values.
_VALUES_A_CHANNEL_AND_IMAGE = 4096
_STRIDES = (1, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observation:
    """What was seen: the statistics of every site, and which images they come from."""

    statistics: dict[str, SiteStatistics]
    images: int
    skipped: tuple[SkippedImage, ...]
    digest: str  # sha256 of the preprocessed inputs, in order
    centres: Mapping[str, Floats] = field(default_factory=dict)  # of keys, whose statistics are about them


def observe(
    network: Network,
    plan: SitePlan,
    batches: Callable[[], Iterator[Batch]],
    *,
    keys: Sequence[Keys] = (),
    shapes: Mapping[str, Shape] | None = None,
    moments: SourceMoments | None = None,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Observation:
    """Statistics of every site over two passes of the images; `on_batch` is told how many images each batch had.

    Sites of `keys` are seen about the mean that the first pass finds; with any, `shapes` are those of one image.
    `moments`, of the same network, are told what they are on each batch.

    Raises:
        UnsupportedGraphError: onnxruntime cannot run the network.
        CalibrationError: a site carries infinite values or values that are not numbers.
    """
    first = _Limits(plan, keys)
    digest, images, skipped = hashlib.sha256(), 0, list[SkippedImage]()
    activations = _Activations(network, plan, threads)
    for batch in batches():
        skipped += batch.skipped
        if len(batch.inputs):
            digest.update(batch.inputs.data)
            images += len(batch.inputs)
            for site, values in activations.of(batch):
                first.update(site, values, len(batch.inputs))
        on_batch(len(batch.inputs) + len(batch.skipped))
    centres, ranges = first.result()
    if centres:
        network, _ = with_centred_keys(network, plan, centres, shapes or {})
    if centres or moments:
        activations = _Activations(network, plan, threads, moments)
    counting = counting_of(find_library())
    histograms = {site.name: HistogramObserver(ranges[site.name], counting) for site in plan.sites}
    seen = 0
    for batch in batches():
        if count := len(batch.inputs):
            carried = {site.name: _rows_first(values, site) for site, values in activations.of(batch)}
            _count(histograms, carried, images=count, first=seen, threads=threads)
            del carried  # before the next batch has its own
            seen += count
        on_batch(len(batch.inputs) + len(batch.skipped))
    statistics = {name: histogram.result() for name, histogram in histograms.items()}
    return Observation(
        statistics=statistics, images=images, skipped=tuple(skipped), digest=digest.hexdigest(), centres=centres
    )


class _Activations:
    """What the sites of a network carry, batch by batch."""

    def __init__(
        self, network: Network, plan: SitePlan, threads: int | None, moments: SourceMoments | None = None
    ) -> None:
        self._plan, self._image, self._moments = plan, network.image.name, moments
        model = with_outputs(network.model, (site.name for site in plan.sites if site.name != self._image))
        if moments:
            add_moments(model.graph, moments.readers)
        self._session = open_session(model, subject=network.subject, threads=threads)

    def of(self, batch: Batch) -> Iterator[tuple[Site, Floats]]:
        """Each site with its values, as its neurons read them; they are let go one by one."""
        names = self._session.output_names
        results = dict(zip(names, self._session.run(batch.inputs), strict=True)) if names else {}
        if self._moments:
            self._moments.remember(batch.inputs, results)
        for site in self._plan.sites:
            values = batch.inputs if site.name == self._image else results.pop(site.name)
            yield site, _as_read(values, site)


class _Limits:
    """The first pass: the range of every site, that of keys about their mean."""

    def __init__(self, plan: SitePlan, keys: Sequence[Keys]) -> None:
        self._sites = {site.name: site for site in plan.sites}
        self._ranges = {site.name: RangeObserver(site.name, _rows(site)) for site in plan.sites}
        self._keys = {each.site: KeyObserver(each) for each in keys}

    def update(self, site: Site, values: Floats, images: int) -> None:
        if site.name in self._keys:
            self._keys[site.name].update(values, images)
        else:
            self._ranges[site.name].update(_rows_first(values, site))

    def result(self) -> tuple[dict[str, Floats], dict[str, RangeObserver]]:
        """The means of keys, and the ranges, by the sites' names."""
        for name, seen in self._keys.items():
            for limit in seen.limits:
                self._ranges[name].update(_rows_first(limit, self._sites[name]))
        return {name: seen.centre for name, seen in self._keys.items()}, self._ranges


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

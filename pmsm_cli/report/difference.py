"""Where a checkpoint's accuracy goes; the record behind its table and JSON."""

from dataclasses import dataclass

from pmsm_cli.sources.images import SkippedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteFigures:
    """What one site's spikes make of its tensor; ratios are those of signal to noise."""

    name: str
    readers: tuple[str, ...]  # types of the operators that read its spikes
    neurons: int | None  # of one image
    negative_levels: int
    positive_levels: int
    alone_db: float | None  # its neurons on the source's own values; None: no error, or no signal
    accumulated_db: float | None  # in the spiking network, after the last step
    alone_cosine: float | None
    accumulated_cosine: float | None
    clipped: float  # percent of the source's values beyond what its neurons carry
    clipped_error: float  # percent of its squared error alone that these make
    # Error of the outputs with its neurons in the source and no others, percent: L2 relative, of a mostly constant
    # output to what varies of it.
    damage: float
    advice: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bisection:
    """The fewest sites found that need more levels for the loss to be within the target."""

    target_drop: float  # points
    measure: str  # "top-1" or "agreement"
    factor: int  # how many times the levels, with thresholds set anew
    drop_before: float  # with all sites as they are
    drop_everywhere: float  # with more levels at all of them
    drop: float  # with more levels at `sites`
    kept: bool  # whether that is within the target
    sites: tuple[str, ...]
    tried: int  # networks that were measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A checkpoint beside its source, site by site, the most damaging one first."""

    checkpoint: str
    source: str
    images: int
    probed_images: int  # that damage was measured on
    timesteps: int
    source_top1: float | None  # percent; None: no labels, or no classes
    top1: float | None
    agreement: float | None  # percent of the images that get the source's class; None: no classes
    output_error: float | None  # mean over the outputs, L2 relative, percent
    sites: tuple[SiteFigures, ...]
    bisection: Bisection | None
    skipped: tuple[SkippedImage, ...]
    warnings: tuple[str, ...]

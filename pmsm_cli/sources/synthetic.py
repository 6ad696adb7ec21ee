"""Images made up on the spot, for conversions without any data."""

from dataclasses import dataclass

import numpy as np

from pmsm_cli.sources.images import Labels
from pmsm_cli.sources.preprocessing import Floats, Preprocessing


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticImages:
    """Colour noise whose spectrum falls as that of photographs does (amplitude as 1 / frequency), seeded by index.

    Statistics of natural images: D. J. Field, J. Opt. Soc. Am. A 4 (1987), 2379.
    """

    count: int
    seed: int
    origin: str = "synthetic images"
    labels: Labels | None = None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many images there are."""
        return self.count

    def name(self, index: int) -> str:
        """A name for messages."""
        return f"synthetic[{index}]"

    def load(self, index: int, preprocessing: Preprocessing) -> Floats:
        """One image, preprocessed as a photograph would be."""
        random = np.random.default_rng((self.seed, index))
        height, width, channels = preprocessing.height, preprocessing.width, preprocessing.channel_count
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
        frequency[0, 0] = np.inf  # the mean is set below
        spectrum = np.fft.rfft2(random.standard_normal((channels, height, width))) / frequency
        waves = np.fft.irfft2(spectrum, s=(height, width))
        # Most of the contrast of photographs is common to the channels.
        waves = 0.8 * waves.mean(axis=0) * np.sqrt(channels) + 0.4 * waves
        waves /= waves.std() + 1e-12
        brightness, contrast = random.uniform(80, 160), random.uniform(40, 70)
        return preprocessing.normalise(np.clip(brightness + contrast * waves, 0, 255).transpose(1, 2, 0))

"""Images made up on the spot, for conversions without any data."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmsm_cli.sources.arrays import Labels
from pmsm_cli.sources.preprocessing import Floats, Preprocessing

SYNTHETIC = "synthetic images"

_LEAVES = 30  # a picture
_SMALLEST_LEAF, _LARGEST_LEAF = 1 / 16, 2 / 3  # radius, as a share of the picture's longer side

Planes = npt.NDArray[np.float64]  # [channels, height, width]


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticImages:
    """Ellipses of many sizes that cover one another, shaded and textured, before a clouded ground; seeded by index.

    Three things that photographs have and plain noise has not make the activations of a network on them more like those
    on photographs: edges between areas that are alike in themselves, objects of all sizes ("dead leaves": A. B. Lee,
    D. Mumford, J. Huang, Int. J. Comput. Vision 41 (2001), 35), and a spectrum that falls with frequency (amplitude as
    1 / frequency: D. J. Field, J. Opt. Soc. Am. A 4 (1987), 2379).
    """

    count: int
    seed: int
    origin: str = SYNTHETIC
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
        shape = (preprocessing.channel_count, preprocessing.height, preprocessing.width)
        picture = _clouds(random, shape)
        for _ in range(_LEAVES):
            _add_leaf(random, picture)
        picture += random.uniform(0.1, 0.5) * _clouds(random, shape)
        picture -= picture.mean()
        picture /= picture.std() + 1e-12
        brightness, contrast = random.uniform(80, 160), random.uniform(15, 90)
        return preprocessing.normalise(np.clip(brightness + contrast * picture, 0, 255).transpose(1, 2, 0))


def _clouds(random: np.random.Generator, shape: tuple[int, int, int]) -> Planes:
    """Noise whose amplitude falls as 1 / frequency, of mean 0 and deviation 1."""
    channels, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf  # brightness is set at the end
    spectrum = np.fft.rfft2(random.standard_normal(shape)) / frequency
    waves = np.fft.irfft2(spectrum, s=(height, width))
    # Most of the contrast of photographs is common to the channels.
    waves = 0.8 * waves.mean(axis=0) * np.sqrt(channels) + 0.4 * waves
    clouds: Planes = waves / (waves.std() + 1e-12)
    return clouds


def _add_leaf(random: np.random.Generator, picture: Planes) -> None:
    """Paint one ellipse over the picture, of one colour that changes slowly across it."""
    channels, height, width = picture.shape
    radius = max(height, width) * np.exp(random.uniform(np.log(_SMALLEST_LEAF), np.log(_LARGEST_LEAF)))
    x, y = random.uniform(-radius / 2, width + radius / 2), random.uniform(-radius / 2, height + radius / 2)
    angle, flatness = random.uniform(0, np.pi), random.uniform(0.4, 1)
    colour = 0.9 * random.standard_normal() + 0.4 * random.standard_normal((channels, 1, 1))
    along, across = random.normal(0, 0.35, 2)  # of the shading
    top, left = max(0, int(y - radius)), max(0, int(x - radius))
    part = picture[:, top : max(0, int(y + radius) + 1), left : max(0, int(x + radius) + 1)]
    down = (np.arange(top, top + part.shape[1]) + 0.5 - y)[:, None] / radius
    right = (np.arange(left, left + part.shape[2]) + 0.5 - x)[None, :] / radius
    first = right * np.cos(angle) + down * np.sin(angle)
    second = (down * np.cos(angle) - right * np.sin(angle)) / flatness
    inside = first**2 + second**2 < 1
    part[:] = np.where(inside, colour + along * first + across * second, part)

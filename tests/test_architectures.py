"""timm's architectures, a block or two of each: what becomes spikes, and outputs like the source's with 255 levels."""

import functools

import numpy as np
import onnx
import pytest

pytest.importorskip("timm", reason="timm is not installed")

import architectures
import integers
import spiking
from ingesting import session_of

from pmsm_cli.lowering.lower import Use, lower, lower_further, tidy_steps
from pmsm_cli.lowering.settle import settle_weights
from pmsm_cli.runtime.library import find_library, library_status
from pmsm_cli.runtime.session import open_session
from pmsm_cli.sources.preprocessing import Channels, Layout, Preprocessing
from pmsm_cli.sources.synthetic import SyntheticImages
from pmsm_cli.sources.timm_model import export_module

IMAGES = 8
SIZES = {"efficientformer": 224}  # its attention knows 7x7 positions only; the others read 32 pixels
READS_IMAGE = "reads the image (direct coding)"

# Sites, the share of the multiply-accumulates that spikes drive (%), and how many sites are rows of a softmax.
EXPECTED = {
    "vit": (9, 69.83, 1),
    "deit": (10, 71.13, 1),
    "swin": (26, 93.48, 3),
    "convnext": (16, 75.63, 0),
    "mlp_mixer": (5, 60.03, 0),
    "efficientnet": (14, 61.77, 0),
    "mobilenetv3": (14, 60.79, 0),
    "regnet": (26, 71.39, 0),
    "resnet": (13, 5.03, 0),  # nearly all of it is the stem
    "vgg": (4, 43.25, 0),
    "densenet": (8, 26.88, 0),
    "inception": (6, 99.89, 0),
    "poolformer": (11, 68.69, 0),
    "metaformer": (16, 82.99, 1),
    "maxvit": (29, 91.62, 2),
    "levit": (28, 83.23, 3),
    "efficientformer": (19, 89.64, 1),
    "xcit": (22, 88.18, 2),  # the encoding of positions is a constant
    "beit": (9, 69.83, 1),
    "eva": (9, 75.14, 1),
    "coatnet": (16, 89.07, 1),
    "hiera": (17, 79.55, 2),
    "repvgg": (4, 60.51, 0),
}


def images(size: int) -> np.ndarray:
    plain = Preprocessing(height=size, width=size, channels=Channels.RGB, layout=Layout.NCHW, mean=(0.5,), std=(0.25,))
    pictures = SyntheticImages(count=IMAGES, seed=0)
    return np.stack([pictures.load(index, plain) for index in range(IMAGES)])


@functools.cache
def exported(name: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """An architecture, and images of its size."""
    inputs = images(SIZES.get(name, 32))
    return architectures.export(architectures.build(name), inputs.shape[-1]), inputs


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_an_architecture_becomes_spikes_and_keeps_its_outputs(name: str):
    proto, inputs = exported(name)
    _, plan, _ = spiking.read(proto, inputs.shape[1:])
    relative = sum(site.relative_axis is not None for site in plan.sites)
    assert (len(plan.sites), round(plan.spiking_share, 2), relative) == EXPECTED[name]
    assert [layer.reason for layer in plan.analog_layers if layer.reason != READS_IMAGE] == []
    (expected,) = session_of(proto).run(None, {"image": inputs})
    checkpoint = spiking.checkpoint_of(proto, inputs, levels=255)
    (given,) = open_session(checkpoint.model, subject=name).run(inputs)
    assert np.linalg.norm(given - expected) < 0.02 * np.linalg.norm(expected)
    # The outputs differ between images, and not by rounding alone.
    assert np.linalg.norm(given - expected) < 0.1 * np.linalg.norm(expected - expected.mean(axis=0))


@pytest.mark.parametrize("name", ["vit", "coatnet", "hiera"])
def test_both_of_torchs_exporters_give_the_same_sites(name: str):
    inputs = images(32)
    proto = export_module(architectures.build(name), inputs.shape[1:])
    _, plan, _ = spiking.read(proto, inputs.shape[1:])
    assert (len(plan.sites), round(plan.spiking_share, 2)) == EXPECTED[name][:2]


@pytest.mark.skipif(find_library() is None, reason=f"no native library: {library_status().reason}")
@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_an_architecture_in_integers_gives_the_same_on_the_library(name: str):
    proto, inputs = exported(name)
    checkpoint = spiking.checkpoint_of(proto, inputs, levels=31)
    low, _ = lower(*settle_weights(checkpoint.model, {}))
    further, changed = lower_further(low, Use(firing={site.name: 20.0 for site in checkpoint.manifest.plan.sites}))
    assert changed
    (given,), (expected,) = (integers.outputs(model, inputs, library=find_library()) for model in (further, low))
    # Ties: sums in another order may fall to either side of a count.
    assert np.linalg.norm(given - expected) < 0.005 * np.linalg.norm(expected)


@pytest.mark.skipif(find_library() is None, reason=f"no native library: {library_status().reason}")
@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_an_architecture_takes_its_later_timesteps_side_by_side(name: str):
    proto, inputs = exported(name)
    checkpoint = spiking.checkpoint_of(proto, inputs, levels=15, timesteps=3)
    together, changed = tidy_steps(checkpoint.model, Use(), inputs.shape[1:])
    assert changed
    assert "Scan" not in integers.ops(together)
    results = (integers.outputs(model, inputs[:3], library=find_library()) for model in (together, checkpoint.model))
    for given, expected in zip(*results, strict=True):
        assert given.shape == expected.shape
        assert np.linalg.norm(given - expected) < 0.005 * np.linalg.norm(expected)

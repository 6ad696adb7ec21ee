"""Moments are matched on all calibration images, also where memory holds few of them while weights are refitted."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
from trainable import varied

IMAGES = tiny.images(96, seed=3)


def means(path: Path) -> np.ndarray:
    """Of each class over all images."""
    return ort.InferenceSession(path).run(None, {"image": IMAGES})[0].mean(axis=0)


def test_means_are_the_source_s_on_all_images_where_weights_are_refitted_on_few(
    pmsm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pmsm_cli.pipeline.refitting._MEMORY", 0)  # 32 images, the fewest
    source, data, target = (tmp_path / name for name in ("source.onnx", "images.npy", "made.onnx"))
    onnx.save(varied(), source)
    np.save(data, IMAGES)
    made = pmsm("convert", source, "--data", data, "--preprocess", "none", "--levels", 2, "-o", target, "--json")
    assert made.record["synapses_refitted"] > 0
    np.testing.assert_allclose(means(target), means(source), atol=0.03)  # 0.09 where 32 are all

"""The interpreter on whole pretrained networks, where they lie beside the checkout, against onnxruntime."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pmsm_cli.finetune.interpreter import TorchGraph
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.runtime.session import open_session
from pmsm_cli.sources.onnx_file import open_onnx

MODELS = Path(__file__).parent.parent.parent.parent / "shared" / "models"
NETWORKS = sorted(MODELS.glob("*.onnx"))

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not NETWORKS, reason="the real networks are not beside this checkout (../shared/models)"),
]


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_a_pretrained_network_gives_what_onnxruntime_gives(path: Path):
    network = ingest(open_onnx(path).proto, subject=path.name)
    image = network.image
    shape = image.shape(height=image.height, width=image.width)
    inputs = np.random.default_rng(0).normal(0, 1, (image.batch or 4, *shape[1:])).astype(np.float32)
    expected = open_session(network.model, subject=path.name, threads=1).run(inputs)
    with torch.no_grad():
        got = TorchGraph(network.model, subject=path.name)(torch.from_numpy(inputs))
    for want, have in zip(expected, got.values(), strict=True):
        np.testing.assert_allclose(have.numpy(), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())

"""Spiking networks for tests, from a tiny source to a checkpoint in memory, without files and the command line."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from pmsm_cli.calibration.calibrate import Calibration, Images, calibrate
from pmsm_cli.calibration.method import Method
from pmsm_cli.checkpoint.file import Checkpoint, pack
from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.insert import insert_neurons, spikes_name
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.rest import resting_sites
from pmsm_cli.graph.scan import SCAN_NAME
from pmsm_cli.graph.sites import SitePlan, find_sites
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.runtime.observe import Observation, observe
from pmsm_cli.runtime.shapes import known_shapes
from pmsm_cli.sources.images import Batch, SkippedImage
from pmsm_cli.sources.preprocessing import Channels, Layout, Preprocessing

Array = np.ndarray


def batches_of(
    images: Array, size: int, *, labels: Array | None = None, skipped: tuple[SkippedImage, ...] = ()
) -> Iterator[Batch]:
    """The images in batches; the last one, which may be incomplete, brings what was skipped."""
    for start in range(0, len(images), size):
        stop = start + size
        yield Batch(
            inputs=images[start:stop],
            labels=None if labels is None else labels[start:stop],
            names=tuple(f"image {k}" for k in range(start, min(stop, len(images)))),
            skipped=skipped if stop >= len(images) else (),
        )


def read(proto: onnx.ModelProto, image_shape: Shape, **options: bool) -> tuple[Network, SitePlan, dict[str, Shape]]:
    """A source, its sites and its shapes."""
    network = ingest(proto, subject="net.onnx")
    shapes = known_shapes(network, (network.image.batch or 1, *image_shape))
    return network, find_sites(network, shapes, **options), shapes


def seen(network: Network, plan: SitePlan, images: Array, *, size: int = 16) -> Observation:
    """What the sites carry on these images."""
    return observe(network, plan, lambda: batches_of(images, network.image.batch or size))


def checkpoint_of(
    proto: onnx.ModelProto,
    images: Array,
    *,
    timesteps: int = 1,
    coding: Coding = Coding.REFINE,
    levels: int = 7,
    spiking_input: bool = False,
    method: Method = Method.MSE,
) -> Checkpoint:
    """A checkpoint calibrated on the images, without matching of moments."""
    network, plan, shapes = read(proto, images.shape[1:], spiking_input=spiking_input)
    observation = seen(network, plan, images)
    calibration: Calibration = calibrate(
        observation.statistics,
        levels=levels,
        method=method,
        resting_sites=resting_sites(network, plan, shapes),
        source_sha256="0" * 64,
        images=Images(origin="test", images=len(images), skipped=0, digest=observation.digest, seed=0),
    )
    model: ir.Model = insert_neurons(network, plan, calibration.parameters, shapes)
    if timesteps > 1:
        model = unroll_timesteps(model, plan, timesteps=timesteps, coding=coding)
    last = network.image.channels_last
    manifest = Manifest(
        tool_version="test",
        timesteps=timesteps,
        coding=coding,
        source_name="net",
        source_sha256="0" * 64,
        preprocessing=Preprocessing(
            height=images.shape[1 if last else 2],
            width=images.shape[2 if last else 3],
            channels=Channels.RGB if network.image.channels == 3 else Channels.GRAY,
            layout=Layout.NHWC if last else Layout.NCHW,
        ),
        plan=plan,
        calibration=calibration,
    )
    return Checkpoint(subject="net.snn.onnx", model=pack(model, manifest), manifest=manifest)


def spikes_of(checkpoint: Checkpoint, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every site's spikes, [timesteps, images, ...]; a network of fixed batch must be given just that many."""
    model = checkpoint.model.clone()
    graph = model.graph
    graph.outputs.clear()
    values = {output.name: output for node in graph for output in node.outputs}
    sites = [site.name for site in checkpoint.manifest.plan.sites]
    graph.outputs.extend(values[spikes_name(site)] for site in sites)
    for scan in [node for node in graph if node.name == SCAN_NAME]:
        body = scan.attributes["body"].as_graph()
        inner = {output.name: output for node in body for output in node.outputs}
        for site in sites:
            body.outputs.append(inner[f"{spikes_name(site)}/later"])
            scan.resize_outputs(len(scan.outputs) + 1)
            scan.outputs[-1].name, scan.outputs[-1].type = f"later {site}", ir.TensorType(ir.DataType.FLOAT)
            graph.outputs.append(scan.outputs[-1])
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    got = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))
    return {site: np.stack([got[spikes_name(site)], *got.get(f"later {site}", [])]) for site in sites}


def serialised(model: ir.Model) -> bytes:
    """A model as the bytes of its file."""
    return ir.to_proto(model).SerializeToString()

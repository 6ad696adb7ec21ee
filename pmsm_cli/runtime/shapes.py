"""The shapes of a network's values: as far as they can be inferred, inferred; the others measured on a blank image."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.shapes import infer_shapes
from pmsm_cli.runtime.session import open_session


def known_shapes(network: Network, image_shape: Shape) -> dict[str, Shape]:
    """The shape of every value for images of `image_shape` (batch first), by name.

    Of some operators (group norm, rotary positions) the inference knows nothing, nor of all that follows them.
    """
    shapes = infer_shapes(network.model, image_shape)
    outputs = (output for node in network.model.graph for output in node.outputs)
    activations = [output.name for output in outputs if output.name and output.dtype in (None, ir.DataType.FLOAT)]
    unknown = [name for name in activations if name not in shapes]
    if unknown:
        shapes |= measured_shapes(network.model, unknown, image_shape, network.subject)
    return shapes


def measured_shapes(model: ir.Model, names: Iterable[str], image_shape: Shape, subject: str) -> dict[str, Shape]:
    """The shapes that named values have when the model runs on a blank input of `image_shape`."""
    copy = model.clone()
    values = {output.name: output for node in copy.graph for output in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in names)  # of any type: onnxruntime finds that out by itself
    session = open_session(copy, subject=subject)
    results = zip(session.output_names, session.run(np.zeros(image_shape, np.float32)), strict=True)
    # What is no tensor (a sequence of them) has no shape.
    return {name: result.shape for name, result in results if isinstance(result, np.ndarray)}

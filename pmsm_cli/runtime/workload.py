"""The shapes of a checkpoint's tensors, measured on a blank image, and the work that follows from them."""

import onnx_ir as ir

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.work import Work, image_nodes, work_of
from pmsm_cli.runtime.shapes import measured_shapes


def measure_shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """The shapes of everything that depends on the image at the first timestep, for one image (or the fixed batch)."""
    return shapes_of(checkpoint.model, checkpoint.manifest.preprocessing.shape, subject=checkpoint.subject)


def shapes_of(model: ir.Model, image: Shape, *, subject: str) -> dict[str, Shape]:
    """The same of any graph over timesteps that reads images of this shape."""
    blank = (fixed_batch(model) or 1, *image)
    names = (output.name for node in image_nodes(model) for output in node.outputs if output.name)
    shapes = measured_shapes(model, names, blank, subject)
    shapes[model.graph.inputs[0].name or ""] = blank
    return shapes


def measure_work(checkpoint: Checkpoint, shapes: dict[str, Shape] | None = None) -> Work:
    """What a checkpoint has to do for one image, whatever that costs; `shapes` where they were measured before."""
    shapes = measure_shapes(checkpoint) if shapes is None else shapes
    return work_of(checkpoint.model, checkpoint.manifest.plan, shapes, batch=fixed_batch(checkpoint.model) or 1)


def fixed_batch(model: ir.Model) -> int | None:
    """How many images a graph reads at a time; None where that is left open."""
    shape = model.graph.inputs[0].shape
    return shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None

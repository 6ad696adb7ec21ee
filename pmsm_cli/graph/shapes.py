"""The shapes of a network's values for images of a stated size."""

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from pmsm_cli.graph.clean import fold_shape_arithmetic
from pmsm_cli.graph.network import Shape


def infer_shapes(source: ir.Model, image_shape: Shape) -> dict[str, Shape]:
    """The shape of every value whose shape can be known, by name, where the input has `image_shape` (batch first)."""
    model = source.clone()
    model.graph.inputs[0].shape = ir.Shape(image_shape)
    outputs = [output for node in model.graph for output in node.outputs]
    for output in outputs:
        output.shape = None  # recorded for an open batch: would keep the inference from going further
    fold_shape_arithmetic(model)
    common_passes.ShapeInferencePass(data_prop=True)(model)
    outputs = [output for node in model.graph for output in node.outputs]
    shapes: dict[str, Shape] = {}
    for known in [*model.graph.inputs, *model.graph.initializers.values(), *outputs]:
        sizes = [] if known.shape is None else [dim for dim in known.shape if isinstance(dim, int)]
        if known.name and known.shape is not None and len(sizes) == len(known.shape):
            shapes[known.name] = tuple(sizes)
    return shapes

"""Cleaning a graph with the passes of the ONNX ecosystem: nothing here is specific to spiking networks."""

import logging

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass, RewriteRule, RewriteRuleSet
from onnxscript.rewriter.rules import common as rules

from pmsm_cli.graph.constants import add_constant

_RANDOM_OPS = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_MOST_ROUNDS = 4  # each round of folding gives shape inference more to go on; networks seen so far need two

# The folding pass logs each value that it cannot fold; what matters of that is in the resulting graph.
logging.getLogger("onnxscript").setLevel(logging.ERROR)
logging.getLogger("onnx_ir").setLevel(logging.ERROR)


def tidy(model: ir.Model) -> tuple[ir.Model, bool]:
    """Inline functions, turn constants into initialisers, drop what does nothing, sort and name the nodes.

    Precondition: a valid model. The names of its inputs and outputs stay.
    """
    inference_only = RewriteRuleSet([rules.dropout_inference_rule, rules.dropout_zero_rule])
    passes = ir.passes.Sequential(
        common_passes.InlinePass(),
        common_passes.RemoveInitializersFromInputsPass(),
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        RewritePass(inference_only),
        common_passes.IdentityEliminationPass(),
        common_passes.RemoveUnusedNodesPass(),
        common_passes.RemoveUnusedFunctionsPass(),
        common_passes.RemoveUnusedOpsetsPass(),
        common_passes.TopologicalSortPass(),
    )
    names = [value.name for value in model.graph.outputs]
    result = passes(model)
    _restore_outputs(result.model.graph, names)
    named, renamed = name_nodes(result.model)
    return named, result.modified or renamed


def silence_dropout(model: ir.Model) -> tuple[ir.Model, bool]:
    """Dropout that was exported in training mode -> Identity, as in inference; one whose mask is read stays."""
    changed = False
    for node in [each for each in model.graph if each.op_type == "Dropout" and each.domain == ""]:
        output, *mask = node.outputs
        if any(value.uses() or value.is_graph_output() for value in mask):
            continue
        silent = ir.Node("", "Identity", [node.inputs[0]], num_outputs=1)
        model.graph.insert_before(node, silent)
        name, silent.outputs[0].type, silent.outputs[0].shape = output.name, output.type, output.shape
        output.name = None
        silent.outputs[0].name = name
        ir.convenience.replace_all_uses_with(output, silent.outputs[0], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        changed = True
    return model, changed


def _restore_outputs(graph: ir.Graph, names: list[str | None]) -> None:
    """Where one value leaves under two names, the elimination of identities leaves it only one of them."""
    for index, name in enumerate(names):
        value = graph.outputs[index]
        if value.name != name:
            graph.append(ir.Node("", "Identity", [value], num_outputs=1))
            output = graph[-1].outputs[0]
            output.name, output.type, output.shape = name, value.type, value.shape
            graph.outputs[index] = output


def fold_shape_arithmetic(model: ir.Model) -> tuple[ir.Model, bool]:
    """Compute at once what does not depend on the image: shape arithmetic, constant padding, prepared weights."""
    modified = False
    for _ in range(_MOST_ROUNDS):
        common_passes.ShapeInferencePass()(model)
        modified |= _fold_known_sizes(model.graph)
        result = optimizer.fold_constants(
            model,
            onnx_shape_inference=True,
            should_fold=lambda node: node.op_type not in _RANDOM_OPS,
        )
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common_passes.RemoveUnusedNodesPass()(model)
        if not result.modified:
            break
        modified = True
    return model, modified


def _fold_known_sizes(graph: ir.Graph) -> bool:
    """Slice or Gather of a Shape becomes a constant where the sizes that it takes are known, if others are not.

    The optimizer asks for all sizes; the number of images is seldom one of the known ones.
    """
    changed = False
    for node in list(graph):
        shape = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if node.op_type not in ("Slice", "Gather") or shape is None or shape.op_type != "Shape" or shape.attributes:
            continue
        sizes = shape.inputs[0].shape if shape.inputs[0] is not None else None
        further = [
            None if value is None or value.const_value is None else value.const_value for value in node.inputs[1:]
        ]
        if sizes is None or node.outputs[0].is_graph_output() or any(value is None for value in further):
            continue
        if len(further) < (2 if node.op_type == "Slice" else 1):
            continue  # as opsets before 10 have it
        numbers = [value.numpy() for value in further if value is not None]
        known = np.array([size if isinstance(size, int) else -1 for size in sizes], np.int64)
        if node.op_type == "Gather":
            taken = known[numbers[0]]
        else:
            start, end = int(numbers[0][0]), int(numbers[1][0])
            taken = known[start : end : int(numbers[3][0]) if len(numbers) > 3 else 1]
        if (taken < 0).any():
            continue
        constant = add_constant(graph, f"{node.outputs[0].name}/known", np.asarray(taken, np.int64))
        ir.convenience.replace_all_uses_with(node.outputs[0], constant)
        changed = True
    return changed


def merge_repeated(model: ir.Model) -> tuple[ir.Model, bool]:
    """Compute once what several nodes compute alike from the same values."""
    result = common_passes.CommonSubexpressionEliminationPass()(model)
    return result.model, result.modified


def fold_batch_norm(model: ir.Model) -> tuple[ir.Model, bool]:
    """Fold each BatchNormalization into the Conv, ConvTranspose or Gemm before it; the folded node keeps its name.

    A batch norm that follows anything else stays.
    """
    names = _names_by_output(model)
    for node in model.graph:
        layer = node.inputs[0].producer() if node.op_type == "BatchNormalization" and node.inputs[0] else None
        if layer is not None and _is_read_once(layer.outputs[0]):
            _give_own_weights(model.graph, layer)
            names[node.outputs[0].name] = layer.name
    fusions = [
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
    ]
    return _rewrite(model, fusions, names)


def _is_read_once(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _give_own_weights(graph: ir.Graph, layer: ir.Node) -> None:
    """Weights that other nodes read too stay unfolded otherwise; exporters store equal weights once."""
    for index, weights in enumerate(layer.inputs):
        if index and weights is not None and weights.is_initializer() and len(weights.uses()) > 1:
            own = ir.Value(
                name=f"{weights.name}/{layer.name}",
                type=weights.type,
                shape=weights.shape,
                const_value=weights.const_value,
            )
            graph.register_initializer(own)
            layer.replace_input_with(index, own)


def fold_padding(model: ir.Model) -> tuple[ir.Model, bool]:
    """Fold zero padding into the convolution after it, where its own padding attributes can express it."""
    fusions = [rules.normalize_pad_format_conv_rule, rules.fuse_pad_into_conv_rule]
    return _rewrite(model, fusions, _names_by_output(model))


def separate_computed_bias(model: ir.Model) -> tuple[ir.Model, bool]:
    """Turn a Gemm whose third input is computed into one without, and an addition.

    A bias that changes from step to step must not gather in a membrane as the products do.
    """
    modified = False
    for node in list(model.graph):
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        if bias is None or bias.const_value is not None:
            continue
        output = node.outputs[0]
        name, beta = output.name, node.attributes.get_float("beta", 1.0)
        total = ir.Value(name=name, type=output.type, shape=output.shape)
        output.name = f"{name}/product"
        ir.convenience.replace_all_uses_with(output, total, replace_graph_outputs=True)
        node.resize_inputs(2)
        added = []
        if beta != 1:
            factor = add_constant(model.graph, f"{name}/beta", np.array(beta, np.float32))
            added.append(ir.Node("", "Mul", [bias, factor], name=f"{node.name}/beta"))
            added[-1].outputs[0].name, bias = f"{name}/bias", added[-1].outputs[0]
            bias.type = output.type
        added.append(ir.Node("", "Add", [output, bias], outputs=[total], name=f"{node.name}/Add"))
        model.graph.insert_after(node, added)
        modified = True
    return model, modified


def scale_by_channel(model: ir.Model) -> tuple[ir.Model, bool]:
    """Turn a convolution with one weight a channel, which sums up nothing, into a product and an addition.

    Networks to be re-parameterised have such a branch beside larger kernels, to be folded into them: what it scales
    needs no more be spikes than what a batch norm does. Precondition: batch norms are folded.
    """
    modified = False
    for node in list(model.graph):
        numbers = [value.const_value if value else None for value in node.inputs[1:]]
        scaled = node.inputs[0] if node.op_type == "Conv" else None
        if scaled is None or any(number is None for number in numbers):
            continue
        weights, *bias = (number.numpy() for number in numbers if number is not None)
        if not _is_scale(node, weights):
            continue
        along = (-1, *(1 for _ in weights.shape[2:]))
        output = node.outputs[0]
        for kind, factors in (("Mul", weights), *(("Add", each) for each in bias if each.any())):
            constant = add_constant(model.graph, f"{node.name}/{kind}/factor", factors.reshape(along))
            step = ir.Node("", kind, [scaled, constant], name=node.name if kind == "Mul" else f"{node.name}/shifted")
            scaled = step.outputs[0]
            scaled.name, scaled.type, scaled.shape = f"{output.name}/{kind}", output.type, output.shape
            model.graph.insert_before(node, step)
        scaled.name, output.name = output.name, scaled.name
        ir.convenience.replace_all_uses_with(output, scaled, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        modified = True
    return model, modified


def _is_scale(node: ir.Node, weights: npt.NDArray[np.generic]) -> bool:
    """Whether a convolution gives each channel back, at every place, times one weight."""
    steps = (*node.attributes.get_ints("strides", []), *(1 + pad for pad in node.attributes.get_ints("pads", [])))
    depthwise = 1 < weights.size == len(weights) == node.attributes.get_int("group", 1)
    return weights.ndim > 2 and depthwise and all(step == 1 for step in steps)


def _rewrite(model: ir.Model, fusions: list[RewriteRule], names: dict[str | None, str | None]) -> tuple[ir.Model, bool]:
    result = RewritePass(RewriteRuleSet(fusions))(model)
    for node in result.model.graph:  # the rewriter gives new nodes names of its own making
        if node.outputs[0].name in names and node.op_type != "BatchNormalization":
            node.name = names[node.outputs[0].name]
    return result.model, result.modified


def _names_by_output(model: ir.Model) -> dict[str | None, str | None]:
    return {node.outputs[0].name: node.name for node in model.graph}


def name_nodes(model: ir.Model) -> tuple[ir.Model, bool]:
    """Give every node without a name that of its first output: reports and messages call nodes by name."""
    modified = False
    taken = {node.name for node in model.graph.all_nodes() if node.name}
    for node in model.graph.all_nodes():
        if not node.name:
            base = (node.outputs[0].name or node.op_type).removesuffix("_output_0")
            node.name = base if base not in taken else f"{base}/{node.op_type}"
            taken.add(node.name)
            modified = True
    result = common_passes.NameFixPass()(model)
    return model, modified or result.modified

"""Cleaning a graph with the passes of the ONNX ecosystem: nothing here is specific to spiking networks."""

import logging

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass, RewriteRule, RewriteRuleSet
from onnxscript.rewriter.rules import common as rules

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
        common_passes.NameFixPass(),
    )
    result = passes(model)
    return result.model, result.modified


def fold_shape_arithmetic(model: ir.Model) -> tuple[ir.Model, bool]:
    """Compute at once what does not depend on the image: shape arithmetic, constant padding, prepared weights."""
    modified = False
    for _ in range(_MOST_ROUNDS):
        common_passes.ShapeInferencePass()(model)
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


def fold_batch_norm(model: ir.Model) -> tuple[ir.Model, bool]:
    """Fold each BatchNormalization into the Conv, ConvTranspose or Gemm before it; the folded node keeps its name.

    A batch norm that follows anything else stays.
    """
    names = _names_by_output(model)
    for node in model.graph:
        if node.op_type == "BatchNormalization" and (before := node.inputs[0]) and before.producer():
            names[node.outputs[0].name] = names[before.name]
    fusions = [
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
    ]
    return _rewrite(model, fusions, names)


def fold_padding(model: ir.Model) -> tuple[ir.Model, bool]:
    """Fold zero padding into the convolution after it, where its own padding attributes can express it."""
    fusions = [rules.normalize_pad_format_conv_rule, rules.fuse_pad_into_conv_rule]
    return _rewrite(model, fusions, _names_by_output(model))


def _rewrite(model: ir.Model, fusions: list[RewriteRule], names: dict[str | None, str | None]) -> tuple[ir.Model, bool]:
    result = RewritePass(RewriteRuleSet(fusions))(model)
    for node in result.model.graph:  # the rewriter gives new nodes names of its own making
        if node.outputs[0].name in names:
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
    common_passes.NameFixPass()(model)
    return model, modified

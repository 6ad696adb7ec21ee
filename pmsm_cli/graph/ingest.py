"""From a file's model to a clean network, or to the reason why it cannot become a spiking one."""

import json
from collections.abc import Iterator
from types import MappingProxyType

import onnx
import onnx_ir as ir

from pmsm_cli.errors import UnsupportedGraphError, shorten
from pmsm_cli.graph import clean
from pmsm_cli.graph.attention import decompose_attention
from pmsm_cli.graph.einsum import decompose_einsum
from pmsm_cli.graph.moments import batch_norm_moments
from pmsm_cli.graph.network import Network, find_image_input
from pmsm_cli.graph.opset import old_resizes, restore_resizes, to_current_opset
from pmsm_cli.graph.synapse import SYNAPTIC_OPS

# Beside the standard operators, onnxruntime brings these along; they stay analog.
_RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc", "ai.onnx.ml"})
_QUANTISED_OPS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)


def ingest(proto: onnx.ModelProto, *, subject: str) -> Network:
    """Clean a model: a current opset, weights as initialisers, constant arithmetic and batch norm folded away.

    `subject` is the file's name, for messages.

    Raises:
        UnsupportedGraphError: the network is quantised or spiking already, too old, invalid, uses unknown operators,
            or does not read one batch of images.
    """
    _refuse_unusable(proto, subject)
    try:
        model = ir.from_proto(to_current_opset(proto, subject=subject))
        _refuse_dangling(model, subject)
        model, _ = clean.tidy(model)
        model, _ = clean.silence_dropout(model)
        model, _ = clean.fold_shape_arithmetic(model)
        restore_resizes(model, old_resizes(proto), subject=subject)
        model, _ = clean.name_nodes(model)
        model, _ = _unfuse(model)
        moments = batch_norm_moments(model)  # folding forgets them
        model, _ = clean.fold_batch_norm(model)
        model, _ = clean.scale_by_channel(model)
        model, _ = clean.separate_computed_bias(model)
        model, _ = clean.fold_padding(model)
        model, _ = clean.tidy(model)
        _refuse_other_precision(model, subject)
    except UnsupportedGraphError:
        raise
    except Exception as error:  # the passes raise whatever an invalid graph makes them trip over
        raise UnsupportedGraphError(
            "is not a valid ONNX graph", subject=subject, details=[_first_line(error)], hint=_CHECK_HINT
        ) from error
    return Network(
        subject=subject,
        model=model,
        image=find_image_input(model.graph, subject=subject),
        outputs=tuple(value.name or "" for value in model.graph.outputs),
        class_names=_class_names(proto),
        moments=MappingProxyType(moments),
    )


_CHECK_HINT = "python -c \"import onnx; onnx.checker.check_model('FILE', full_check=True)\" says more"


def _unfuse(model: ir.Model) -> tuple[ir.Model, bool]:
    """Spell out what holds matrix products inside, so that spikes can drive them."""
    modified = False
    for decompose in (decompose_attention, decompose_einsum):
        model, found = decompose(model)
        modified = modified or found
    if modified:
        model, _ = clean.fold_shape_arithmetic(model)
        model, _ = clean.merge_repeated(model)  # one transposed tensor, and so one neuron, for all that read it
    return model, modified


def _refuse_unusable(proto: onnx.ModelProto, subject: str) -> None:
    nodes = [*_all_nodes(proto.graph), *(inner for function in proto.functions for inner in _all_nodes(function))]
    if any(node.domain == "ai.pmsm" for node in nodes):
        raise UnsupportedGraphError("is a spiking checkpoint already", subject=subject, hint="pass the source network")
    quantised = [_describe(node) for node in nodes if node.op_type in _QUANTISED_OPS]
    if quantised:
        raise UnsupportedGraphError(
            f"is quantised already: {len(quantised)} quantised operators",
            subject=subject,
            details=shorten(quantised),
            hint="pass the float network that it was made from",
        )
    functions = {(function.domain, function.name) for function in proto.functions}
    versions = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    unknown = [
        _describe(node)
        for node in nodes
        if (node.domain, node.op_type) not in functions and not _is_known(node, versions)
    ]
    if unknown:
        raise UnsupportedGraphError(
            f"uses {len(unknown)} operators that onnxruntime does not know",
            subject=subject,
            details=shorten(unknown),
            hint="export the network without custom operators",
        )


def _refuse_dangling(model: ir.Model, subject: str) -> None:
    """Refuse reads of what nothing produces: the passes would take it for an input of some kind."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    dangling = [
        f"{node.name or node.outputs[0].name}: {node.op_type} reads {value.name}"
        for graph in graphs
        for node in graph.all_nodes()
        for value in node.inputs
        if value is not None and value.producer() is None and not value.is_graph_input() and not value.is_initializer()
    ]
    dangling += [
        f"output {value.name}"
        for value in model.graph.outputs
        if value.producer() is None and not value.is_graph_input() and not value.is_initializer()
    ]
    if dangling:
        raise UnsupportedGraphError(
            "is not a valid ONNX graph: it reads what nothing produces",
            subject=subject,
            details=shorten(dangling),
            hint=_CHECK_HINT,
        )


def _refuse_other_precision(model: ir.Model, subject: str) -> None:
    culprits = [
        f"{node.name}: {node.op_type} in {value.dtype.name.lower()}"
        for node in model.graph
        if node.op_type in SYNAPTIC_OPS and node.domain == ""
        for value in node.inputs[1:2]
        if value is not None and value.dtype not in (None, ir.DataType.FLOAT)
    ]
    if culprits:
        raise UnsupportedGraphError(
            "does not compute in 32-bit floats",
            subject=subject,
            details=shorten(culprits),
            hint="export the network in float32",
        )


def _is_known(node: onnx.NodeProto, versions: dict[str, int]) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain in _RUNTIME_DOMAINS:
        return True
    try:
        onnx.defs.get_schema(node.op_type, versions.get(domain or "ai.onnx", 1), domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _class_names(proto: onnx.ModelProto) -> tuple[str, ...]:
    for entry in proto.metadata_props:
        if entry.key == "classes":
            try:
                names = json.loads(entry.value)
            except ValueError:
                return ()
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return tuple(names)
    return ()


def _all_nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def _describe(node: onnx.NodeProto) -> str:
    name = node.name or (node.output[0] if node.output else "unnamed")
    return f"{name}: {node.domain + '.' if node.domain else ''}{node.op_type}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

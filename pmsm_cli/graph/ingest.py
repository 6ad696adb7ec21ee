"""From a file's model to a clean network, or to the reason why it cannot become a spiking one."""

import json
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from pmsm_cli.errors import UnsupportedGraphError, shorten
from pmsm_cli.graph import clean
from pmsm_cli.graph.network import Network, find_image_input

OLDEST_OPSET = 7  # the oldest that the ONNX project's converter reads
OLDEST_KEPT_OPSET = 13  # from here on the neurons' function bodies can be written as they are
TARGET_OPSET = 17  # what older networks are converted to

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
        model = ir.from_proto(_to_current_opset(proto, subject))
        model, _ = clean.tidy(model)
        model, _ = clean.fold_shape_arithmetic(model)
        model, _ = clean.name_nodes(model)
        model, _ = clean.fold_batch_norm(model)
        model, _ = clean.fold_padding(model)
        model, _ = clean.tidy(model)
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
    )


_CHECK_HINT = "python -c \"import onnx; onnx.checker.check_model('FILE', full_check=True)\" says more"


def _refuse_unusable(proto: onnx.ModelProto, subject: str) -> None:
    nodes = list(_all_nodes(proto.graph))
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


def _is_known(node: onnx.NodeProto, versions: dict[str, int]) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain in _RUNTIME_DOMAINS:
        return True
    try:
        onnx.defs.get_schema(node.op_type, versions.get(domain or "ai.onnx", 1), domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _to_current_opset(proto: onnx.ModelProto, subject: str) -> onnx.ModelProto:
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset >= OLDEST_KEPT_OPSET:
        return proto
    if opset < OLDEST_OPSET:
        raise UnsupportedGraphError(
            f"is written in opset {opset}; the oldest that can be converted is {OLDEST_OPSET}",
            subject=subject,
            hint="export the network again with a current exporter",
        )
    reasons = []
    for target in (TARGET_OPSET, OLDEST_KEPT_OPSET):  # some operators have no adapter all the way up
        try:
            return onnx.version_converter.convert_version(proto, target)
        except RuntimeError as error:
            reasons.append(f"to opset {target}: {_first_line(error)}")
    raise UnsupportedGraphError(
        f"cannot be converted from opset {opset}",
        subject=subject,
        details=reasons,
        hint="export the network again with a current exporter",
    )


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


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
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

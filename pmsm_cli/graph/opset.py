"""Bringing old networks to a current opset with the ONNX project's converter, and mending what it gets wrong."""

import copy

import onnx
import onnx_ir as ir

from pmsm_cli.errors import UnsupportedGraphError, shorten

OLDEST_OPSET = 7  # the oldest that the ONNX project's converter reads
OLDEST_KEPT_OPSET = 13  # from here on the neurons' function bodies can be written as they are
TARGET_OPSET = 17  # what older networks are converted to

_STANDARD = ("", "ai.onnx")
_LAST_OPSET_OF_PLAIN_RESIZE = 10  # before it learned to choose between coordinate systems
_HINT = "export the network again with a current exporter"


def to_current_opset(proto: onnx.ModelProto, *, subject: str) -> onnx.ModelProto:
    """The same network in an opset that the neurons can live in.

    Raises:
        UnsupportedGraphError: it is too old, or holds an operator that cannot be converted.
    """
    proto = _short_domain(proto)
    opset = max((entry.version for entry in proto.opset_import if entry.domain == ""), default=0)
    if opset >= OLDEST_KEPT_OPSET:
        return proto
    if opset < OLDEST_OPSET:
        raise UnsupportedGraphError(
            f"is written in opset {opset}; the oldest that can be converted is {OLDEST_OPSET}",
            subject=subject,
            hint=_HINT,
        )
    # Hardmax changed its meaning in opset 13, which the converter passes over.
    culprits = [_describe(node) for node in proto.graph.node if node.op_type == "Hardmax"]
    reasons = []
    for target in (TARGET_OPSET, OLDEST_KEPT_OPSET) if not culprits else ():
        try:
            return onnx.version_converter.convert_version(proto, target)
        except Exception as error:  # failed assertions and missing adapters raise different types
            reasons.append(f"to opset {target}: {_reason(error)}")
    raise UnsupportedGraphError(
        f"cannot be converted from opset {opset}",
        subject=subject,
        details=shorten(culprits or _not_convertible(proto, opset)) or reasons,
        hint=_HINT,
    )


def old_resizes(proto: onnx.ModelProto) -> frozenset[str]:
    """The results of Upsample and of Resize as they were before opset 11, for `restore_resizes`."""
    opset = max((entry.version for entry in proto.opset_import if entry.domain in _STANDARD), default=0)
    if opset > _LAST_OPSET_OF_PLAIN_RESIZE:
        return frozenset()
    return frozenset(node.output[0] for node in proto.graph.node if node.op_type in ("Resize", "Upsample"))


def restore_resizes(model: ir.Model, results: frozenset[str], *, subject: str) -> None:
    """Give old resizes the coordinates that they meant: the converter leaves them with a later default.

    Raises:
        UnsupportedGraphError: one shrinks along one axis and grows along another, to the nearest pixel.
    """
    for node in model.graph:
        if node.op_type != "Resize" or node.outputs[0].name not in results:
            continue
        node.attributes["coordinate_transformation_mode"] = ir.AttrString(
            "coordinate_transformation_mode", "asymmetric"
        )
        scales = node.inputs[2] if len(node.inputs) > 2 else None
        # Scales that are computed at run time come from Upsample.
        factors = [1.0] if scales is None or scales.const_value is None else scales.const_value.numpy().tolist()
        mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "nearest"
        if mode == "nearest" and min(factors) < 1 < max(factors):
            raise UnsupportedGraphError(
                "resizes to the nearest pixel, one side up and one side down, as opset 10 did and later ones cannot",
                subject=subject,
                details=[f"{node.name}: {node.op_type}"],
                hint=_HINT,
            )
        node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "ceil" if min(factors) < 1 else "floor")


def _short_domain(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The standard domain by its short name, as the passes expect it."""
    if all(entry.domain != "ai.onnx" for entry in proto.opset_import):
        return proto
    renamed = copy.deepcopy(proto)
    for entry in renamed.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    for node in renamed.graph.node:
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    return renamed


def _not_convertible(proto: onnx.ModelProto, opset: int) -> list[str]:
    """The nodes that cannot be converted even on their own, and why: the converter does not say which they are."""
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    known = {value.name: value for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    weights = {tensor.name: tensor for tensor in inferred.initializer}
    found = []
    for node in proto.graph.node:
        alone = onnx.helper.make_graph(
            [node],
            "alone",
            [known[name] for name in node.input if name in known],
            [known.get(name, onnx.helper.make_empty_tensor_value_info(name)) for name in node.output if name],
            [weights[name] for name in node.input if name in weights],
        )
        model = onnx.helper.make_model(alone, opset_imports=[onnx.helper.make_opsetid("", opset)])
        try:
            onnx.version_converter.convert_version(model, OLDEST_KEPT_OPSET)
        except Exception as error:
            found.append(f"{_describe(node)}: {_reason(error)}")
    return found


def _describe(node: onnx.NodeProto) -> str:
    return f"{node.name or (node.output[0] if node.output else 'unnamed')}: {node.op_type}"


def _reason(error: Exception) -> str:
    """The converter's own words, without the place in its source."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text.rpartition("` failed: ")[2]

"""Reading a network from an ONNX file."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from pmsm_cli.errors import ModelFileError
from pmsm_cli.sources.records import Source


def open_onnx(path: Path) -> Source:
    """Read an ONNX file with all its weights.

    Raises:
        ModelFileError: the file is missing, is not ONNX, is cut short, or its external data cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        # Sources of this name are opened elsewhere: whoever comes here took it for a checkpoint.
        hint = f"make a checkpoint first: pmsm convert {path}" if f"{path}".startswith("timm:") else None
        raise ModelFileError("no such file", subject=str(path), hint=hint) from error
    except IsADirectoryError as error:
        raise ModelFileError("is a folder, not an ONNX file", subject=str(path)) from error
    except OSError as error:
        raise ModelFileError(f"cannot be read ({error.strerror})", subject=str(path)) from error
    proto = parse_model(data, subject=str(path))
    external = sorted(set(_external_files(proto)))
    if external:
        _load_external(proto, path, external)
    digest = hashlib.sha256(data)
    for name in external:
        digest.update((path.parent / name).read_bytes())
    name = path.stem.encode(errors="backslashreplace").decode()  # ONNX files hold valid UTF-8 only
    return Source(name=name, path=path, sha256=digest.hexdigest(), proto=proto)


def external_files(path: Path) -> list[Path]:
    """The files that an ONNX file keeps weights in; none where it cannot be read."""
    try:
        proto = parse_model(path.read_bytes(), subject=str(path))
    except (OSError, ModelFileError):
        return []
    return [path.parent / name for name in _external_files(proto)]


def parse_model(data: bytes, *, subject: str) -> onnx.ModelProto:
    """Bytes to a model; external data stays where it is.

    Raises:
        ModelFileError: the bytes are not a whole ONNX model.
    """
    hint = "was the file downloaded or copied completely?"
    if not data:
        raise ModelFileError("is empty", subject=subject, hint=hint)
    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelFileError("is not an ONNX model, or is cut short", subject=subject, hint=hint) from error
    # Arbitrary bytes can parse as a message without meaning; a model always has operators and an operator set.
    if not proto.opset_import or not proto.graph.output:
        raise ModelFileError("is not an ONNX model", subject=subject, hint="export the network to ONNX first")
    return proto


def _external_files(proto: onnx.ModelProto) -> Iterator[str]:
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _load_external(proto: onnx.ModelProto, path: Path, names: list[str]) -> None:
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise ModelFileError(
            "its external data is missing",
            subject=str(path),
            details=missing,
            hint="copy the weight files that were exported with it into the same folder",
        )
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelFileError("its external data cannot be read", subject=str(path), details=[str(error)]) from error

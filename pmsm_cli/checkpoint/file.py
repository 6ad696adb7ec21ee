"""Checkpoints as bytes and back, and the one place that writes files: whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import onnx
import onnx_ir as ir

from pmsm_cli.checkpoint.manifest import Manifest, manifest_from_metadata, manifest_to_metadata
from pmsm_cli.errors import CheckpointError, ModelFileError, SetupError
from pmsm_cli.graph.insert import neuron_name, spikes_name
from pmsm_cli.graph.scan import PER_STEP, SCAN_NAME, timesteps_of
from pmsm_cli.lowering.int8 import Int8Weights, read_int8, store_as_int8
from pmsm_cli.neuron.onnx_function import LEVELS, NEURON, NEURON_OPS
from pmsm_cli.sources.onnx_file import open_onnx

_CONVERT_AGAIN = "convert the source again"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """A spiking network and what it says of itself."""

    subject: str  # the file, for messages
    model: ir.Model  # weights in floats, however the file holds them
    manifest: Manifest
    # What these floats are multiples of, by the name of the weights; empty where the file holds floats.
    int8_weights: Mapping[str, Int8Weights] = field(default_factory=lambda: MappingProxyType({}))
    sha256: str = ""  # of the file, where there is one


def pack(
    model: ir.Model, manifest: Manifest, int8_weights: Mapping[str, Int8Weights] = MappingProxyType({})
) -> ir.Model:
    """A copy of a spiking graph that carries its manifest, and the named weights as integers."""
    packed = store_as_int8(model, int8_weights)
    packed.metadata_props.update(manifest_to_metadata(manifest))
    packed.producer_name, packed.producer_version = "pmsm", manifest.tool_version
    packed.doc_string = f"{manifest.source_name} as a spiking network of {manifest.timesteps} timestep(s)"
    return packed


def unpack(proto: onnx.ModelProto, *, subject: str) -> Checkpoint:
    """The checkpoint that a model holds.

    Raises:
        CheckpointError: it is not one of ours, of an unknown format version, or damaged.
    """
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    manifest = manifest_from_metadata(metadata, subject=subject)
    model, int8_weights = read_int8(ir.from_proto(proto))
    return Checkpoint(subject=subject, model=model, manifest=manifest, int8_weights=int8_weights)


def _refuse_contradictions(checkpoint: Checkpoint) -> None:
    """What another program did to the graph or its metadata; the graph itself is onnxruntime's to check."""
    graph, timesteps = checkpoint.model.graph, checkpoint.manifest.timesteps
    names = [value.name or "" for value in graph.outputs]
    given = {*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)}
    if timesteps > 1:
        fits = any(f"{name}{PER_STEP}" in names for name in names) and timesteps_of(graph) in (None, timesteps)
    else:  # a source's outputs may be called like that
        fits = all(node.name != SCAN_NAME for node in graph)
    neurons, sites = sum(node.op_type in NEURON_OPS for node in graph), len(checkpoint.manifest.plan.sites)
    problem = None
    if not given >= set(graph.outputs):
        problem = "nothing makes some of its outputs"
    elif not fits:
        problem = f"its outputs are not those of {timesteps} timestep(s)"
    elif neurons not in (0, sites):  # 0: its functions are inlined, and it runs
        problem = f"it has {neurons} tensors of spikes, its metadata speak of {sites}"
    else:
        problem = _contradicting_levels(checkpoint)
    if problem:
        raise CheckpointError(
            f"was changed by another program: {problem}", subject=checkpoint.subject, hint=_CONVERT_AGAIN
        )


def _contradicting_levels(checkpoint: Checkpoint) -> str | None:
    """What is wrong with the levels of a neuron, where graph and metadata know it by the same name."""
    nodes = {node.name: node for node in checkpoint.model.graph if node.op_type == NEURON}
    for name, stated in checkpoint.manifest.calibration.parameters.items():
        if node := nodes.get(neuron_name(name)):
            own = tuple(node.attributes.get_int(level, 0) for level in LEVELS)
            if own != (stated.negative_levels, stated.positive_levels):
                return f"the neurons of {name} have N, P = {own[0]}, {own[1]}, its metadata speak of others"
    return None


def check_names(checkpoint: Checkpoint, *, neurons: bool = False) -> None:
    """Fail where operators have not the names any more that the manifest knows them by, though they may well run.

    Raises:
        CheckpointError: synapses, or with `neurons` those too, are not to be found.
    """
    sites = checkpoint.manifest.plan.sites
    named = {reader.node for site in sites for reader in site.readers}
    named |= {neuron_name(site.name) for site in sites if neurons}
    graph = checkpoint.model.graph
    missing = sorted(named - {node.name for node in graph})
    missing += sorted(
        {spikes_name(site.name) for site in sites} - {value.name for node in graph for value in node.outputs}
    )
    if missing:
        raise CheckpointError(
            "was changed by another program: operators that it speaks of are gone, or have other names",
            subject=checkpoint.subject,
            details=missing[:3],
            hint=_CONVERT_AGAIN,
        )


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file.

    Raises:
        CheckpointError: the file is missing, unreadable, or not a checkpoint that this version knows.
    """
    try:
        opened = open_onnx(path)
    except ModelFileError as error:
        raise CheckpointError(error.problem, subject=error.subject, details=error.details, hint=error.hint) from error
    checkpoint = unpack(opened.proto, subject=str(path))
    _refuse_contradictions(checkpoint)
    return replace(checkpoint, sha256=opened.sha256)


def check_writable(path: Path) -> None:
    """Fail now rather than after minutes of work, where a file could not be written in the end.

    Raises:
        SetupError: the folder is missing, or nothing can be written there.
    """
    try:
        target = _without_links(path)
        if target.is_dir():
            raise SetupError("is a folder; name a file", subject=str(path))
        # Replacing /dev/null by a file would harm the whole machine; a pipe's link leads nowhere.
        if (path.exists() and not path.is_file()) or (target.exists() and not target.is_file()):
            raise SetupError("is a device or a pipe; name an ordinary file", subject=str(path))
        if not target.parent.is_dir():
            raise SetupError(
                "the folder to write to does not exist", subject=str(path.parent), hint=f"mkdir -p {path.parent}"
            )
        if target.exists() and not os.access(target, os.W_OK):
            raise SetupError("cannot be written (it is read-only)", subject=str(path), hint="name another file")
        # A trial, because permission bits do not tell of read-only disks, and root may pass them by.
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".pmsm-"):
            pass
    except OSError as error:
        raise SetupError(f"cannot be written ({error.strerror})", subject=str(path)) from error


def write_file(path: Path, data: bytes | str) -> None:
    """Write a file whole: a failure or an interruption leaves what was there before.

    Raises:
        SetupError: the disk is full, or the file cannot be written.
    """
    write_files({path: data})


def write_files(contents: Mapping[Path, bytes | str]) -> None:
    """Write several files, each whole, and none at all where one of them finds no room.

    Raises:
        SetupError: the disk is full, or a file cannot be written.
    """
    staged: list[tuple[Path, str]] = []  # final and temporary path of what is not yet in place
    path = Path()
    try:
        for path, data in contents.items():
            target = _without_links(path)
            descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=".pmsm-", suffix=target.suffix)
            staged.append((target, partial))
            _fill(descriptor, data.encode(errors="backslashreplace") if isinstance(data, str) else data)
            os.chmod(partial, _usual_mode())
        while staged:
            path, partial = staged[0]
            os.replace(partial, path)
            staged.pop(0)
    except OSError as error:
        raise SetupError(f"cannot be written ({error.strerror})", subject=str(path)) from error
    finally:
        for _, partial in staged:
            with contextlib.suppress(OSError):
                os.unlink(partial)


def _fill(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _without_links(path: Path) -> Path:
    """Where a link leads: the file is replaced, the link to it stays."""
    return Path(os.path.realpath(path))


def _usual_mode() -> int:
    """The mode that a plainly opened file would get; temporary files are private."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask

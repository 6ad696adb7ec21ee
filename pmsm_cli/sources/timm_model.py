"""Reading a network from timm by its name: its weights, its own preprocessing, and its export to ONNX.

torch and timm are needed here and nowhere behind it: what leaves is an ONNX model like that of any file.
"""

import ast
import functools
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from pmsm_cli.errors import ModelFileError, UnsupportedGraphError
from pmsm_cli.sources.records import Source, Weights
from pmsm_cli.sources.timm_names import PREFIX, data_config, first_line, quiet, resolve_name
from pmsm_cli.sources.timm_weights import check_readable, class_count, fetch_pretrained, put_weights, read_weights

if TYPE_CHECKING:
    import torch

# The exporter's translations are written in this opset; any other would pass through a converter. It is new enough for
# layer norm in one node, and every onnxruntime that pmsm supports runs it.
OPSET = 18
LARGEST = 2**31 - 1  # bytes of weights that an ONNX file can hold
_SCOPES = "pkg.torch.onnx.name_scopes"


def open_timm(
    name: str,
    weights: Weights,
    *,
    image_size: int | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Source:
    """Create a timm model with its weights and export it.

    `image_size` in pixels, where it is not to be the model's own. `on_stage` is told what takes a while.

    Raises:
        ModelFileError: there is no such model, or the weights are unusable or do not fit it.
        UnsupportedGraphError: it cannot be exported.
        SetupError: timm is missing, or pretrained weights cannot be fetched.
    """
    subject = f"{PREFIX}{name}"
    if weights.file:
        check_readable(weights.file)
    on_stage(f"Reading {subject}")
    resolved = resolve_name(name)
    channels, height, width = data_config(resolved)["input_size"]
    shape = (channels, image_size or height, image_size or width)
    with quiet():
        module, remarks = _create(resolved, weights, shape, resized=shape[1:] != (height, width))
        on_stage(f"Exporting {subject}")
        proto, others = export_open_or_fixed(module, shape, subject)
    return Source(
        name=subject,
        path=Path(subject),
        sha256=identity(resolved, module, shape),
        proto=proto,
        preset=subject,
        warnings=(*remarks, *others),
    )


def _create(
    name: str, weights: Weights, shape: tuple[int, int, int], *, resized: bool
) -> "tuple[torch.nn.Module, tuple[str, ...]]":
    """The model in evaluation mode, with its weights, and what should be said of these."""
    import timm
    import timm.models as zoo
    import torch

    config = zoo.get_pretrained_cfg(name) or zoo.PretrainedCfg()
    sizes = {"img_size": shape[1:]} if resized and config.fixed_input_size else {}
    # `exportable` picks the plain forms of attention, activations and padding.
    create = functools.partial(timm.create_model, name, exportable=True, **sizes)
    subject = f"{PREFIX}{name}"
    _refuse_too_large(create, subject)
    remarks: tuple[str, ...] = ()
    try:
        if weights.file:
            state = read_weights(weights.file)
            module = create(num_classes=class_count(state, config.classifier))
            remarks = put_weights(module, state, subject=str(weights.file), model=subject)
        elif weights.random:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(weights.seed)
                module = create()
        else:
            module = fetch_pretrained(create, config, subject=subject)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ModelFileError(
            f"timm cannot create it{' in this size' if sizes else ''}",
            subject=subject,
            details=[f"{type(error).__name__}: {first_line(error)}"],
            hint=f"leave out --image-size: its own is {config.input_size[-1]}" if sizes else None,
        ) from error
    return module.eval(), remarks


def _refuse_too_large(create: "Callable[[], torch.nn.Module]", subject: str) -> None:
    """Refuse what no file could hold before memory is filled with it."""
    import torch

    try:
        with torch.device("meta"):
            tensors = create().state_dict().values()
    except Exception:  # some compute with their weights when they are created, or want another size: told later
        return
    size = sum(each.numel() * each.element_size() for each in tensors)
    if size > LARGEST:
        raise UnsupportedGraphError(f"its weights take {size / 2**30:.1f} GB; the limit is 2 GB", subject=subject)


def export_open_or_fixed(
    module: "torch.nn.Module", shape: tuple[int, int, int], subject: str
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The exported model, of a fixed batch where it fixes that itself, and what should be said of it."""
    import torch

    try:
        with torch.no_grad():
            module(torch.zeros(1, *shape))
    except Exception as error:  # whatever its code trips over
        size = f"{shape[1]}x{shape[2]}"
        raise UnsupportedGraphError(
            f"does not run on images of {size}",
            subject=subject,
            details=[_cause(error)],
            hint="try another --image-size",
        ) from error
    try:
        return export_module(module, shape), ()
    except Exception:  # whatever in its code asks how many images there are
        try:
            remark = f"{subject} reads one image at a time: its code does not leave the batch open"
            return export_module(module, shape, batch=1), (remark,)
        except Exception as error:
            raise UnsupportedGraphError(
                "torch cannot export it to ONNX", subject=subject, details=[_cause(error)]
            ) from error


def _cause(error: BaseException) -> str:
    """The innermost reason: the exporter wraps each error in what to do about any."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def export_module(
    module: "torch.nn.Module", shape: tuple[int, int, int], *, batch: int | None = None
) -> onnx.ModelProto:
    """An ONNX model of a torch module in evaluation mode, batch norm as nodes of its own.

    `shape` is that of one image, [channels, height, width] in pixels; `batch` fixes the number of images (None: open).

    Raises:
        Exception: of torch's many kinds, where the module's code cannot be written as a graph, or fixes the batch.
    """
    import torch

    images = torch.zeros(batch or 2, *shape)  # of an open batch, the exporter takes a single image for a constant
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (images,),
            dynamo=True,
            dynamic_shapes=None if batch else ({0: torch.export.Dim("batch")},),
            input_names=["image"],
            output_names=["output"],
            opset_version=OPSET,
            optimize=False,  # it folds batch norm away, and with it the moments that thresholds without images need
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter returned no model")
    read = program.model.graph.inputs[0].shape
    if batch is None and (read is None or isinstance(read[0], int)):  # torch fixes it without a word
        raise RuntimeError("its code fixes the number of images")
    _name_by_module(program.model)
    return ir.to_proto(program.model)


def _name_by_module(model: ir.Model) -> None:
    """Name nodes and what they give by the module whose code they come from: `blocks.0.attn/Softmax`.

    The exporter's own names count the operators of a kind. Its notes go, which hold lines of source code and paths.
    """
    outputs = {id(value) for value in model.graph.outputs}
    counts: Counter[str] = Counter()
    for node in model.graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))  # from the model down
        scope = scopes[-2] if len(scopes) > 1 else ""  # the last one is the operation itself
        base = f"{scope}/{node.op_type}" if scope else node.op_type
        node.name = f"{base}_{counts[base]}" if counts[base] else base
        counts[base] += 1
        for index, value in enumerate(node.outputs):
            if id(value) not in outputs and value.name:
                value.name = f"{node.name}.{index}" if index else node.name
    nodes = list(model.graph.all_nodes())
    values = [
        *model.graph.inputs,
        *model.graph.initializers.values(),
        *(each for node in nodes for each in node.outputs),
    ]
    notes = [model.metadata_props, model.graph.metadata_props]
    notes += [node.metadata_props for node in nodes] + [value.metadata_props for value in values]
    for note in notes:
        note.clear()


def identity(name: str, module: "torch.nn.Module", shape: tuple[int, int, int]) -> str:
    """A digest of the model and its weights: the same whichever tag, file or machine the weights came from."""
    digest = hashlib.sha256(f"{PREFIX}{name.partition('.')[0]} {shape}".encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()

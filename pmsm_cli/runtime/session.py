"""onnxruntime sessions: opened with our library where it is there, run in batches, their failures in our words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from pmsm_cli.errors import PmsmError, SetupError, UnsupportedGraphError
from pmsm_cli.graph.scan import PER_STEP
from pmsm_cli.runtime.library import find_library, register
from pmsm_cli.runtime.processor import products_may_overflow

Array = npt.NDArray[np.float32]
Totals = npt.NDArray[np.float64]  # what is summed up over many of them
_LARGEST_MODEL = 2**31 - 1  # bytes that one protobuf message can hold
_LEFT_OUT = 1024  # bytes of a constant from which on it is handed over apart from the message
_AS_IN_NUMPY = {ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.INT64}

ort.set_default_logger_severity(4)  # what matters reaches the user as an error of ours


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Session:
    """A network ready to run."""

    subject: str
    runner: ort.InferenceSession
    input_name: str
    fixed_batch: int | None
    output_names: tuple[str, ...]
    stacked: frozenset[str]  # outputs that hold the timesteps before the images
    held: tuple[ort.OrtValue, ...] = ()  # constants that onnxruntime reads where they are

    def run(self, inputs: Array, others: Mapping[str, Array] | None = None) -> list[Array]:
        """All outputs for a batch of any size; a network of fixed batch runs as often as it takes.

        `others` are further inputs by name, the same for all images.

        Raises:
            UnsupportedGraphError: onnxruntime fails on this input.
        """
        if self.fixed_batch is None or len(inputs) == self.fixed_batch:
            return self._run(inputs, others)
        size = self.fixed_batch
        parts = []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            missing = size - len(part)
            padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            results = zip(self.output_names, self._run(padded, others), strict=True)
            parts.append([_without_padding(output, self._axis(name), missing, size) for name, output in results])
        joined = zip(self.output_names, zip(*parts, strict=True), strict=True)
        return [np.concatenate(outputs, axis=self._axis(name)) for name, outputs in joined]

    def _axis(self, output: str) -> int:
        return 1 if output in self.stacked else 0

    def _run(self, inputs: Array, others: Mapping[str, Array] | None) -> list[Array]:
        return self.run_all({self.input_name: inputs, **(others or {})})

    def run_all(self, feeds: Mapping[str, Array]) -> list[Array]:
        """All outputs for inputs by name, each as the graph takes it.

        Raises:
            UnsupportedGraphError: onnxruntime fails on these inputs.
        """
        try:
            results: list[Array] = self.runner.run(list(self.output_names), dict(feeds))
        except Exception as error:
            raise _in_our_words(error, self.subject) from error
        return results


def open_session(
    model: ir.Model | bytes | Path,
    *,
    subject: str,
    threads: int | None = None,
    native: bool = True,
    integers: bool = False,
    stacked: Iterable[str] = (),
) -> Session:
    """A session on the CPU; `native=False` leaves the library aside and runs the function bodies.

    `integers` says that `pmsm_cli.lowering` made the graph: what it has in integers is all that shall be.

    `stacked` names outputs that hold the timesteps before the images, beside a checkpoint's own.

    Raises:
        UnsupportedGraphError: onnxruntime has no kernel for an operator, finds the graph invalid, or it is above the
            2 GB that a file of it could hold.
        SetupError: there is not enough memory.
    """
    options = ort.SessionOptions()
    # A plan for a whole run's memory comes beside what the first run took: more memory, and no faster here.
    options.enable_mem_pattern = False
    if threads:
        options.intra_op_num_threads = threads
    if integers:
        # Left to itself onnxruntime rounds the float weights of any convolution between two quantised tensors.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        if products_may_overflow():
            # The kernels that do not are several times slower, also where these do not either.
            options.add_session_config_entry("session.x64quantprecision", "1")
    # Threads that wait for more by spinning would take the processor from other sessions and from who decodes images.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    library = find_library() if native else None
    if library:
        register(options, library)
    data, held = model, dict[str, ort.OrtValue]()
    if isinstance(model, ir.Model):
        _refuse_too_large(model, subject)
        data, held = _without_constants(model)
        options.add_external_initializers(list(held), list(held.values()))
    try:
        runner = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _in_our_words(error, subject) from error
    image = runner.get_inputs()[0]
    images = next(iter(image.shape), None)  # a tensor of unknown shape has none
    names = tuple(output.name for output in runner.get_outputs())
    return Session(
        subject=subject,
        runner=runner,
        input_name=image.name,
        fixed_batch=images if isinstance(images, int) and images > 0 else None,
        output_names=names,
        stacked=frozenset(stacked) | {f"{name}{PER_STEP}" for name in names},
        held=tuple(held.values()),
    )


def _without_constants(model: ir.Model) -> tuple[bytes, dict[str, ort.OrtValue]]:
    """A model as a message without its larger constants, which would be copied again and again, and these by name."""
    model, held = model.clone(), dict[str, ort.OrtValue]()
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _LEFT_OUT or tensor.dtype not in _AS_IN_NUMPY or value.is_graph_input():
            continue
        if not value.uses() and not value.is_graph_output():
            continue  # onnxruntime drops it, and then knows nothing of that name
        array = np.ascontiguousarray(tensor.numpy())
        held[name] = ort.OrtValue.ortvalue_from_numpy(array)
        shape = ir.Shape(array.shape)
        value.const_value = ir.ExternalTensor("held", 0, array.nbytes, tensor.dtype, shape=shape, name=name)
    return _message(model), held


def model_bytes(model: ir.Model, *, subject: str) -> bytes:
    """A model as one protobuf message.

    Raises:
        UnsupportedGraphError: it is above the 2 GB that a message can hold.
    """
    _refuse_too_large(model, subject)
    return _message(model)


def _message(model: ir.Model) -> bytes:
    proto: Any = ir.to_proto(model)  # protobuf's own methods carry no types
    data: bytes = proto.SerializeToString()
    return data


def _refuse_too_large(model: ir.Model, subject: str) -> None:
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size > _LARGEST_MODEL:
        raise UnsupportedGraphError(f"its weights take {size / 2**30:.1f} GB; the limit is 2 GB", subject=subject)


def _without_padding(output: Array, axis: int, missing: int, size: int) -> Array:
    """What belongs to real images; an image may own several entries (windows folded into the batch)."""
    if output.ndim <= axis:
        return output.reshape(*output.shape, 1)  # one value for the whole batch
    entries = output.shape[axis]
    kept = entries - entries // size * missing if entries % size == 0 else entries
    return output[:kept] if axis == 0 else output[:, :kept]


def _in_our_words(error: Exception, subject: str) -> PmsmError:
    text = " ".join(str(error).split())
    message = text.split(" : ", 2)[-1]
    if "bad_alloc" in text or "Failed to allocate memory" in text or isinstance(error, MemoryError):
        return SetupError("there is not enough memory to run the network", subject=subject, details=[message])
    if isinstance(error, ort_errors.NotImplemented):
        return UnsupportedGraphError(
            "onnxruntime has no kernel for one of its operators",
            subject=subject,
            details=[message],
            hint="export the network with another opset or without this operator",
        )
    return UnsupportedGraphError("onnxruntime cannot run it", subject=subject, details=[message])

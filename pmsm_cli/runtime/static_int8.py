"""The source as onnxruntime's own static quantisation makes it: what users would take instead of a spiking network."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pmsm_cli.errors import UnsupportedGraphError
from pmsm_cli.runtime.session import Array
from pmsm_cli.sources.images import Batch


def quantise_statically(source: Path, target: Path, batches: Iterable[Batch], *, input_name: str, subject: str) -> None:
    """Write the network of one file into another, quantised by onnxruntime: QDQ, uint8 activations, int8 weights.

    Weights have a scale for each channel, activations their smallest and largest value over the batches, which stream.
    uint8 with int8 is what onnxruntime runs fastest on processors with VNNI.

    Raises:
        UnsupportedGraphError: onnxruntime's quantisation does not take the network.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    try:
        with _quiet():
            quantize_static(
                str(source),
                str(target),
                _Reader(batches, input_name),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
    except Exception as error:
        raise UnsupportedGraphError(
            "onnxruntime's static quantisation does not take it",
            subject=subject,
            details=[f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"],
        ) from error


class _Reader:
    """Batches in the form that onnxruntime asks for."""

    def __init__(self, batches: Iterable[Batch], input_name: str) -> None:
        self._inputs: Iterator[Array] = (batch.inputs for batch in batches if len(batch.inputs))
        self._name = input_name

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None after the last."""
        inputs = next(self._inputs, None)
        return None if inputs is None else {self._name: inputs}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that onnxruntime logs, on which nobody here can act."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)

"""Opening checkpoints to run them: on integer kernels where that is exact, or their weights are integers."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.lowering.lower import Use, lower, lower_further, tidy, tidy_steps
from pmsm_cli.lowering.resting import STEP_CODES
from pmsm_cli.runtime.library import find_library
from pmsm_cli.runtime.session import Session, open_session


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Form:
    """A graph that a checkpoint can be run as."""

    model: ir.Model
    integers: bool  # some of it is in integers, and onnxruntime must not make more of them
    native: bool  # on the native library, which is there


def form_of(checkpoint: Checkpoint, *, batch: int = 1, native: bool = True, integers: bool = True) -> Form:
    """The fastest graph that a checkpoint has: where asked for and possible, on the library and on integers.

    With int8 weights that is an integer graph, and with float weights too, where the library multiplies slices; else it
    is one of fewer operators. All are made here: the file stays one that any onnxruntime runs, and what is fast on this
    machine, for `batch` images at a time, is decided on this machine.
    """
    sites = checkpoint.manifest.calibration.sites
    firing = {site.name: site.quality.firing for site in sites if site.quality is not None}
    library = _library(batch, firing) if native else None
    if checkpoint.manifest.timesteps > 1:
        image = checkpoint.manifest.preprocessing.shape
        weights = checkpoint.int8_weights if integers else None
        model = tidy_steps(checkpoint.model, library, image, weights)[0] if library else checkpoint.model
        return Form(model=model, integers=has_codes(model), native=bool(library))
    if not (integers and checkpoint.int8_weights):
        return _with_float_weights(checkpoint.model, library, slices=integers)
    model, lowered = lower(checkpoint.model, checkpoint.int8_weights)
    if library:
        model, _ = lower_further(model, library)
    return Form(model=model, integers=lowered, native=bool(library))


def _library(batch: int, firing: Mapping[str, float]) -> Use | None:
    found = find_library()
    if found is None:
        return None
    return Use(
        batch=batch,
        firing=firing,
        multiplies_fast=found.multiplies_fast,
        multiplies_slices=found.multiplies_slices,
    )


def _with_float_weights(model: ir.Model, library: Use | None, *, slices: bool) -> Form:
    tidied, _ = tidy(model, library, slices=slices)
    return Form(model=tidied, integers=library is None or has_codes(tidied), native=bool(library))


def open_tried(model: ir.Model, *, subject: str, threads: int | None = None, slices: bool = True) -> Session:
    """A graph of one timestep with float weights that is no checkpoint yet, in the form that a checkpoint would have.

    `slices` lets weights be multiplied in slices of bytes, where the processor does that fast.

    Raises:
        UnsupportedGraphError: onnxruntime has no kernel for an operator, or finds the graph invalid.
        SetupError: there is not enough memory.
    """
    form = _with_float_weights(model, _library(1, {}), slices=slices)  # as for any number of images
    return open_session(form.model, subject=subject, threads=threads, native=form.native, integers=form.integers)


def has_codes(model: ir.Model) -> bool:
    """Whether some neurons of a tidied graph emit codes; where any do, the first ones are an operator of their own."""
    return any(node.op_type == STEP_CODES for node in model.graph)


def open_spiking(
    checkpoint: Checkpoint,
    *,
    batch: int = 1,
    threads: int | None = None,
    native: bool = True,
    integers: bool = True,
) -> Session:
    """A checkpoint ready to run on batches of any size, in the form that `form_of` finds best for `batch` images.

    Raises:
        UnsupportedGraphError: onnxruntime has no kernel for an operator, or finds the graph invalid.
        SetupError: there is not enough memory.
    """
    form = form_of(checkpoint, batch=batch, native=native, integers=integers)
    return open_session(
        form.model, subject=checkpoint.subject, threads=threads, native=form.native, integers=form.integers
    )

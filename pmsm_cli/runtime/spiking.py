"""Opening checkpoints to run them: on integer kernels where their weights are integers."""

from dataclasses import dataclass

import onnx_ir as ir

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.lowering.lower import lower, lower_further, tidy, tidy_steps
from pmsm_cli.runtime.library import find_library
from pmsm_cli.runtime.session import Session, open_session


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Form:
    """A graph that a checkpoint can be run as."""

    model: ir.Model
    integers: bool  # it has what onnxruntime must not make more integers of
    native: bool  # on the native library, which is there


def form_of(checkpoint: Checkpoint, *, native: bool = True, integers: bool = True) -> Form:
    """The fastest graph that a checkpoint has: where asked for and possible, on the library and on integers.

    With int8 weights and one timestep that is the integer graph, with float weights one of fewer operators, all made
    here: the file stays one that any onnxruntime runs, and what is fast on this machine is decided on this machine.
    """
    native = native and find_library() is not None
    sites = checkpoint.manifest.calibration.sites
    firing = {site.name: site.quality.firing for site in sites if site.quality is not None}
    if checkpoint.manifest.timesteps > 1:
        model = tidy_steps(checkpoint.model, firing=firing)[0] if native else checkpoint.model
        return Form(model=model, integers=False, native=native)
    if not (integers and checkpoint.int8_weights):
        return Form(model=tidy(checkpoint.model, library=native, firing=firing)[0], integers=not native, native=native)
    model, lowered = lower(checkpoint.model, checkpoint.int8_weights)
    if native:
        model, _ = lower_further(model, firing=firing)
    return Form(model=model, integers=lowered, native=native)


def open_spiking(
    checkpoint: Checkpoint, *, threads: int | None = None, native: bool = True, integers: bool = True
) -> Session:
    """A checkpoint ready to run, in the form of `form_of`.

    Raises:
        UnsupportedGraphError: onnxruntime has no kernel for an operator, or finds the graph invalid.
        SetupError: there is not enough memory.
    """
    form = form_of(checkpoint, native=native, integers=integers)
    return open_session(
        form.model, subject=checkpoint.subject, threads=threads, native=form.native, integers=form.integers
    )

"""Opening checkpoints to run them: on integer kernels where their weights are integers."""

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.lowering.lower import lower, tidy
from pmsm_cli.runtime.session import Session, open_session


def open_spiking(
    checkpoint: Checkpoint, *, threads: int | None = None, native: bool = True, integers: bool = True
) -> Session:
    """A checkpoint ready to run, in the fastest form that it has.

    With int8 weights and one timestep that is the integer graph, with float weights one of fewer operators, both made
    here: the file stays one that any onnxruntime runs, and what is fast on this machine is decided on this machine.
    `integers=False` leaves int8 weights to float kernels.

    Raises:
        UnsupportedGraphError: onnxruntime has no kernel for an operator, or finds the graph invalid.
        SetupError: there is not enough memory.
    """
    model, lowered = checkpoint.model, False
    if checkpoint.manifest.timesteps == 1:
        if integers and checkpoint.int8_weights:
            model, lowered = lower(model, checkpoint.int8_weights)
        else:
            model, _ = tidy(model)
    return open_session(model, subject=checkpoint.subject, threads=threads, native=native, integers=lowered)

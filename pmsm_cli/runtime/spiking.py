"""Opening checkpoints to run them: on integer kernels where their weights are integers."""

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.lowering.lower import lower
from pmsm_cli.runtime.session import Session, open_session


def open_spiking(
    checkpoint: Checkpoint, *, threads: int | None = None, native: bool = True, integers: bool = True
) -> Session:
    """A checkpoint ready to run, in the fastest form that it has.

    With int8 weights and one timestep that is the integer graph, made here: the file stays one that any onnxruntime
    runs, and what is fast on this machine is decided on this machine. `integers=False` runs the graph of the file.

    Raises:
        UnsupportedGraphError: onnxruntime has no kernel for an operator, or finds the graph invalid.
        SetupError: there is not enough memory.
    """
    if integers and checkpoint.int8_weights and checkpoint.manifest.timesteps == 1:
        model, changed = lower(checkpoint.model, checkpoint.int8_weights)
        return open_session(model, subject=checkpoint.subject, threads=threads, native=native, integers=changed)
    return open_session(checkpoint.model, subject=checkpoint.subject, threads=threads, native=native)

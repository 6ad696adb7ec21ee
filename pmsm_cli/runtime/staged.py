"""Running a graph in stages over all batches, so that what is behind a layer can wait until the layer is settled."""

from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir

from pmsm_cli.graph.captures import values_read
from pmsm_cli.runtime.session import Array, open_session


class StagedRun:
    """A graph that has come as far as some tensors, for a few batches.

    What later nodes still read is held for all batches, and no node runs twice. What did not run yet may change
    meanwhile.
    """

    def __init__(self, model: ir.Model, batches: Sequence[Array], *, subject: str, threads: int | None = None) -> None:
        """`model` is the caller's, and read anew at every stage; each batch is one that the graph takes whole."""
        self.model, self.subject, self.threads = model, subject, threads
        image = model.graph.inputs[0].name or ""
        self._held: list[dict[str, Array]] = [{image: batch} for batch in batches]
        self._done: set[ir.Node] = set()

    def advance(self, name: str) -> Iterator[Array]:
        """Run on until a tensor is there, which is handed out batch after batch."""
        waiting = [node for node in self.model.graph if node not in self._done]
        running = self._needed_for(name, waiting)
        self._done |= running
        later = (value for node in waiting if node not in running for value in values_read(node))
        read_later = {value.name or "" for value in later} | {name}
        if running:
            self._run(running, read_later)
        for held in self._held:
            for other in held.keys() - read_later:
                del held[other]
        return (held[name] for held in self._held)

    def replace(self, name: str, change: Callable[[Array], Array]) -> None:
        """Go on with something else than a tensor that is held."""
        for held in self._held:
            held[name] = change(held[name])

    def _needed_for(self, name: str, waiting: Sequence[ir.Node]) -> set[ir.Node]:
        wanted = {name} - self._held[0].keys()
        nodes = set()
        for node in reversed(waiting):
            if not wanted.isdisjoint({output.name for output in node.outputs}):
                nodes.add(node)
                wanted |= {value.name or "" for value in values_read(node)} - self._held[0].keys()
        return nodes

    def _run(self, nodes: set[ir.Node], read_later: set[str]) -> None:
        """Run these nodes on all batches, and hold what is read later."""
        first, graph = self._held[0], self.model.graph
        fed = sorted(first.keys() & {value.name or "" for node in nodes for value in values_read(node)})
        made = sorted({output.name or "" for node in nodes for output in node.outputs} & read_later)
        stage = ir.convenience.extract(graph, fed, made)
        for value in stage.inputs:
            value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(first[value.name or ""].dtype)), None
        for value in stage.outputs:
            value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
        model = ir.Model(stage, ir_version=self.model.ir_version, functions=tuple(self.model.functions.values()))
        session = open_session(model, subject=self.subject, threads=self.threads)
        for held in self._held:
            results = session.run_all({name: held[name] for name in fed})
            held.update(zip(made, results, strict=True))

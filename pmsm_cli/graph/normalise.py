"""Bringing a source network's channels to the moments that its batch norms state, whatever images it is shown.

Synthetic images excite a network's channels too little or too much, the more so the deeper they lie. Where batch norm
states the mean and deviation that a tensor had on the training data, a scale and a shift for each channel give the
tensor these moments on the synthetic images; what follows (ReLU, residual sums, pooling) then sees about what real
images would have shown it. The network so changed is only looked at: it is never what is converted.

The scales and shifts are found in a stream, as batch norm finds its statistics in training: running moments, each batch
going through a network that is normalised by those of the batches so far. What comes of it does not depend on how many
images a batch holds, as normalising each batch by itself would.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.moments import ChannelMoments, Floats
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.operators import reduction

# A channel that synthetic images hardly move would have its rounding errors blown up: at most so much.
_LARGEST_SCALE = 30.0
_TINY = 1e-12  # beside a variance of 0

SHARE = "pmsm/share"  # the input that says how much of the running moments the batch at hand makes


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalisedTensor:
    """A tensor to be normalised, and the names that the measuring graph uses for it."""

    name: str
    rank: int
    moments: ChannelMoments  # to be brought to

    @property
    def inputs(self) -> tuple[str, str]:
        """The running moments before this batch: of x - beta, and of its square; [1, channels, 1, ...]."""
        return f"{self.name}/running_mean", f"{self.name}/running_square"

    @property
    def outputs(self) -> tuple[str, str]:
        """The same with this batch in them."""
        return f"{self.name}/mean", f"{self.name}/square"

    @property
    def shape(self) -> Shape:
        """That of one value a channel, to broadcast against the tensor."""
        return (1, len(self.moments.mean), *(1,) * (self.rank - 2))

    @property
    def other_axes(self) -> tuple[int, ...]:
        """All axes but that of the channels."""
        return (0, *range(2, self.rank))

    @property
    def smallest_variance(self) -> Floats:
        """What a variance counts as that is smaller, [1, channels, 1, ...]."""
        return self.along_channels((self.moments.deviation / _LARGEST_SCALE) ** 2 + _TINY)

    def along_channels(self, values: npt.NDArray[np.floating]) -> Floats:
        """One value a channel, in the shape of `shape`."""
        return np.asarray(values, np.float32).reshape(self.shape)


def normalised_tensors(network: Network, shapes: Mapping[str, Shape]) -> list[NormalisedTensor]:
    """The tensors that have known moments, in the order of the graph; those of unknown rank are left out."""
    found = []
    for node in network.model.graph:
        name = node.outputs[0].name or ""
        moments, shape = network.moments.get(name), shapes.get(name)
        if moments is not None and shape is not None and shape[1:2] == (len(moments.mean),):
            found.append(NormalisedTensor(name=name, rank=len(shape), moments=moments))
    return found


def add_running_normalisation(model: ir.Model, tensors: list[NormalisedTensor]) -> ir.Model:
    """A copy that normalises each tensor by running moments handed in, and puts out these with the batch in them."""
    copy = model.clone()
    graph = copy.graph
    share = _input(graph, SHARE, ())
    graph.outputs.clear()
    for tensor in tensors:
        steps = _Steps(graph, tensor)
        before = [_input(graph, name, tensor.shape) for name in tensor.inputs]
        centred = steps.add("Sub", [steps.raw, steps.constant("beta", tensor.moments.mean)], "centred")
        squares = steps.add("Mul", [centred, centred], "squares")
        after = []
        for old, values, name in zip(before, (centred, squares), tensor.outputs, strict=True):
            news = steps.add("Sub", [steps.mean_of(values, f"{name}/batch"), old], f"{name}/news")
            after.append(steps.add("Add", [old, steps.add("Mul", [news, share], f"{name}/part")], name))
        mean, square = after
        variance = steps.add("Sub", [square, steps.add("Mul", [mean, mean], "mean_squared")], "difference")
        smallest = steps.constant("smallest", tensor.smallest_variance)
        deviation = steps.add("Sqrt", [steps.add("Max", [variance, smallest], "guarded")], "deviation")
        scale = steps.add("Div", [steps.constant("wanted", tensor.moments.deviation), deviation], "scale")
        scaled = steps.add("Mul", [steps.add("Sub", [centred, mean], "about_zero"), scale], "scaled")
        steps.finish("Add", [scaled, steps.constant("beta_again", tensor.moments.mean)])
        graph.outputs.extend(after)
    return copy


def with_normalisation(
    network: Network, tensors: list[NormalisedTensor], running: Mapping[str, Floats], shapes: Mapping[str, Shape]
) -> tuple[Network, dict[str, Shape]]:
    """A copy of a network that normalises by fixed moments, and its shapes: what was found, made permanent.

    `running` holds each tensor's moments under the names of its `outputs`. In the copy the normalised tensors have the
    names of the original ones, so that sites stay what they are; what a layer itself puts out is called NAME/raw.
    """
    copy = network.model.clone()
    extended = dict(shapes)
    for tensor in tensors:
        mean, square = (running[name].reshape(-1).astype(np.float64) for name in tensor.outputs)
        variance = np.maximum(square - mean**2, tensor.smallest_variance.reshape(-1))
        scale = tensor.moments.deviation / np.sqrt(variance)
        shift = tensor.moments.mean - scale * (tensor.moments.mean + mean)
        steps = _Steps(copy.graph, tensor)
        scaled = steps.add("Mul", [steps.raw, steps.constant("scale", scale)], "scaled")
        steps.finish("Add", [scaled, steps.constant("shift", shift)])
        extended[steps.raw.name or ""] = shapes[tensor.name]
    return replace(network, model=copy), extended


class _Steps:
    """New nodes behind the node that makes a tensor; the last of them takes over the tensor's name and readers."""

    def __init__(self, graph: ir.Graph, tensor: NormalisedTensor) -> None:
        self._graph, self._tensor = graph, tensor
        self._nodes: list[ir.Node] = []
        self.raw = next(out for node in graph for out in node.outputs if out.name == tensor.name)

    def constant(self, name: str, values: npt.NDArray[np.floating]) -> ir.Value:
        return add_constant(self._graph, f"{self._tensor.name}/{name}", self._tensor.along_channels(values))

    def add(self, op_type: str, inputs: list[ir.Value], result: str) -> ir.Value:
        value = self._result(result)
        self._nodes.append(ir.Node("", op_type, inputs, outputs=[value], name=value.name))
        return value

    def _result(self, name: str) -> ir.Value:
        """A new value, named after the tensor."""
        full = name if name.startswith(f"{self._tensor.name}/") else f"{self._tensor.name}/{name}"
        return ir.Value(name=full, type=ir.TensorType(ir.DataType.FLOAT))

    def mean_of(self, values: ir.Value, result: str) -> ir.Value:
        mean = self._result(result)
        self._nodes.append(reduction(self._graph, "ReduceMean", values, self._tensor.other_axes, mean))
        return mean

    def finish(self, op_type: str, inputs: list[ir.Value]) -> None:
        """The last node, whose output stands where the tensor stood."""
        raw = self.raw
        producer = raw.producer()
        assert producer is not None
        result = ir.Value(name=f"{raw.name}/normalised", type=ir.TensorType(ir.DataType.FLOAT), shape=raw.shape)
        readers = list(raw.uses())
        self._nodes.append(ir.Node("", op_type, inputs, outputs=[result], name=f"{raw.name}/normalised"))
        own = set(self._nodes)
        for reader, index in readers:
            if reader not in own:
                reader.replace_input_with(index, result)
        for index, output in enumerate(self._graph.outputs):
            if output is raw:
                self._graph.outputs[index] = result
        raw.name, result.name = f"{raw.name}/raw", raw.name
        self._graph.insert_after(producer, self._nodes)


def _input(graph: ir.Graph, name: str, shape: Shape) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    graph.inputs.append(value)
    return value

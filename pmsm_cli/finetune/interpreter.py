"""An ONNX graph as a torch module: our own small interpreter.

onnx2torch would be the ready-made way; it imports torchvision, whose builds exclude the CPU builds of torch. What is
needed here is little: the operators of image networks, one function each (`operators/`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from pmsm_cli.errors import UnsupportedGraphError, shorten
from pmsm_cli.finetune.operators import OPERATORS, Call
from pmsm_cli.finetune.operators.table import Function
from pmsm_cli.neuron.onnx_function import DOMAIN, NEURON


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Step:
    """One node, ready to be called."""

    node: ir.Node
    function: Function
    call: Call
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    last_uses: tuple[str, ...]  # values that no later step reads


class TorchGraph(torch.nn.Module):
    """A graph whose constants can be replaced from call to call; floats move with the module, whole numbers do not."""

    def __init__(
        self,
        model: ir.Model,
        *,
        subject: str,
        neuron: Function | None = None,
        functions: Mapping[str, Function] | None = None,
    ) -> None:
        """`neuron` computes the PolarityNeuron nodes; without one they emit spike counts.

        `functions` take the place of the table's for single nodes, by their names.

        Raises:
            UnsupportedGraphError: some operators have no torch function here.
        """
        super().__init__()
        graph = model.graph
        self.subject = subject
        self.input_name = graph.inputs[0].name or ""
        self.output_names = tuple(output.name or "" for output in graph.outputs)
        self._whole: dict[str, Tensor] = {}
        self._buffer_names: dict[str, str] = {}
        for name, value in graph.initializers.items():
            assert value.const_value is not None
            self._add_constant(name, torch.from_numpy(np.array(value.const_value.numpy())))
        self._steps = _steps_of(graph, subject, neuron, functions or {})

    def _add_constant(self, name: str, constant: Tensor) -> None:
        if not constant.is_floating_point():
            self._whole[name] = constant
            return
        if constant.ndim == 4:
            constant = constant.contiguous(memory_format=torch.channels_last)
        self._buffer_names[name] = f"constant_{len(self._buffer_names)}"  # ONNX allows dots in names, torch does not
        self.register_buffer(self._buffer_names[name], constant)

    @property
    def constants(self) -> dict[str, Tensor]:
        """The constants that hold floats, by name."""
        return {name: self.get_buffer(buffer) for name, buffer in self._buffer_names.items()}

    def forward(
        self, images: Tensor, replaced: Mapping[str, Tensor] | None = None, *, also: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """The outputs for a batch, by name, and the values named in `also`; `replaced` takes the place of constants.

        Raises:
            UnsupportedGraphError: a node cannot be computed.
        """
        wanted = {*self.output_names, *also}
        values = {**self.constants, **self._whole, **(replaced or {})}
        values[self.input_name] = images
        kept = {name: values[name] for name in wanted if name in values}
        for step in self._steps:
            try:
                result = step.function(step.call, *(None if name is None else values[name] for name in step.inputs))
            except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
                if is_out_of_memory(error):
                    raise
                raise UnsupportedGraphError(
                    "cannot be computed in torch",
                    subject=self.subject,
                    details=[f"{step.node.name}: {step.node.op_type}: {_first_line(error)}"],
                ) from error
            results = result if isinstance(result, tuple) else (result,)
            for name, value in zip(step.outputs, results, strict=False):
                values[name] = value
                if name in wanted:
                    kept[name] = value
            for name in step.last_uses:
                values.pop(name, None)
        return {name: kept[name] for name in (*self.output_names, *also)}


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch failed for want of memory; on the CPU it has no error of its own for that."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def _steps_of(
    graph: ir.Graph, subject: str, neuron: Function | None, functions: Mapping[str, Function]
) -> tuple[_Step, ...]:
    table = dict(OPERATORS)
    if neuron is not None:
        table[DOMAIN, NEURON] = neuron
    missing = [node for node in graph if (_domain(node), node.op_type) not in table]
    if missing:
        raise UnsupportedGraphError(
            f"cannot be fine-tuned: {len(missing)} nodes have no torch form here",
            subject=subject,
            details=shorten([f"{node.name}: {node.op_type}" for node in missing]),
            hint="use the network as converted, with more --levels or --timesteps",
        )
    reads = Counter(value.name for node in graph for value in node.inputs if value is not None)
    steps = []
    for node in graph:
        inputs = tuple(None if value is None else value.name or "" for value in node.inputs)
        outputs = tuple(value.name or "" for value in node.outputs)
        reads.subtract(name for name in inputs if name is not None)
        done = tuple(name for name in dict.fromkeys((*inputs, *outputs)) if name is not None and reads[name] <= 0)
        call = Call(
            attributes={name: _plain(attribute) for name, attribute in node.attributes.items()}, outputs=len(outputs)
        )
        function = functions.get(node.name or "") or table[_domain(node), node.op_type]
        steps.append(_Step(node=node, function=function, call=call, inputs=inputs, outputs=outputs, last_uses=done))
    return tuple(steps)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _plain(attribute: ir.Attr) -> Any:
    value = attribute.value
    if attribute.type is ir.AttributeType.TENSOR:
        return torch.from_numpy(np.array(attribute.as_tensor().numpy()))
    return list(value) if isinstance(value, (tuple, list)) else value

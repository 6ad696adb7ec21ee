"""The spiking network as something to train: unfolded weights and log thresholds in, a checkpoint's graph out."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor

from pmsm_cli.finetune.interpreter import TorchGraph
from pmsm_cli.finetune.operators import Call
from pmsm_cli.graph.insert import neuron_name, product_scale_name
from pmsm_cli.graph.refold import refold_thresholds, unfold_thresholds
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.neuron.torch_form import carried

Floats = npt.NDArray[np.float32]

# operator -> the inputs that may be trained; the moments of a batch norm and the like are measured, not learned
_TRAINED_INPUTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1),
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "RMSNormalization": (1,),
}


class Student(torch.nn.Module):
    """A one-timestep spiking graph whose weights and thresholds are parameters.

    Thresholds are kept as logarithms: they stay positive, and a step of the optimiser changes each by a share of
    itself, whatever the unit of its tensor.
    """

    def __init__(
        self, model: ir.Model, plan: SitePlan, neurons: Mapping[str, NeuronParameters], *, subject: str
    ) -> None:
        """`neurons` are the sites' own, by name.

        Raises:
            UnsupportedGraphError: some operators have no torch function here.
        """
        super().__init__()
        self._plan = plan
        self._neurons = dict(neurons)
        thresholds = {name: np.asarray(each.threshold, np.float32) for name, each in neurons.items()}
        self._model = unfold_thresholds(model, plan, thresholds)
        self.graph = TorchGraph(self._model, subject=subject, neuron=_carrying_neuron)
        nodes = {node.name: node for node in self._model.graph}
        self._threshold_names = {
            site.name: _constant_name(nodes[neuron_name(site.name)], 1) for site in plan.sites
        }
        constants = self.graph.constants
        self.weights = torch.nn.ParameterDict()
        self.log_thresholds = torch.nn.ParameterDict()
        self._weight_keys = {name: f"w{index}" for index, name in enumerate(self._trained(nodes.values()))}
        self._threshold_keys = {site.name: f"t{index}" for index, site in enumerate(plan.sites)}
        for name, key in self._weight_keys.items():
            self.weights[key] = torch.nn.Parameter(constants[name].clone())
        for site, key in self._threshold_keys.items():
            self.log_thresholds[key] = torch.nn.Parameter(constants[self._threshold_names[site]].log())

    def _trained(self, nodes: Sequence[ir.Node] | object) -> list[str]:
        """Weights, biases and scales: constants of more than one number in the places of such."""
        scales = {
            product_scale_name(reader.node) for site in self._plan.sites for reader in site.readers
        }
        names: dict[str, None] = {}
        for node in self._model.graph:
            for index in _TRAINED_INPUTS.get(node.op_type, ()) if node.name not in scales else ():
                value = node.inputs[index] if index < len(node.inputs) else None
                if value is not None and value.const_value is not None and value.dtype is ir.DataType.FLOAT:
                    if value.const_value.size > 1:
                        names[value.name or ""] = None
        return list(names)

    def forward(self, images: Tensor, *, also: Sequence[str] = ()) -> dict[str, Tensor]:
        """The outputs for a batch, by name, and the values named in `also`."""
        replaced = {name: self.weights[key] for name, key in self._weight_keys.items()}
        for site, key in self._threshold_keys.items():
            replaced[self._threshold_names[site]] = self.log_thresholds[key].exp()
        return self.graph(images, replaced, also=also)

    def folded(self) -> tuple[ir.Model, dict[str, NeuronParameters]]:
        """The graph as a checkpoint holds it, thresholds in the weights, and the neurons of each site."""
        thresholds = {
            site: np.asarray(
                self.log_thresholds[key].detach().exp().cpu().numpy().reshape(self._neurons[site].threshold.shape),
                np.float32,
            )
            for site, key in self._threshold_keys.items()
        }
        current = self._model.clone()
        for name, key in self._weight_keys.items():
            array = self.weights[key].detach().cpu().contiguous().numpy()
            current.graph.initializers[name].const_value = ir.tensor(np.array(array), name=name)
        neurons = {
            site: NeuronParameters(
                threshold=threshold,
                negative_levels=self._neurons[site].negative_levels,
                positive_levels=self._neurons[site].positive_levels,
            )
            for site, threshold in thresholds.items()
        }
        return refold_thresholds(current, self._plan, thresholds), neurons


def _carrying_neuron(call: Call, value: Tensor, threshold: Tensor) -> Tensor:
    return carried(
        value,
        threshold,
        negative_levels=call.get("negative_levels"),
        positive_levels=call.get("positive_levels"),
    )


def _constant_name(node: ir.Node, index: int) -> str:
    value = node.inputs[index]
    assert value is not None
    return value.name or ""

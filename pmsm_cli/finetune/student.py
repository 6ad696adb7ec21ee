"""The spiking network as something to train: unfolded weights and log thresholds in, a checkpoint's graph out."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor

from pmsm_cli.finetune.interpreter import TorchGraph
from pmsm_cli.finetune.live_norm import LiveNorm
from pmsm_cli.finetune.operators import Call
from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.insert import neuron_name, product_scale_name
from pmsm_cli.graph.keys import centre_name
from pmsm_cli.graph.refold import refold_thresholds, unfold_thresholds
from pmsm_cli.graph.rest import rest_name
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.synapse import output_dimension, synapse_of
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.neuron.torch_form import carried

Floats = npt.NDArray[np.float32]

_SMALLEST_UNIT = 0.01  # of the largest channel's: one that is silent must not be stuck

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
    itself, whatever the unit of its tensor. Weights are kept in units of the root mean square of each output channel's,
    biases in those times the root of how many inputs a channel has, for the same reason: where batch norm was folded
    into them, channels differ by orders of magnitude, and Adam steps equally far in all of them.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: SitePlan,
        neurons: Mapping[str, NeuronParameters],
        *,
        subject: str,
        live_norm: bool = True,
    ) -> None:
        """`neurons` are the sites' own, by name; `live_norm` puts a batch norm behind each convolution while training.

        Raises:
            UnsupportedGraphError: some operators have no torch function here.
        """
        super().__init__()
        self._plan = plan
        self._neurons = dict(neurons)
        thresholds = {name: np.asarray(each.threshold, np.float32) for name, each in neurons.items()}
        self._model = unfold_thresholds(model, plan, thresholds)
        self.norms = torch.nn.ModuleDict()
        self._norm_keys: dict[str, tuple[str, str, str]] = {}  # node -> key of its norm, names of weights and bias
        if live_norm:
            self._add_norms()
        norms = {node: self._norm(key) for node, (key, _, _) in self._norm_keys.items()}
        self.graph = TorchGraph(self._model, subject=subject, neuron=_carrying_neuron, functions=norms)
        constants = self.graph.constants
        nodes = {node.name: node for node in self._model.graph}
        self._threshold_names = {site.name: _constant_name(nodes[neuron_name(site.name)], 1) for site in plan.sites}
        self.weights = torch.nn.ParameterDict()
        self.log_thresholds = torch.nn.ParameterDict()
        self._weight_keys = {name: f"w{index}" for index, name in enumerate(self._trained())}
        self._threshold_keys = {site.name: f"t{index}" for index, site in enumerate(plan.sites)}
        units = self._units(constants)
        for name, key in self._weight_keys.items():
            self.register_buffer(f"unit_{key}", units[name])
            self.weights[key] = torch.nn.Parameter(constants[name] / units[name])
        for site, key in self._threshold_keys.items():
            self.log_thresholds[key] = torch.nn.Parameter(constants[self._threshold_names[site]].log())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs for a batch, by name."""
        replaced = {name: self._weight(key) for name, key in self._weight_keys.items()}
        for site, key in self._threshold_keys.items():
            replaced[self._threshold_names[site]] = self.log_thresholds[key].exp()
        outputs: dict[str, Tensor] = self.graph(images, replaced)
        return outputs

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Images that pass inside the block give the norms the moments that the network has before training."""
        norms = [self._norm(key) for key in self.norms]
        for norm in norms:
            norm.start_measuring()
        with torch.no_grad():
            yield
            for norm in norms:
                norm.stop_measuring()

    def folded(self) -> tuple[ir.Model, dict[str, NeuronParameters]]:
        """The graph as a checkpoint holds it, norms and thresholds in the weights, and the neurons of each site."""
        thresholds = {
            site: np.asarray(
                self.log_thresholds[key].detach().exp().cpu().numpy().reshape(self._neurons[site].threshold.shape),
                np.float32,
            )
            for site, key in self._threshold_keys.items()
        }
        current = {name: self._weight(key).detach() for name, key in self._weight_keys.items()}
        for key, weights, bias in self._norm_keys.values():
            current[weights], current[bias] = self._norm(key).folded(current[weights])
        model = self._model.clone()
        for name, value in current.items():
            array = np.array(value.detach().cpu().contiguous().numpy())
            model.graph.initializers[name].const_value = ir.tensor(array, name=name)
        neurons = {
            site: NeuronParameters(
                threshold=threshold,
                negative_levels=self._neurons[site].negative_levels,
                positive_levels=self._neurons[site].positive_levels,
                rest=_resting_count(model, site, threshold),
            )
            for site, threshold in thresholds.items()
        }
        return refold_thresholds(model, self._plan, thresholds), neurons

    def _add_norms(self) -> None:
        """Behind every convolution whose weights and bias are its own; one without a bias gets one."""
        graph = self._model.graph
        for node in list(graph):
            synapse = synapse_of(node) if node.op_type == "Conv" else None
            if synapse is None or not node.name:
                continue
            if len(node.inputs) < 3 or node.inputs[2] is None:
                node.resize_inputs(3)
                bias = np.zeros(synapse.weights.shape[0], np.float32)
                node.replace_input_with(2, add_constant(graph, f"{node.name}/tuned_bias", bias))
            own = [value for value in node.inputs[1:3] if value is not None and len(value.uses()) == 1]
            if len(own) == 2 and own[1].const_value is not None:
                key = f"n{len(self._norm_keys)}"
                self._norm_keys[node.name] = (key, own[0].name or "", own[1].name or "")
                self.norms[key] = LiveNorm(torch.from_numpy(np.array(own[1].const_value.numpy())))

    def _norm(self, key: str) -> LiveNorm:
        norm = self.norms[key]
        assert isinstance(norm, LiveNorm)
        return norm

    def _weight(self, key: str) -> Tensor:
        return torch.mul(self.weights[key], self.get_buffer(f"unit_{key}"))

    def _trained(self) -> list[str]:
        """Weights, biases and scales: constants of more than one number in the places of such."""
        left_out = Counter(bias for _, _, bias in self._norm_keys.values())  # the norms bring their own
        scales = {product_scale_name(reader.node) for site in self._plan.sites for reader in site.readers}
        left_out.update(centre_name(site.name) for site in self._plan.sites)  # softmax does not see them
        names: dict[str, None] = {}
        for node in self._model.graph:
            for index in _TRAINED_INPUTS.get(node.op_type, ()) if node.name not in scales else ():
                value = node.inputs[index] if index < len(node.inputs) else None
                tensor = None if value is None else value.const_value
                if value is None or tensor is None or value.name in left_out:
                    continue
                if tensor.dtype is ir.DataType.FLOAT and tensor.size > 1:
                    names[value.name or ""] = None
        return list(names)

    def _units(self, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each trained constant what one step of the optimiser is measured in; it broadcasts against it."""
        units = {name: _size(constants[name]) for name in self._weight_keys}
        for node in self._model.graph:
            synapse = synapse_of(node)
            weights = node.inputs[synapse.weight_index] if synapse else None
            own = output_dimension(synapse) if synapse else None
            if weights is None or own is None or weights.name not in self._weight_keys:
                continue
            constant = constants[weights.name]
            others = [axis for axis in range(constant.ndim) if axis != own]
            unit = constant.square().mean(dim=others, keepdim=True).sqrt()
            units[weights.name] = unit.clamp_min(_SMALLEST_UNIT * float(unit.max()) + 1e-12)
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            if (
                bias is not None
                and bias.name in self._weight_keys
                and constants[bias.name].shape == unit.flatten().shape
            ):
                fan_in = constant.numel() / constant.shape[own]
                units[bias.name] = units[weights.name].flatten() * fan_in**0.5
        return units


def _resting_count(model: ir.Model, site: str, threshold: Floats) -> Floats:
    """The resting value of a site, which is trained like a bias, in thresholds."""
    constant = model.graph.initializers.get(rest_name(site))
    if constant is None or constant.const_value is None:
        return np.zeros((), np.float32)
    return np.asarray(constant.const_value.numpy().reshape(threshold.shape) / threshold, np.float32)


def _size(constant: Tensor) -> Tensor:
    """The root mean square of a scale or a bias as a whole, or 1 where it is nothing so far."""
    size = constant.square().mean().sqrt()
    return torch.where(size > 0, size, 1.0)


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

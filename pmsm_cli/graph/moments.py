"""What batch normalisation says about a network's activations: each channel's mean and deviation on the training data.

A batch norm puts out gamma (x - mean) / sqrt(variance + epsilon) + beta. On the data that its statistics come from, its
channels therefore have the mean beta and the deviation |gamma| sqrt(variance / (variance + epsilon)). M. Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721, 4.2.1) go by the same.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.operators import is_standard

Floats = npt.NDArray[np.float32]

_DEFAULT_EPSILON = 1e-5  # of the operator, in all its versions


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChannelMoments:
    """The first two moments of a tensor whose channels are its second axis."""

    mean: Floats  # [channels]
    deviation: Floats  # [channels], not negative

    def __post_init__(self) -> None:
        """Keep the arrays from being changed."""
        for values in (self.mean, self.deviation):
            values.flags.writeable = False


def batch_norm_moments(model: ir.Model) -> dict[str, ChannelMoments]:
    """The moments of what each BatchNormalization puts out, by the name of that tensor.

    Folding a batch norm into the layer before it leaves the tensor and its name as they are, so that this is to be
    called before. Batch norms with computed or senseless parameters, or in training mode, are left out.
    """
    moments = {}
    for node in model.graph:
        if not is_standard(node, "BatchNormalization"):
            continue
        parameters = [value.const_value for value in node.inputs[1:5] if value is not None]
        if len(parameters) < 4 or node.attributes.get_int("training_mode"):
            continue
        known = [value.numpy().astype(np.float64) for value in parameters if value is not None]
        if len(known) < 4:
            continue
        gamma, beta, _, variance = known
        epsilon = node.attributes.get_float("epsilon", _DEFAULT_EPSILON)
        with np.errstate(divide="ignore", invalid="ignore"):  # what comes out of it is looked at below
            deviation = np.abs(gamma) * np.sqrt(variance / (variance + epsilon))
        if np.isfinite([beta, deviation]).all() and (variance >= 0).all():
            moments[node.outputs[0].name or ""] = ChannelMoments(
                mean=beta.astype(np.float32), deviation=deviation.astype(np.float32)
            )
    return moments

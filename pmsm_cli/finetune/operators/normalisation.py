"""Normalisations, and softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pmsm_cli.finetune.operators.table import Call, operator


@operator("BatchNormalization")
def batch_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """By stored moments, as at inference."""
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=call.get("epsilon", 1e-5))


@operator("LayerNormalization")
def layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """By the moments of all axes from `axis` on."""
    shape = x.shape[call.get("axis", -1) :]
    if tuple(scale.shape) == tuple(shape) and (bias is None or bias.shape == scale.shape):
        return F.layer_norm(x, shape, scale, bias, eps=call.get("epsilon", 1e-5))
    result = F.layer_norm(x, shape, eps=call.get("epsilon", 1e-5)) * scale
    return result if bias is None else result + bias


@operator("RMSNormalization")
def rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """By the root mean square of all axes from `axis` on."""
    axis = call.get("axis", -1)
    axes = tuple(range(axis if axis >= 0 else x.ndim + axis, x.ndim))
    return x * torch.rsqrt(x.square().mean(dim=axes, keepdim=True) + call.get("epsilon", 1e-5)) * scale


@operator("InstanceNormalization")
def instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """By the moments of each channel of each image."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.get("epsilon", 1e-5))


@operator("GroupNormalization")
def group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """By the moments of groups of channels; up to opset 20 scale and bias came one a group."""
    groups = call.get("num_groups")
    if scale.numel() == groups:
        scale, bias = (value.repeat_interleave(x.shape[1] // groups) for value in (scale, bias))
    return F.group_norm(x, groups, scale, bias, eps=call.get("epsilon", 1e-5))


@operator("LpNormalization")
def lp_norm(call: Call, x: Tensor) -> Tensor:
    """Divided by the p-norm along an axis."""
    norm = torch.linalg.vector_norm(x, ord=call.get("p", 2), dim=call.get("axis", -1), keepdim=True)
    return torch.div(x, norm.clamp_min(1e-30))


@operator("Softmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    """Shares that sum to 1 along an axis."""
    return torch.softmax(x, dim=call.get("axis", -1))


@operator("LogSoftmax")
def log_softmax(call: Call, x: Tensor) -> Tensor:
    """Logarithms of shares that sum to 1 along an axis."""
    return torch.log_softmax(x, dim=call.get("axis", -1))

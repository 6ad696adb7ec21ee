"""Operators that multiply and accumulate: convolutions and matrix products; and the neuron."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pmsm_cli.finetune.operators.padding import pads_of
from pmsm_cli.finetune.operators.table import Call, operator
from pmsm_cli.neuron.onnx_function import DOMAIN, NEURON
from pmsm_cli.neuron.torch_form import emit

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@operator("Conv")
def convolution(call: Call, x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of 1 to 3 dimensions, grouped or not."""
    spatial = weights.ndim - 2
    strides = call.get("strides", [1] * spatial)
    dilations = call.get("dilations", [1] * spatial)
    begins, ends = pads_of(call, x.shape[2:], weights.shape[2:], strides, dilations)
    padding = begins
    if begins != ends:  # torch pads both ends alike
        x = F.pad(x, [pad for pair in zip(reversed(begins), reversed(ends), strict=True) for pad in pair])
        padding = [0] * spatial
    return _CONVOLUTIONS[spatial - 1](
        x,
        weights,
        bias,
        stride=strides,
        padding=padding,
        dilation=dilations,
        groups=call.get("group", 1),
    )


@operator("ConvTranspose")
def transposed_convolution(call: Call, x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """A transposed convolution: all of it without padding, then what `pads` or `output_shape` leave of it."""
    spatial = weights.ndim - 2
    strides = call.get("strides", [1] * spatial)
    dilations = call.get("dilations", [1] * spatial)
    added = call.get("output_padding", [0] * spatial)
    whole = _TRANSPOSED[spatial - 1](x, weights, None, stride=strides, dilation=dilations, groups=call.get("group", 1))
    full = [
        (size - 1) * strides[axis] + (weights.shape[2 + axis] - 1) * dilations[axis] + 1 + added[axis]
        for axis, size in enumerate(x.shape[2:])
    ]
    automatic = call.get("auto_pad", "NOTSET")
    wanted = call.get("output_shape")
    if wanted is None and automatic in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * strides[axis] for axis, size in enumerate(x.shape[2:])]
    pads = call.get("pads", [0] * (2 * spatial))
    for axis in range(spatial):
        begin, end = pads[axis], pads[spatial + axis]
        if wanted is not None:
            total = full[axis] - wanted[-spatial:][axis]
            small, large = total // 2, total - total // 2
            begin, end = (small, large) if automatic == "SAME_UPPER" else (large, small)
        missing = full[axis] - end - whole.shape[2 + axis]
        if missing > 0:  # output padding beyond what the kernel reaches
            whole = F.pad(whole, [0, 0] * (spatial - 1 - axis) + [0, missing])
        whole = whole.narrow(2 + axis, begin, full[axis] - begin - end)
    return whole if bias is None else whole + bias.reshape(-1, *([1] * spatial))


@operator("Gemm")
def general_product(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Alpha A B + beta C, either matrix transposed on request."""
    a = a.t() if call.get("transA", 0) else a
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    if alpha == 1 and beta == 1 and call.get("transB", 0):
        return F.linear(a, b, c) if c is None or c.ndim == 1 else torch.add(F.linear(a, b), c)
    product = alpha * (a @ (b.t() if call.get("transB", 0) else b))
    return torch.as_tensor(product if c is None else product + beta * c)


@operator("MatMul")
def matrix_product(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """A matrix product that broadcasts over leading axes."""
    return torch.matmul(a, b)


@operator("Einsum")
def einsum(call: Call, *operands: Tensor) -> Tensor:
    """A sum of products as its equation says."""
    return torch.einsum(call.get("equation").replace(" ", ""), *operands)


@operator(NEURON, domain=DOMAIN)
def polarity_neuron(call: Call, value: Tensor, threshold: Tensor) -> Tensor:
    """The spike counts of the first timestep."""
    return emit(
        value / threshold, negative_levels=call.get("negative_levels"), positive_levels=call.get("positive_levels")
    )

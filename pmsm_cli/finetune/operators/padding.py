"""How far a window reaches beyond the borders: `pads`, or what `auto_pad` makes of sizes and strides."""

from collections.abc import Sequence

from pmsm_cli.finetune.operators.table import Call


def pads_of(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis."""
    spatial = len(kernel)
    automatic = call.get("auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        pads = call.get("pads", [0] * (2 * spatial))
        return list(pads[:spatial]), list(pads[spatial:])
    if automatic == "VALID":
        return [0] * spatial, [0] * spatial
    begins, ends = [], []
    for axis in range(spatial):
        steps = -(-sizes[axis] // strides[axis])
        total = max((steps - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - sizes[axis], 0)
        small, large = total // 2, total - total // 2
        begins.append(small if automatic == "SAME_UPPER" else large)
        ends.append(large if automatic == "SAME_UPPER" else small)
    return begins, ends

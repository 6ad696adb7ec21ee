"""How strongly an error in a channel shows in what its synapses put out."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.sites import Site
from pmsm_cli.graph.synapse import Synapse, contracted_weights, synapse_of

Doubles = npt.NDArray[np.float64]


def noise_gains(site: Site, nodes: Mapping[str, ir.Node], power: Doubles) -> Doubles:
    """The relative squared error that a unit of distortion in each channel makes in the outputs that read it.

    `power` is the mean square of each channel, [channels] (or [1], where a site has one threshold in all). Each output
    is weighed by its own power, taken as the sum of what the channels bring to it: a large output bears more noise.
    """
    total = np.zeros(len(power))
    for reader in site.readers:
        synapse = synapse_of(nodes[reader.node])
        if synapse is None or len(power) != synapse.channels:
            total += 1 / np.maximum(power, np.finfo(np.float32).tiny)  # a product: each channel by its own power
        else:
            total += _gains(_squared_weights(synapse), power)
    return total


def _gains(squares: Doubles, power: Doubles) -> Doubles:
    """`squares` are [groups, channels of the group, outputs of the group]."""
    groups = squares.shape[0]
    own = power.reshape(groups, -1)
    output = np.einsum("gco,gc->go", squares, own)
    weighed = np.divide(1, output, out=np.zeros_like(output), where=output > 0)
    return np.asarray(np.einsum("gco,go->gc", squares, weighed).ravel())


def _squared_weights(synapse: Synapse) -> Doubles:
    weights = synapse.weights.astype(np.float64)
    op_type = synapse.node.op_type
    if op_type == "Conv":
        energy = np.square(weights).reshape(*weights.shape[:2], -1).sum(axis=2)
        groups = synapse.channels // weights.shape[1]
        return np.asarray(energy.reshape(groups, -1, weights.shape[1]).transpose(0, 2, 1))
    if op_type == "ConvTranspose":
        energy = np.square(weights).reshape(*weights.shape[:2], -1).sum(axis=2)
        groups = synapse.node.attributes.get_int("group", 1) or 1
        return np.asarray(energy.reshape(groups, -1, weights.shape[1]))
    if weights.ndim == 2:
        return np.square(contracted_weights(synapse).astype(np.float64))[None]
    return np.ones((1, synapse.channels, 1))  # weights of another rank: all channels alike

"""Keys about their mean: a softmax over keys does not see what all keys have in common.

A query's scores are its products with the keys. What is added to every key alike adds the same to every score of a
query, and a softmax takes no notice of that:

    softmax_j(q k_j)  =  softmax_j(q (k_j - c))        for any c

So neurons read keys less a constant, their mean, and nothing is added back: levels are spent on what tells keys apart,
and what rounding makes of the common part is gone. A bias of the keys' layer would do the same where they have one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.operators import is_standard, subtract_constant
from pmsm_cli.graph.sites import Site, SitePlan
from pmsm_cli.graph.synapse import Floats

_KEYS = 1  # which operand of a product they are: on its right, [..., channels, keys]


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """A site that holds keys: which shape its centre has, to broadcast against [images, ..., channels, keys]."""

    site: str
    shape: Shape  # [channels, 1] or [heads, channels, 1]


def keys_of(network: Network, plan: SitePlan, shapes: Mapping[str, Shape]) -> tuple[Keys, ...]:
    """The sites that are read as keys only; `shapes` are those of one image, by name.

    On the way from the product to the softmax scores are only scaled, alike for all keys of a query, moved, and added
    to. Channels must be as many for every size of the image.
    """
    nodes = {node.name: node for node in network.model.graph}
    sized = network.image.height is not None and network.image.width is not None
    return tuple(
        Keys(site=site.name, shape=shape)
        for site in plan.sites
        if site.relative_axis is None  # an average's weights, whose sum has to stay
        and all(reader.operand == _KEYS and _ends_in_softmax(nodes[reader.node], shapes) for reader in site.readers)
        and (shape := _shape_of_centre(nodes[site.readers[0].node].inputs[_KEYS], site, shapes, sized=sized))
    )


def with_centred_keys(
    network: Network, plan: SitePlan, centres: Mapping[str, Floats], shapes: Mapping[str, Shape]
) -> tuple[Network, dict[str, Shape]]:
    """A copy with sites among `centres` (by name) less these constants, and its shapes; outputs stay what they are.

    The site's name is that of what its readers now read; what was called so before is NAME/uncentred, for all others.
    Precondition: the sites are among `keys_of`.
    """
    if not centres:
        return network, dict(shapes)
    copy, extended = network.model.clone(), dict(shapes)
    values = {output.name: output for node in copy.graph for output in node.outputs}
    for site in plan.sites:
        if site.name in centres:
            raw = values[site.name]
            _centre(copy.graph, raw, site, centres[site.name])
            if site.name in shapes:
                extended[raw.name or ""] = shapes[site.name]
    return replace(network, model=copy), extended


def centre_name(site: str) -> str:
    """The name of the constant that is taken off a site's keys."""
    return f"{site}/centre"


def centring_name(site: str) -> str:
    """The name of the node that takes it off."""
    return f"{site}/centred"


def _centre(graph: ir.Graph, raw: ir.Value, site: Site, centre: Floats) -> None:
    readers = {(reader.node, reader.operand) for reader in site.readers}
    reading = [(user, index) for user, index in raw.uses() if (user.name, index) in readers]
    name = centring_name(site.name)
    centred = subtract_constant(graph, raw, centre, name=name, constant=centre_name(site.name))
    raw.name, centred.name = f"{site.name}/uncentred", site.name
    for user, index in reading:
        user.replace_input_with(index, centred)


def _shape_of_centre(keys: ir.Value | None, site: Site, shapes: Mapping[str, Shape], *, sized: bool) -> Shape:
    """The shape that a site's centre has; empty where it cannot have any."""
    shape = shapes.get(site.name)
    if keys is None or shape is None or len(shape) < 3 or keys.producer() is None or keys.is_graph_output():
        return ()
    if not (sized or (keys.shape is not None and isinstance(keys.shape[-2], int))):
        return ()
    heads = (shape[-3],) if site.channel_axis == -3 and site.channels > 1 else ()
    return (*heads, shape[-2], 1)


def _ends_in_softmax(product: ir.Node, shapes: Mapping[str, Shape]) -> bool:
    value = product.outputs[0]
    while True:
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output() or not is_standard(uses[0].node):
            return False
        node, index = uses[0].node, uses[0].idx
        before, after = shapes.get(value.name or ""), shapes.get(node.outputs[0].name or "")
        if before is None or after is None or before[-1] != after[-1]:
            return False
        if node.op_type == "Softmax":
            return node.attributes.get_int("axis", -1) in (-1, len(before) - 1)
        if not _keeps_rows(node, index, len(before)):
            return False
        value = node.outputs[0]


def _keeps_rows(node: ir.Node, index: int, rank: int) -> bool:
    """Whether rows that had a constant added before have a constant added behind, in an operator of equal rows."""
    if node.op_type in ("Add", "Identity"):
        return True
    if node.op_type in ("Mul", "Div"):
        factor = node.inputs[1 - index]
        sizes = None if factor is None or factor.const_value is None else factor.const_value.shape.numpy()
        alike = sizes is not None and sizes[-1:] in ((), (1,))
        return alike and (node.op_type == "Mul" or index == 0)
    if node.op_type == "Transpose":
        return "perm" in node.attributes and node.attributes["perm"].as_ints()[-1] == rank - 1
    return node.op_type in ("Reshape", "Squeeze", "Unsqueeze") and index == 0

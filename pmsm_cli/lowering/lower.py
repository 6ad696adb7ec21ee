"""The graphs that checkpoints run as: on integer kernels, on the native library, or with fewer operators."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from pmsm_cli.graph.network import Shape
from pmsm_cli.lowering.attention import (
    attention_weights_of_steps_to_native,
    attention_weights_to_native,
    averages_scaled_before,
)
from pmsm_cli.lowering.channels_last import integers_channels_last
from pmsm_cli.lowering.convolutions import (
    carried_values_to_codes,
    convolutions_to_integers,
    pools_behind_quantisers,
    sums_to_integers,
)
from pmsm_cli.lowering.counted_codes import counts_of_codes
from pmsm_cli.lowering.events import later_products_by_events, products_by_events
from pmsm_cli.lowering.int8 import Int8Weights, Pattern, weights_of
from pmsm_cli.lowering.moves import neurons_before_moves
from pmsm_cli.lowering.native import bounds_to_native, layers_of_one_input_to_native, quantisers_to_native
from pmsm_cli.lowering.native_convolutions import (
    bounds_before_pools,
    convolutions_to_native,
    images_to_native,
    neurons_into_convolutions,
    sums_into_convolutions,
)
from pmsm_cli.lowering.neurons import neurons_to_codes
from pmsm_cli.lowering.parts import read
from pmsm_cli.lowering.pointwise import gelus_together, steps_into_norms, terms_together
from pmsm_cli.lowering.products import factors_into_products, products_of_codes_to_integers, products_to_integers
from pmsm_cli.lowering.resting import counts_to_neurons, rests_to_neurons
from pmsm_cli.lowering.shortcuts import shortcuts_to_integers
from pmsm_cli.lowering.side_by_side import steps_side_by_side
from pmsm_cli.lowering.slices import has_rows, sliced_weights
from pmsm_cli.lowering.step_codes import steps_to_codes
from pmsm_cli.lowering.step_convolutions import convolutions_of_steps
from pmsm_cli.lowering.step_products import products_of_steps, products_to_native
from pmsm_cli.lowering.steps_together import steps_together

# In this order: each finds what those before it have left.
PATTERNS: tuple[Pattern, ...] = (
    neurons_to_codes,
    pools_behind_quantisers,
    convolutions_to_integers,
    shortcuts_to_integers,
    sums_to_integers,
    carried_values_to_codes,
    steps_into_norms,
    gelus_together,
    terms_together,
    products_to_integers,
    products_of_codes_to_integers,
    averages_scaled_before,
)

# Behind those.
ON_THE_LIBRARY: tuple[Pattern, ...] = (
    quantisers_to_native,
    layers_of_one_input_to_native,
    bounds_to_native,
    attention_weights_to_native,
    neurons_before_moves,
    integers_channels_last,
)

# Behind those, where the library has kernels that are at least as fast as onnxruntime's.
CONVOLUTIONS: tuple[Pattern, ...] = (
    bounds_before_pools,
    convolutions_to_native,
    sums_into_convolutions,
    neurons_into_convolutions,
    images_to_native,
)

# What serves graphs with float weights too: it leaves the synapses as they are.
IN_FLOATS: tuple[Pattern, ...] = (steps_into_norms, gelus_together, terms_together)

# Several timesteps, or one with float weights.
IN_CODES: tuple[Pattern, ...] = (
    steps_to_codes,
    convolutions_of_steps,
    *IN_FLOATS,
    products_of_steps,
    products_to_integers,
    products_of_codes_to_integers,
    factors_into_products,
    averages_scaled_before,
    attention_weights_of_steps_to_native,
    neurons_before_moves,
    steps_together,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What a graph for the native library may count on."""

    batch: int = 1  # images at a time
    firing: Mapping[str, float] = field(default_factory=dict)  # percent of the neurons of sites, by name
    multiplies_fast: bool = False  # the library has kernels for this processor's products of bytes
    multiplies_slices: bool = False  # which are so fast that float weights, in three slices of bytes, gain by them

    @property
    def products(self) -> tuple[Pattern, ...]:
        """What is done for matrix products: where there is no VNNI, onnxruntime's exact ones are slower than ours."""
        return (products_to_native,) if self.multiplies_fast and not self.multiplies_slices else ()


def tidy(model: ir.Model, library: Use | None, *, slices: bool = False) -> tuple[ir.Model, bool]:
    """A one-timestep graph with fewer operators around its neurons, and whether there was anything to change.

    With the native library they stay neurons; without, those of up to 256 levels become onnxruntime's quantisers, which
    take half the time of the functions in the file. With `slices`, where the library multiplies them, spikes are codes,
    and synapses compute with integers. Outputs are those of the model up to rounding in float32; spikes as well, apart
    from ties.
    """
    if library is None:
        return _applied(model, (neurons_to_codes, *IN_FLOATS), {})
    sliced = sliced_weights(model.graph) if slices and library.multiplies_slices else {}
    return _applied(model, (*_synapses(sliced), *_neurons(library)), sliced)


def lower(model: ir.Model, weights: Mapping[str, Int8Weights]) -> tuple[ir.Model, bool]:
    """A graph whose synapses compute with integers, and whether there was anything to change.

    Spikes and outputs are those of the model, apart from ties: where a value lies within rounding of the border between
    two counts, sums in floats may fall to either side. Preconditions: one timestep, and `weights` (by the names of the
    initialisers) are what the model's float weights stand for, as `settle_weights` leaves them.
    """
    return _applied(model, PATTERNS, weights)


def lower_further(model: ir.Model, library: Use) -> tuple[ir.Model, bool]:
    """A graph of `lower` on operators of the native library, and whether there was anything to change.

    Codes and outputs are those of the model, apart from ties. Precondition: the library is there to run it.
    """
    convolutions = CONVOLUTIONS if library.multiplies_fast else ()
    events = products_by_events(library.firing, batch=library.batch)
    patterns = (*ON_THE_LIBRARY, *convolutions, *library.products, events)
    return _applied(model, patterns, {})


def tidy_steps(
    model: ir.Model, library: Use, image: Shape, weights: Mapping[str, Int8Weights] | None = None
) -> tuple[ir.Model, bool]:
    """A graph of several timesteps on the native library, with fewer operators, and whether it changed.

    The later timesteps are rows of one batch where they can be, else a Scan; `image` is the shape of one. Where they
    are rows, synapses with int8 weights (as in `lower`) compute with integers where the library does that faster, and
    where there are no such weights, those with float weights do, in slices; without `weights` (None) all stay in
    floats. Spikes and outputs are those of the model, as in `tidy`. Precondition: the library is there to run it.
    """
    copy = model.clone()
    side_by_side = steps_side_by_side(copy, image)
    if not side_by_side:  # what was tried leaves nothing behind
        copy = model.clone()
    integers: Mapping[str, Int8Weights] = {}
    if weights is not None and side_by_side:
        integers = _of_steps(copy.graph, weights, library)
    changed = [pattern(copy.graph, integers) for pattern in (*_synapses(integers), *_neurons(library))]
    for node in copy.graph:
        if node.op_type == "Scan":
            body = node.attributes["body"].as_graph()
            changed += [pattern(body, {}) for pattern in (gelus_together, later_products_by_events(library.batch))]
    return _finished(copy, model), side_by_side or any(changed)


def tidy_counted(model: ir.Model, *, slices: bool) -> tuple[ir.Model, bool]:
    """A graph whose first timestep the native library counts (`pmsm_cli.runtime.native_counters`), as in `tidy`.

    Preconditions: the library is there to run it; for `slices`, it multiplies these, and there is one timestep.
    """
    sliced = sliced_weights(model.graph) if slices else {}
    return _applied(model, (*_synapses(sliced), counts_of_codes, rests_to_neurons, counts_to_neurons), sliced)


def _synapses(weights: Mapping[str, Int8Weights]) -> tuple[Pattern, ...]:
    """What is done for synapses, and what lies between them: where some have whole weights, spikes are codes."""
    return IN_CODES if weights else IN_FLOATS


def has_products(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Whether there are matrix products of many rows with these weights, as in a transformer."""
    products = (node for node in graph if node.op_type == "MatMul" and weights_of(node, weights) is not None)
    return any(has_rows(read(node, 0)) for node in products)


def _of_steps(graph: ir.Graph, weights: Mapping[str, Int8Weights], library: Use) -> Mapping[str, Int8Weights]:
    """The weights by which running counts are multiplied faster than by floats.

    Without VNNI large counts take twice as long as small ones: convolutions gain all the same, matrix products do not.
    """
    if library.multiplies_slices:
        return weights or sliced_weights(graph)
    return weights if library.multiplies_fast and not has_products(graph, weights) else {}


def _neurons(library: Use) -> tuple[Pattern, ...]:
    """What is done for neurons that stay in floats, and for products of their spikes."""
    return products_by_events(library.firing, batch=library.batch), rests_to_neurons


def _applied(
    model: ir.Model, patterns: tuple[Pattern, ...], weights: Mapping[str, Int8Weights]
) -> tuple[ir.Model, bool]:
    copy = model.clone()
    changed = [pattern(copy.graph, weights) for pattern in patterns]
    return _finished(copy, model), any(changed)


def _finished(rewritten: ir.Model, model: ir.Model) -> ir.Model:
    """Without what nobody reads any more, and with the outputs' names, whatever makes them now."""
    common_passes.RemoveUnusedNodesPass()(rewritten)
    for output, old in zip(rewritten.graph.outputs, model.graph.outputs, strict=True):
        output.name = old.name
    return rewritten

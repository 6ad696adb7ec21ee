"""Spiking networks whose arithmetic is exact in float32 and in integers: weights and thresholds of powers of two."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import spiking

from pmsm_cli.graph.insert import insert_neurons, spikes_name
from pmsm_cli.lowering.carried import carried_values, carry
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.lower import PATTERNS
from pmsm_cli.lowering.settle import settle_weights
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.runtime.library import NativeLibrary, register


def whole(*shape: int, seed: int = 0, unit: float = 2.0**-6, most: int = 20) -> np.ndarray:
    """Seeded multiples of a power of two, at least one of 127 units in each row, so that the scale is the unit."""
    values = np.random.default_rng((seed, *shape)).integers(-most, most + 1, shape)
    values.reshape(shape[0], -1)[:, 0] = 127
    return (values * unit).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Definition:
    """A spiking graph with int8 weights, before it is lowered."""

    model: ir.Model
    weights: dict[str, Int8Weights]
    sites: tuple[str, ...]
    rests: dict[str, np.ndarray]


def definition(
    proto: onnx.ModelProto,
    image: tuple[int, ...] = (3, 8, 8),
    *,
    levels: tuple[int, int] = (0, 15),
    rest: int = 0,
    ranges: tuple[float, float] | None = None,
    seed: int = 0,
) -> Definition:
    """Neurons on all sites, a threshold of 1, 2 or 4 for each channel, which rests at 0, 2, ... `rest` thresholds in turn.

    Even ones: ties go to the even count, also of what lies above rest.

    `ranges` is that of all carried values; None: they stay floats.
    """
    network, plan, shapes = spiking.read(proto, image)
    random = np.random.default_rng(seed)
    parameters = {}
    for site in plan.sites:
        count = site.channels if site.channel_axis is not None else 1
        size = () if site.channel_axis is None else (count,)
        parameters[site.name] = NeuronParameters(
            threshold=np.asarray(2.0 ** random.integers(0, 3, size), np.float32),
            negative_levels=levels[0],
            positive_levels=levels[1],
            rest=np.asarray(2 * (np.arange(count).reshape(size) % (rest // 2 + 1)), np.float32),
        )
    model = insert_neurons(network, plan, parameters, shapes)
    model, weights = settle_weights(model, shapes)
    if ranges:
        model = carry(model, dict.fromkeys(carried_values(model, shapes), ranges))
    sites = tuple(site.name for site in plan.sites)
    return Definition(
        model=model, weights=weights, sites=sites, rests={name: each.rest for name, each in parameters.items()}
    )


def watched(model: ir.Model, names: list[str]) -> ir.Model:
    """A copy that also hands out the named values."""
    copy = model.clone()
    values = {output.name: output for node in copy.graph for output in node.outputs}
    for name in names:
        values[name].type = values[name].type or ir.TensorType(ir.DataType.FLOAT)
        copy.graph.outputs.append(values[name])
    return copy


def outputs(
    model: ir.Model, images: np.ndarray, optimised: str | None = None, *, library: NativeLibrary | None = None
) -> list[np.ndarray]:
    """What onnxruntime makes of a model, stock or with a library; `optimised` names a file for the graph that it runs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if library:
        register(options, library)
    if optimised:
        options.optimized_model_filepath = optimised
    session = ort.InferenceSession(spiking.serialised(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})


def applied(made: Definition, *wanted: str, model: ir.Model | None = None) -> tuple[ir.Model, list[str]]:
    """The graph after the named patterns, in their order, and the names of those that changed something."""
    copy = (model or made.model).clone()
    chosen = [pattern for pattern in PATTERNS if pattern.__name__ in wanted]
    return copy, [pattern.__name__ for pattern in chosen if pattern(copy.graph, made.weights)]


def spike_names(made: Definition) -> list[str]:
    """The names of all spikes."""
    return [spikes_name(site) for site in made.sites]


def ops(model: ir.Model) -> dict[str, int]:
    """How often each operator occurs."""
    counts: dict[str, int] = {}
    for node in model.graph:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def images(count: int = 4, *shape: int, seed: int = 0) -> np.ndarray:
    """Seeded multiples of 1/8."""
    return (np.random.default_rng(seed).integers(-32, 33, (count, *(shape or (3, 8, 8)))) / 8).astype(np.float32)

"""How much each site's distortion matters: the error of the output with the neurons of one site alone."""

from collections.abc import Callable, Mapping

import numpy as np

from pmsm_cli.graph.network import Network
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.switches import OFF, ON, add_switches, switch_name
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.runtime.session import Array, open_session
from pmsm_cli.runtime.tensors import squared_difference

_ROUNDING = 1e-12  # of the power: what float32 leaves of a constant that is computed anew for each image


def output_errors(
    network: Network,
    plan: SitePlan,
    parameters: Mapping[str, NeuronParameters],
    inputs: Array,
    *,
    mean_errors: Mapping[str, Array] | None = None,
    threads: int | None = None,
    on_site: Callable[[int], None] = lambda sites: None,
) -> dict[str, float]:
    """For each site the squared relative error of the outputs, mean over them, with its neurons in and no others.

    Errors are relative to an output's power; where most of that is a constant (an offset of all classes, or one that is
    masked by a large negative number), which tells nothing and would make any error small, to what varies of it.
    One session serves all sites; `inputs` are a few images (or whole fixed batches). `mean_errors`, [channels] or [1],
    are taken off what the neurons of these sites carry: what matching moments takes off it. `on_site` is told of each.
    """
    switched = add_switches(network, plan, parameters, mean_errors or {})
    session = open_session(switched, subject=network.subject, threads=threads)
    off = {switch_name(site.name): np.asarray(OFF) for site in plan.sites}
    wanted = session.run(inputs, off)
    floats = [index for index, output in enumerate(wanted) if np.issubdtype(output.dtype, np.floating)]
    power = {index: _telling_power(wanted[index]) or 1.0 for index in floats}
    errors = {}
    for site in plan.sites:
        outputs = session.run(inputs, off | {switch_name(site.name): np.asarray(ON)})
        relative = [float(squared_difference(outputs[k], wanted[k]).sum()) / power[k] for k in floats]
        # Whole numbers are the same or not; they count where there is nothing else.
        relative = relative or [float(np.mean(got != own)) for got, own in zip(outputs, wanted, strict=True)]
        errors[site.name] = sum(relative) / len(relative)
        on_site(1)
    return errors


def _telling_power(output: Array) -> float:
    """The sum of squares, or, where that is mostly of the mean over the images, that about the mean.

    A single image, or such that differ by rounding alone, have no other than the first.
    """
    finite = np.where(np.isfinite(output), output, 0).astype(np.float64)
    images = len(finite) if finite.ndim else 1
    power = float(np.square(finite).sum())
    varied = float(np.square(finite - finite.mean(axis=0)).sum()) * images / (images - 1) if images > 1 else 0.0
    return varied if _ROUNDING * power < varied < power / 2 else power

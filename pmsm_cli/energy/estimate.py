"""Spikes without running anything: what calibration saw of each site."""

import numpy as np

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.errors import UsageError
from pmsm_cli.graph.rows import row_sum_name
from pmsm_cli.runtime.count import SiteCount, SpikeCount
from pmsm_cli.runtime.workload import measure_work


def estimate_spikes(checkpoint: Checkpoint) -> SpikeCount:
    """The spikes of the only timestep, from the calibration's statistics; every neuron with its site's mean fan-out.

    Raises:
        UsageError: there are more timesteps, of which calibration knows nothing, or a size is not known.
    """
    manifest = checkpoint.manifest
    if manifest.timesteps > 1:
        raise UsageError(
            "the spikes of later timesteps have to be measured", subject=checkpoint.subject, hint="pass --data IMAGES"
        )
    names, counts = {node.name for node in checkpoint.model.graph}, []
    for site, calibrated in zip(manifest.plan.sites, manifest.calibration.sites, strict=True):
        if site.neurons is None:
            raise UsageError(f"the size of {site.name} is not known without running", hint="pass --data IMAGES")
        quality = calibrated.quality
        row_sums = sum(row_sum_name(reader.node, reader.operand) in names for reader in site.readers)
        counts.append(
            SiteCount(
                name=site.name,
                neurons=site.neurons,
                spikes=np.array([quality.mean_spikes * site.neurons]),
                firing=np.array([quality.firing / 100 * site.neurons]),
                synaptic_ops=np.array([quality.mean_spikes * (site.macs + row_sums * site.neurons)]),
                events=np.array([quality.firing / 100 * (site.macs + row_sums * site.neurons)]),
                channels=site.channels,
                silent_channels=quality.silent_channels,
            )
        )
    return SpikeCount(images=0, sites=tuple(counts), skipped=(), work=measure_work(checkpoint))

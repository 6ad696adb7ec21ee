"""pmsm: pretrained image networks as spiking networks that work at the first timestep."""

__version__ = "0.1.0"

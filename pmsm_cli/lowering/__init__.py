"""Integers for spikes and weights: how int8 weights are stored, and the graph that onnxruntime's integer kernels run."""

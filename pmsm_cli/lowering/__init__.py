"""Integers for spikes and weights: how int8 weights are stored, and the graph for onnxruntime's integer kernels."""

"""The polarity multi-spike neuron: its specification in numpy, and the same neuron as ONNX functions."""

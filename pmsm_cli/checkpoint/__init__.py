"""The checkpoint: a spiking network and everything that is known of it, in one ONNX file."""

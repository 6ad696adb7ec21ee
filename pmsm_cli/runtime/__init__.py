"""Running spiking networks in onnxruntime."""

"""ONNX graphs as data: cleaned, read for their sites, and given neurons."""

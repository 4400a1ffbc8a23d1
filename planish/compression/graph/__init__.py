"""What belongs together in a network or an ONNX file."""

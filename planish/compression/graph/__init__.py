"""Dependencies between channels, blocks and nodes of a network or an ONNX graph."""

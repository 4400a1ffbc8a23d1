"""ONNX files: written, cleaned, rounded, and those made elsewhere."""

"""ONNX files: export, clean-up, quantization nodes, temperature scaling, and files from other exporters."""

"""Exporters and the runtimes that run what they write."""

from planish.export.onnx_file import ToOnnx
from planish.export.openvino_ir import ToOpenVino

__all__ = ["ToOnnx", "ToOpenVino"]

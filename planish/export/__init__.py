"""Exporters and the runtimes that run what they write."""

from planish.export.onnx_file import ToOnnx
from planish.export.openvino_ir import ToOpenVino
from planish.export.pack import Pack
from planish.export.temperature import Temperature

__all__ = ["Pack", "Temperature", "ToOnnx", "ToOpenVino"]

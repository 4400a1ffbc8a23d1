"""Exporters, and the runtimes for the files that they write."""

from planish.export.executorch_file import ToExecuTorch
from planish.export.litert_file import ToLiteRt
from planish.export.onnx.onnx_file import ToOnnx
from planish.export.onnx.temperature import Temperature
from planish.export.openvino_ir import ToOpenVino
from planish.export.pack import Pack
from planish.export.stablehlo_file import ToStableHlo
from planish.export.tensorrt_engine import ToTensorRt
from planish.export.torch_export import ToTorchExport

__all__ = ["Pack", "Temperature", "ToExecuTorch", "ToLiteRt", "ToOnnx", "ToOpenVino", "ToStableHlo", "ToTensorRt", "ToTorchExport"]

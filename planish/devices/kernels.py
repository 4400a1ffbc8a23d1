"""Which kernels ONNX Runtime really runs: read from the graph as it optimises it, not from the file's wishes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planish.devices.machine import saturates
from planish.errors import TechniqueError

_INTEGER = {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"}
_FLOAT = {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
LAYERS = _INTEGER | _FLOAT


def exact_integers() -> dict[str, str]:
    """Settings of an ONNX Runtime session without which its integer kernels overflow on this machine; it takes others where it has to."""
    return {"session.x64quantprecision": "1"} if saturates() else {}


def silent_options() -> Any:
    """ONNX Runtime's ``SessionOptions`` for looking into a graph: exact integers, no messages."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for name, value in exact_integers().items():
        options.add_session_config_entry(name, value)
    return options


def require_integers(layers: Mapping[str, int], runtime: str) -> None:
    """Refuse a quantized file in which no convolution and no linear layer runs in integers. Every technique that makes an INT8 file calls
    this with what it counted in that file.

    Args:
        layers: how many run as ``int8`` and as ``float``.
        runtime: that was asked.

    Raises:
        TechniqueError: none runs as ``int8``.
    """
    if not layers.get("int8"):
        raise TechniqueError(
            f"none of {sum(layers.values())} convolution and linear layers would run integer kernels in {runtime}",
            "a file in which nothing runs in integers is not INT8",
            "leave quantization out, or use another runtime",
        )


def onnxruntime_kernels(file: Path | str | bytes) -> dict[str, list[str]]:
    """Convolution and linear layers by the arithmetic they run in.

    Args:
        file: an ONNX file, or its bytes.

    Returns:
        ``{"int8": [node names], "float": [node names]}``.
    """
    import onnx
    import onnxruntime

    options = silent_options()  # it warns that an optimised file fits this machine only, which is what we want to see
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(optimised)
        onnxruntime.InferenceSession(file if isinstance(file, bytes) else str(file), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(str(optimised), load_external_data=False).graph.node
    return {
        "int8": [node.name for node in nodes if node.op_type in _INTEGER],
        "float": [node.name for node in nodes if node.op_type in _FLOAT],
    }

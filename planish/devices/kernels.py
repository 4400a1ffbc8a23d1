"""The kernels that ONNX Runtime actually runs, read from its optimized graph instead of the file."""

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


def exact_integers(overflows: bool) -> dict[str, str]:
    """ONNX Runtime's session settings that prevent overflows of integer kernels, by using other kernels.

    Args:
        overflows: whether they overflow there, see ``planish.devices.machine.saturates``.
    """
    return {"session.x64quantprecision": "1"} if overflows else {}


def silent_options() -> Any:
    """ONNX Runtime's ``SessionOptions`` for inspecting a graph: exact integer arithmetic, no messages."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for name, value in exact_integers(saturates()).items():
        options.add_session_config_entry(name, value)
    return options


def open_session(file: Path | str | bytes, options: Any) -> Any:
    """Create ONNX Runtime's session for the CPU. Where it has no exact kernel for an operator, as for ``QGemm`` of signed activations,
    whose own kernel is exact, the file is opened without the settings of ``exact_integers``.

    Args:
        file: an ONNX file, or its bytes.
        options: its ``SessionOptions``; changed if the file has to be opened again.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Missing

    model = file if isinstance(file, bytes) else str(file)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Missing:
        exact = exact_integers(saturates())
        if not exact:
            raise
        for name in exact:
            options.add_session_config_entry(name, "0")
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def require_integers(layers: Mapping[str, int], runtime: str) -> None:
    """Refuse a quantized file in which no convolution or linear layer runs in integer arithmetic. Every technique that makes an INT8 file
    calls this with the layer counts of the file.

    Args:
        layers: number of layers that run as ``int8`` and as ``float``.
        runtime: name of the runtime, for the error message.

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
    """The convolution and linear layers of a file by the precision in which they run.

    Args:
        file: an ONNX file, or its bytes.

    Returns:
        ``{"int8": [node names], "float": [node names]}``.
    """
    import onnx

    options = silent_options()  # without its warning that an optimized file is for this machine only, as intended
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(optimised)
        open_session(file, options)
        nodes = onnx.load(str(optimised), load_external_data=False).graph.node
    return {
        "int8": [node.name for node in nodes if node.op_type in _INTEGER],
        "float": [node.name for node in nodes if node.op_type in _FLOAT],
    }

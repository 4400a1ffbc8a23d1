"""What the steps of quantization ask of an ONNX file: who reads an activation, and which values it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planish.evaluation.kernels import silent_options


def readers(graph: Any) -> dict[str, list[Any]]:
    """The nodes that read each tensor, by its name; what nobody reads is missing."""
    found: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def session_for(model: Any, outputs: Sequence[str]) -> Any:
    """An ONNX Runtime session that returns these float activations. Nodes that they do not need are not run."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs)
    return onnxruntime.InferenceSession(watched.SerializeToString(), silent_options(), providers=["CPUExecutionProvider"])

"""What techniques ask of an ONNX file and do to it: who reads an activation, which values it takes, folding, what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from planish.artifact import Lineage
from planish.devices.kernels import silent_options


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


def fold(file: Path, folded: Path) -> None:
    """Compute what is constant, take batch norm into convolutions, drop what does nothing, and infer shapes; ``folded`` is written."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(file), str(folded), skip_symbolic_shape=True)


def separate_constants(graph: Any) -> int:
    """Give layers that share a weight or a bias one each; changed in place. ONNX Runtime cannot open a quantized file that shares them
    (microsoft/onnxruntime#24705).

    Returns:
        How many constants were copied.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    seen: set[str] = set()
    copies = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            if i == 0 or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or name not in constants:
                continue
            if name in seen:
                copy = type(constants[name])()
                copy.CopyFrom(constants[name])
                copy.name = node.input[i] = f"{name}_of_{node.name}"
                copies.append(copy)
            seen.add(name)
    graph.initializer.extend(copies)
    return len(copies)


def set_metadata(model: Any, given: Any, lineage: Lineage) -> None:
    """Let ``model`` say what ``given`` says (ONNX models, may be the same), with the lineage as it is now."""
    from onnx import helper

    properties = {p.key: p.value for p in given.metadata_props}
    helper.set_model_props(model, properties | {"planish.lineage": TypeAdapter(Lineage).dump_json(lineage).decode()})

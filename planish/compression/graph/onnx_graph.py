"""Operations on ONNX graphs that several techniques need: activation values, constant folding, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from planish.artifact import Lineage
from planish.devices.kernels import open_session, silent_options
from planish.files.onnx_nodes import name_nodes


def session_for(model: Any, outputs: Sequence[str]) -> Any:
    """Create an ONNX Runtime session that returns these float activations; nodes they do not depend on are not run."""
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs)
    return open_session(watched.SerializeToString(), silent_options())


def fold(file: Path, folded: Path) -> None:
    """Fold constants and batch norm, remove no-op nodes, infer shapes, and write the result, in which each node has its own name."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(str(file))
    name_nodes(model.graph)
    onnx.save(model, str(folded))
    quant_pre_process(str(folded), str(folded), skip_symbolic_shape=True)


def separate_constants(graph: Any) -> int:
    """Give each layer its own copy of a shared weight or bias, in place. ONNX Runtime cannot load a quantized file that shares them
    (microsoft/onnxruntime#24705).

    Returns:
        The number of constants that were copied.
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
    """Copy the metadata of ``given`` to ``model`` (ONNX models, possibly the same one) and set the lineage."""
    from onnx import helper

    properties = {p.key: p.value for p in given.metadata_props}
    helper.set_model_props(model, properties | {"planish.lineage": TypeAdapter(Lineage).dump_json(lineage).decode()})

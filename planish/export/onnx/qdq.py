"""Q/DQ nodes in the ONNX file of a network trained with quantization: the same scales and zero points, and integer weights."""

from __future__ import annotations

from typing import Any

import numpy as np

_LARGEST = 2**31 - 1
# operators that move values without changing them
_MOVES = ("Reshape", "Flatten", "Transpose", "MaxPool", "Squeeze", "Unsqueeze", "Split", "Slice", "Gather")


def translations() -> dict[Any, Any]:
    """The exporter's translation table for Planish's two quantization operations."""
    import torch
    from onnx import TensorProto
    from onnxscript import opset18 as op

    import planish.models.quantized  # noqa: F401, registers the operations

    def fake_quantize(x: Any, scale: Any, zero_point: Any, low: int, high: int) -> Any:
        if (low, high) != (0, 255):
            raise ValueError("only activations are quantized while the file runs; weights are stored as integers")
        zero = op.Cast(zero_point, to=TensorProto.UINT8)
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero), scale, zero)

    def dequantize(q: Any, scale: Any) -> Any:
        return op.DequantizeLinear(q, scale, axis=0)

    ours = torch.ops.planish
    return {ours.fake_quantize.default: fake_quantize, ours.dequantize.default: dequantize}


def finish(graph: Any) -> None:
    """Rewrite the exported graph so that runtimes fuse it into integer kernels; changes ``graph`` in place.

    Transposed weights are stored transposed. Operators that only move quantized values are followed by another Q/DQ pair, with the scale
    and zero point of the pair before. Biases become 32-bit integers with a scale of input scale times weight scale, as integer kernels
    add them.

    Raises:
        ValueError: a bias does not fit into 32 bits.
    """
    from onnx import helper, numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by: dict[str, Any] = {}
    nodes: list[Any] = []

    def add(node: Any) -> None:
        nodes.append(node)
        made_by.update(dict.fromkeys(node.output, node))

    def store(name: str, values: Any) -> str:
        if name not in tensors:
            tensors[name] = values
            graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    for node in graph.node:  # in topological order
        if node.op_type == "DequantizeLinear" and len(node.input) == 2:  # without a zero point, ONNX Runtime has no integer kernel for Gemm
            # one tensor per layer: where ONNX Runtime makes weights unsigned, it replaces the zero points as well
            node.input.append(store(f"{node.input[0]}_zero_points", np.zeros(len(tensors[node.input[1]]), np.int8)))
        read: Any = made_by.get(node.input[0]) if node.input else None
        quantized = read is not None and read.op_type == "DequantizeLinear"
        if quantized and node.op_type == "Transpose" and read.input[0] in tensors:
            axes = next(list(a.ints) for a in node.attribute if a.name == "perm")
            name = store(f"{read.input[0]}_transposed", np.ascontiguousarray(tensors[read.input[0]].transpose(axes)))
            add(helper.make_node("DequantizeLinear", [name, *read.input[1:]], node.output, node.name, axis=axes.index(0)))
        elif quantized and node.op_type in _MOVES and read.input[0] not in tensors and node.output[0] not in (o.name for o in graph.output):
            outputs = list(node.output)
            node.output[:] = [f"{name}_moved" for name in outputs]
            add(node)
            for moved, output in zip(node.output, outputs, strict=True):
                add(helper.make_node("QuantizeLinear", [moved, *read.input[1:]], [f"{output}_quantized"], f"{output}_q"))
                add(helper.make_node("DequantizeLinear", [f"{output}_quantized", *read.input[1:]], [output], f"{output}_dq"))
        elif quantized and node.op_type in ("Conv", "Gemm") and len(node.input) == 3 and node.input[2] in tensors:
            weight = made_by.get(node.input[1])
            if weight is not None and weight.op_type == "DequantizeLinear" and weight.input[0] in tensors:
                scale = tensors[read.input[1]] * tensors[weight.input[1]]
                values = np.rint(tensors[node.input[2]].astype(np.float64) / scale)
                if np.abs(values).max() > _LARGEST:
                    raise ValueError(f"a bias of {node.name} takes {np.abs(values).max():.3g} steps, and 32 bits hold {_LARGEST}")
                name = store(f"{node.output[0]}_bias", values.astype(np.int32))
                numbers = [name, store(f"{name}_scale", scale), store(f"{name}_zero_points", np.zeros(len(scale), np.int32))]
                add(helper.make_node("DequantizeLinear", numbers, [f"{name}_float"], f"{name}_dq", axis=0))
                node.input[2] = f"{name}_float"
            add(node)
        else:
            add(node)
    used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    graph.ClearField("node")
    graph.node.extend(node for node in nodes if used.intersection(node.output))

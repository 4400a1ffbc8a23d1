"""Conversion to the INT8 that TensorRT supports: symmetric, with zero points of 0 and float biases."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.errors import ExportError
from planish.files.onnx_nodes import tensors_read


def symmetric(data: bytes) -> bytes:
    """Make the Q/DQ pairs of an ONNX file symmetric INT8; a file without any is returned unchanged.

    A uint8 tensor with scale ``s`` and zero point ``z`` has values from ``-z s`` to ``(255 - z) s``. In int8 with a zero point of 0, the
    same range needs the scale ``s max(z, 255 - z) / 127``, which leaves 7 of the 8 bits after a ReLU. Values are clipped to the same range
    as in uint8, since quantizers omit activation functions that this clipping replaces (``z = 0`` for ReLU). Integer biases become float.

    Args:
        data: content of the file.

    Raises:
        ExportError: weights are unsigned or not symmetric.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(data)
    graph = model.graph
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if not pairs:
        return data
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    added: dict[str, Any] = {}
    for node in pairs:
        scale = constants[node.input[1]]
        zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros((), np.uint8)
        values = constants.get(node.input[0])
        if values is not None and values.dtype == np.int32:
            added[node.output[0]] = (values * scale).astype(np.float32)  # a bias has one axis, and so has its scale
            graph.node.remove(node)
        elif values is not None and (values.dtype != np.int8 or zero.any()):
            raise ExportError(
                f"the weights {node.input[0]} are {values.dtype} with zero points {zero.ravel()[:3]}",
                "TensorRT takes symmetric int8", "quantize with int8, or export in fp32",
            )  # fmt: skip
        elif values is None and zero.dtype == np.uint8:
            step, middle = float(scale.item()), int(zero.item())  # activations have one scale per tensor
            least, most = -step * middle, step * (255 - middle)
            name = f"{node.output[0]}/symmetric"
            added[f"{name}/scale"], added[f"{name}/zero"] = np.float32(max(-least, most) / 127), np.int8(0)
            if node.op_type == "QuantizeLinear" and not 127 <= middle <= 128:
                added[f"{name}/least"], added[f"{name}/most"] = np.float32(least), np.float32(most)
                limits = [f"{name}/least", f"{name}/most"]
                clip = helper.make_node("Clip", [node.input[0], *limits], [f"{name}/clipped"], f"{name}/clip")
                graph.node.insert(list(graph.node).index(node), clip)
                node.input[0] = clip.output[0]
            del node.input[1:]
            node.input.extend([f"{name}/scale", f"{name}/zero"])
    used = tensors_read(graph.node)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend([*kept, *(numpy_helper.from_array(np.asarray(values), name) for name, values in added.items())])
    return bytes(model.SerializeToString())

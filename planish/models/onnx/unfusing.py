"""Layers that ONNX Runtime has fused, as ONNX's own operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "Relu": (), "Sigmoid": (), "Tanh": (), "HardSwish": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}  # fmt: skip


def unfuse(model: Any) -> Any:
    """Rewrite ONNX Runtime's ``FusedConv`` and ``FusedGemm`` as convolution or product, sum, and activation.

    Layers with other activations are left as they are.

    Args:
        model: ``onnx.ModelProto``; not changed.

    Returns:
        The rewritten model; the model itself if it has no such layer.
    """
    if not any(map(_is_known, model.graph.node)):
        return model
    made = type(model)()
    made.CopyFrom(model)
    graph = made.graph
    nodes = [part for node in graph.node for part in (_parts(node, graph) if _is_known(node) else [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def _is_known(node: Any) -> bool:
    return node.op_type in _FUSED and node.domain == "com.microsoft" and _activation(node)[0] in ("", *_PARAMETERS)


def _activation(node: Any) -> tuple[str, list[float]]:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    name = attributes["activation"].s.decode("utf-8", "replace") if "activation" in attributes else ""
    if node.op_type == "FusedGemm":
        return name, [attributes[key].f for key in ("activation_alpha", "activation_beta") if key in attributes]
    return name, list(attributes["activation_params"].floats) if "activation_params" in attributes else []


def _parts(node: Any, graph: Any) -> list[Any]:
    from onnx import helper

    name, numbers = _activation(node)
    summed = node.input[3] if node.op_type == "FusedConv" and len(node.input) > 3 else ""
    steps = ["sum"] * bool(summed) + ["activation"] * bool(name)
    tensors = [f"{node.output[0]}_before_{step}" for step in steps] + [node.output[0]]
    layer = helper.make_node(_FUSED[node.op_type], [*node.input][:3], tensors[:1], node.name)
    layer.attribute.extend(attribute for attribute in node.attribute if not attribute.name.startswith("activation"))
    parts = [layer]
    if summed:
        parts.append(helper.make_node("Add", [tensors[0], summed], tensors[1:2], f"{node.name}_sum"))
    if name:
        parts.append(_made(name, numbers, tensors[-2:], f"{node.name}_activation", graph))
    return parts


def _made(op_type: str, numbers: Sequence[float], tensors: Sequence[str], name: str, graph: Any) -> Any:
    from onnx import helper, numpy_helper

    given = dict(zip(_PARAMETERS[op_type], numbers, strict=False))
    if op_type != "Clip":
        return helper.make_node(op_type, tensors[:1], tensors[1:], name, **given)
    limits = [f"{tensors[1]}_{limit}" for limit in given]
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), n) for n, value in zip(limits, given.values(), strict=True)
    )
    return helper.make_node(op_type, [tensors[0], *limits], tensors[1:], name)

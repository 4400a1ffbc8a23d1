"""The graph of an ONNX file before optimization, to map executed nodes to layers of the file and to inspect their weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from planish.errors import ExportError, first_line
from planish.files.onnx_nodes import inline_functions

LAYERS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3}
"""Operations with weights, and which input holds them."""
_ZERO_POINTS = {"QLinearConv": 5, "QLinearMatMul": 5, "ConvInteger": 3, "MatMulInteger": 3}  # which input holds those of the weights

_RENAMED = re.compile(r"(_token_\d+|_nchwc)$")  # suffixes that ONNX Runtime appends to a name when it replaces a node
_STEPS_UP = 4


@dataclass(frozen=True)
class Weights:
    """Shape (as in the file), type and share of zeros of a layer's weights."""

    shape: tuple[int, ...]
    type: str
    zeros: float


class SourceGraph:
    """The graph of an ONNX file; unnamed nodes are given names, so that a profile can tell them apart.

    Args:
        path: of the file.

    Raises:
        ExportError: the file is not an ONNX file.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        try:
            self.model = inline_functions(onnx.load(str(path)))
        except Exception as error:  # protobuf raises its own kind
            raise ExportError(f"{path} cannot be read: {first_line(error)}", "explain reads .onnx and .xml files") from error
        self.graph = self.model.graph
        taken = {node.name for node in self.graph.node}
        for i, node in enumerate(self.graph.node):
            if not node.name:
                node.name = f"{node.op_type}_{i}" if f"{node.op_type}_{i}" not in taken else f"{node.op_type}_{i}_unnamed"
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.constants |= {n.output[0]: a.t for n in self.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
        self.nodes = {node.name: node for node in self.graph.node}
        self.made_by = {name: node for node in self.graph.node for name in node.output if name}

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def origin(self, name: str, outputs: list[str]) -> Any | None:
        """Return the layer of the file that an executed node computes, or None.

        Args:
            name: of the executed node.
            outputs: names of its output tensors; those of a convolution with a fused activation are named after the activation.
        """
        base = _RENAMED.sub("", name)
        if base in self.nodes and self.nodes[base].op_type in LAYERS:
            return self.nodes[base]
        waiting = [(tensor, 0) for given in (*outputs, base) for tensor in (_RENAMED.sub("", given),)]
        while waiting:
            tensor, steps = waiting.pop(0)
            node = self.made_by.get(tensor)
            if node is None or steps > _STEPS_UP:
                continue
            if node.op_type in LAYERS:
                return node
            waiting += [(above, steps + 1) for above in node.input]
        return None

    def weights(self, layer: Any) -> Weights | None:
        """Describe the weights of a layer of this graph as stored: integers if the file dequantizes them. None if they are computed."""
        values = self.stored_weights(layer)
        if values is None or values.ndim < 2:
            return None
        above = self.made_by.get(layer.input[LAYERS[layer.op_type]])
        place, axis = _ZERO_POINTS.get(layer.op_type, len(layer.input)), -1 if "MatMul" in layer.op_type else 0
        name = layer.input[place] if place < len(layer.input) else ""
        if above is not None and above.op_type == "DequantizeLinear":
            axis = next((attribute.i for attribute in above.attribute if attribute.name == "axis"), 1)
            name = above.input[2] if len(above.input) > 2 else ""
        zero = self.array(name)
        if zero is None or zero.ndim > 1:  # none, or one per block
            zero = np.zeros((), values.dtype)
        elif zero.size == values.shape[axis]:
            zero = zero.reshape([-1 if k == axis % values.ndim else 1 for k in range(values.ndim)])
        return Weights(values.shape, str(values.dtype), float((values == zero).mean()))

    def stored_weights(self, layer: Any) -> np.ndarray[Any, Any] | None:
        """Return the weights of a layer as stored, before dequantization; None if they are computed."""
        name = layer.input[LAYERS[layer.op_type]]
        above = self.made_by.get(name)
        return self.array(above.input[0] if above is not None and above.op_type == "DequantizeLinear" else name)

    def computed_shape(self, layer: Any) -> tuple[int, ...]:
        """Return the shape of a layer's weights that nodes of this graph compute; empty if it is not known."""
        return self._computed_shapes.get(layer.input[LAYERS[layer.op_type]], ())

    @cached_property
    def _computed_shapes(self) -> dict[str, tuple[int, ...]]:
        import onnx

        try:
            values = onnx.shape_inference.infer_shapes(self.model).graph.value_info
        except Exception:  # files above 2 GB, and broken graphs that a runtime accepts
            return {}
        return {
            value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
            for value in values
            if all(side.dim_value for side in value.type.tensor_type.shape.dim)
        }

    def activation_types(self) -> list[str]:
        """Return the type, such as ``int8`` or ``uint8``, of every activation that the file quantizes."""
        return [str(z.dtype) for node in self.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in self.constants
                for z in [self.array(node.input[2]) if len(node.input) > 2 else np.uint8(0)] if z is not None]  # fmt: skip

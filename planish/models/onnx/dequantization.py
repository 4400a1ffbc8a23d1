"""Quantized ONNX files in float32 again: weights are dequantized, and activations are no longer rounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from planish.errors import ModelError
from planish.files.onnx_nodes import bodies, graphs, tensors_read
from planish.files.reading import DAMAGED, describe
from planish.models.onnx.values import Array

_OPERATORS = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QGemm",
    "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
)  # fmt: skip
_POINTWISE = ("QLinearAdd", "QLinearMul", "QLinearMatMul")  # inputs: two operands and the output, each with scale and zero point
_OF_ONE = (
    "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearReduceMean",
)  # fmt: skip
_OURS = ("channels_last", "opset")  # attributes of ONNX Runtime's operators that ONNX's own do not have
_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt")
_KEEPS_SIGN = (
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "Reshape", "Flatten", "Transpose", "Squeeze",
    "Unsqueeze", "Slice", "Split", "Gather", "Identity", "Cast", "Dropout",
)  # fmt: skip
_MOVES = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "GatherND", "Concat", "Pad", "Clip",
    "Resize", "Identity", "Expand", "Tile", "DepthToSpace", "SpaceToDepth",
)  # fmt: skip
_ASKS = ("Shape", "Size", "ArgMax", "ArgMin")  # of integers what they ask of the numbers that these stand for
_LIMITS = {"Pad": (2,), "Clip": (1, 2)}  # which inputs are quantized like the first
_SIX = 1e-3  # relative tolerance of a range that ends at 6


def is_quantized(op_type: str) -> bool:
    """Whether an operator computes with quantized tensors."""
    return op_type in _OPERATORS or op_type.startswith("QLinear")


def dequantize(model: Any) -> Any:
    """Rewrite the quantized layers of an ONNX model, in QDQ or QOperator form or dynamically quantized, as float layers.

    Tensors keep their names: those that held integers hold the numbers that these stand for. Where a quantizer left out a ReLU because the
    range of its output begins at 0 anyway, it is put back. Quantized operators that are not covered are left as they are.

    Args:
        model: ``onnx.ModelProto``; not changed.

    Returns:
        The float model; the model itself if no layer is quantized.

    Raises:
        ModelError: other operators compute with its integers, or its nodes do not fit its tensors.
    """
    if not any(is_quantized(node.op_type) for node in model.graph.node):
        return model
    try:
        return _Dequantization(model).rewritten()
    except DAMAGED as error:
        raise ModelError(f"the quantized layers make no sense: {describe(error)}", "nodes must fit their tensors") from error


class _Dequantization:
    """One model on its way."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self._model = model
        graph = model.graph
        self._constants: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._inputs = {value.name for value in graph.input} - set(self._constants)
        self._outputs = {value.name for value in graph.output}
        self._names = {name for node in graph.node for name in node.output} | set(self._constants) | self._inputs
        self._opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self._nodes: list[Any] = []
        self._made: dict[str, Array] = {}  # new constants
        self._same: dict[str, str] = {}  # tensors that are left out, and those that take their places
        self._scales: dict[str, Array] = {}  # of tensors that held integers; activations have one scale
        self._zeros: dict[str, Array | None] = {}  # their zero points
        self._sums: dict[str, str] = {}  # outputs of integer convolutions and products, which are scaled later; their weights
        self._positive: set[str] = set()  # tensors without negative values

    def rewritten(self) -> Any:
        from onnx import numpy_helper

        for node in self._model.graph.node:
            self._node(node)
        made = type(self._model)()
        made.CopyFrom(self._model)
        graph = made.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        read = tensors_read(graph.node) | self._outputs
        kept = [tensor for tensor in graph.initializer if tensor.name in read and tensor.name not in self._made]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in self._made.items() if name in read)
        inputs = [value for value in graph.input if value.name in read or value.name in self._inputs]
        del graph.input[:]
        graph.input.extend(inputs)
        return made

    def _node(self, node: Any) -> None:
        rules: dict[str, Callable[[Any], bool]] = {
            "Constant": self._constant,
            "QuantizeLinear": self._quantize_linear,
            "DequantizeLinear": self._dequantize_linear,
            "DynamicQuantizeLinear": self._dynamic_quantize_linear,
            "QLinearConv": self._conv,
            "QGemm": self._gemm,
            "QLinearConcat": self._concat,
            "ConvInteger": partial(self._integer, "Conv"),
            "MatMulInteger": partial(self._integer, "MatMul"),
            "Cast": self._cast,
            "Mul": self._mul,
            **dict.fromkeys(_POINTWISE, self._of_two),
            **dict.fromkeys(_OF_ONE, self._of_one),
        }
        if not rules.get(node.op_type, lambda _: False)(node):
            self._as_it_is(node)

    def _as_it_is(self, node: Any) -> None:
        """Keep a node; those that move integers around, such as MaxPool, move the numbers that these stand for."""
        kept = type(node)()
        kept.CopyFrom(node)
        integers = next((name for name in node.input if name in self._scales), None)
        if integers is not None and not is_quantized(node.op_type) and node.op_type not in _ASKS:
            if node.op_type not in _MOVES:
                raise ModelError(
                    f"the operator {node.op_type} (node {node.name}) computes with quantized integers",
                    "it is known what they stand for between QuantizeLinear, DequantizeLinear and QLinear operators only",
                    "give the file before it was quantized",
                )
            scale, zero = self._scales[integers], self._zeros[integers]
            self._scales.update(dict.fromkeys(node.output, scale))
            self._zeros.update(dict.fromkeys(node.output, zero))
            for place in _LIMITS.get(node.op_type, ()):
                if len(node.input) > place and node.input[place]:
                    kept.input[place] = self._weights(node.input[place], scale, zero, -1)
        kept.input[:] = [self._now(name) for name in kept.input]
        for part in (part for body in bodies(kept) for part in graphs(body)):
            for inner in part.node:
                inner.input[:] = [self._now(name) for name in inner.input]
        self._emit(kept)

    def _constant(self, node: Any) -> bool:
        from onnx import numpy_helper

        for attribute in node.attribute:
            if attribute.name == "value":
                self._constants[node.output[0]] = numpy_helper.to_array(attribute.t)
        return False

    def _quantize_linear(self, node: Any) -> bool:
        x, y = node.input[0], node.output[0]
        scale, zero = self._parts(node, 1)
        if scale is None:
            return False
        self._scales[y], self._zeros[y] = scale, zero
        if self._now(x) in self._constants or self._now(x) in self._inputs:
            self._replace(y, x)
        else:
            self._bounded(node, self._now(x), y)
        return True

    def _dequantize_linear(self, node: Any) -> bool:
        options = _options(node)
        made = self._operand(node, 0, options.get("axis", 1), options.get("block_size", 0))
        if made is not None:
            self._replace(node.output[0], made)
        return made is not None

    def _dynamic_quantize_linear(self, node: Any) -> bool:
        y, scale = node.output[:2]
        self._scales[y] = self._constants[scale] = self._made[scale] = np.ones((), np.float32)
        self._zeros[y] = None
        self._replace(y, node.input[0])
        return True

    def _conv(self, node: Any) -> bool:
        w, bias = self._operand(node, 3, 0), ""
        if w is None or node.input[0] not in self._scales:
            return False
        if len(node.input) > 8 and node.input[8]:
            bias = self._weights(node.input[8], self._constants[node.input[1]] * self._constants[node.input[4]], None, 0)
        self._float_layer(node, "Conv", [node.input[0], w, *([bias] if bias else [])], 6)
        return True

    def _gemm(self, node: Any) -> bool:
        options = _options(node)
        b, bias = self._operand(node, 3, 0 if options.get("transB", 0) else 1), ""
        if b is None or node.input[0] not in self._scales:
            return False
        if len(node.input) > 6 and node.input[6]:
            scale = options.get("alpha", 1.0) * self._constants[node.input[1]] * self._constants[node.input[4]]
            bias = self._weights(node.input[6], scale, None, -1)
        self._float_layer(node, "Gemm", [node.input[0], b, *([bias] if bias else [])], 7)
        return True

    def _of_two(self, node: Any) -> bool:
        return self._of_several(node, node.op_type.removeprefix("QLinear"), (0, 3), 6)

    def _of_one(self, node: Any) -> bool:
        return not _options(node).get("channels_last", 0) and self._of_several(node, node.op_type.removeprefix("QLinear"), (0,), 3)

    def _concat(self, node: Any) -> bool:
        return self._of_several(node, "Concat", range(2, len(node.input), 3), 0)

    def _of_several(self, node: Any, op_type: str, places: Sequence[int], output: int) -> bool:
        operands = [self._operand(node, place, -1) for place in places]
        inputs = [name for name in operands if name is not None]
        if len(inputs) == len(operands):
            self._float_layer(node, op_type, inputs, output)
        return len(inputs) == len(operands)

    def _integer(self, op_type: str, node: Any) -> bool:
        """A product of integers, whose scale follows as ``Cast`` and ``Mul``: the weights are divided by the scale of the input."""
        x, w = node.input[:2]
        zero = self._constants.get(node.input[3]) if len(node.input) > 3 else None
        if x not in self._scales or w not in self._constants:
            return False
        axis = 0 if op_type == "Conv" else -1
        y = node.output[0]
        weights = _dequantized(self._constants[w], 1 / self._scales[x].astype(np.float64), zero, axis)
        self._sums[y] = self._new(f"{y}_weight", weights)
        self._emit(_made(op_type, [self._now(x), self._sums[y]], y, node))
        return True

    def _cast(self, node: Any) -> bool:
        if node.input[0] not in self._sums:
            return False
        self._sums[node.output[0]] = self._sums[node.input[0]]
        self._replace(node.output[0], node.input[0])
        return True

    def _mul(self, node: Any) -> bool:
        values = [self._constants.get(self._now(name)) for name in node.input]
        if values[0] is not None and values[1] is not None:
            self._constants[node.output[0]] = self._made[node.output[0]] = values[0] * values[1]
            return True
        for place in (0, 1):
            weights, scale = self._sums.get(node.input[place]), values[1 - place]
            if weights is None or scale is None:
                continue
            known = self._made[weights]
            axis = 0 if known.ndim > 2 else known.ndim - 1  # of the outputs
            if scale.size not in (1, known.shape[axis]):
                return False
            self._made[weights] = _dequantized(known, scale.reshape(-1), None, axis)
            self._replace(node.output[0], node.input[place])
            return True
        return False

    def _float_layer(self, node: Any, op_type: str, inputs: Sequence[str], output: int) -> None:
        """Add the layer in float32; ``output`` is the place of the scale of its output among the inputs of ``node``."""
        y, (scale, zero) = node.output[0], self._parts(node, output)
        inputs = [self._now(name) for name in inputs]
        if scale is None:  # the output is not quantized
            self._emit(_made(op_type, inputs, y, node))
            return
        self._scales[y], self._zeros[y] = scale, zero
        plain = self._free(f"{y}_float")
        self._emit(_made(op_type, inputs, plain, node))
        self._bounded(node, plain, y)

    def _bounded(self, node: Any, x: str, y: str) -> None:
        """Let ``y`` be ``x``, with the ReLU or ReLU6 that the range of the quantized tensor stands for."""
        from onnx import helper

        scale, zero = self._scales[y], self._zeros[y]
        limits = _limits(node, zero)
        begins = limits is not None and np.all((np.zeros(1) if zero is None else zero).astype(np.float64) == limits[0])
        if limits is None or not begins or x in self._positive:
            self._replace(y, x)
        elif np.allclose((limits[1] - limits[0]) * scale.astype(np.float64), 6, rtol=_SIX):
            if self._opset < 11:
                self._emit(helper.make_node("Clip", [x], [y], f"{node.name}_relu6", min=0.0, max=6.0))
            else:
                ends = [self._new(f"{y}_{name}", np.array(end, np.float32)) for name, end in (("min", 0), ("max", 6))]
                self._emit(helper.make_node("Clip", [x, *ends], [y], f"{node.name}_relu6"))
            self._positive.add(y)
        else:
            self._emit(helper.make_node("Relu", [x], [y], f"{node.name}_relu"))

    def _parts(self, node: Any, place: int) -> tuple[Array | None, Array | None]:
        """The scale at a place among the inputs, and the zero point after it; None if they are not given or not constant."""
        scale, zero = [*node.input[place:], "", ""][:2]
        return self._constants.get(scale), self._constants.get(zero)

    def _operand(self, node: Any, place: int, axis: int, block: int = 0) -> str | None:
        """The name of a quantized input in float32; None if it is not known what its integers stand for."""
        name, (scale, zero) = str(node.input[place]), self._parts(node, place + 1)
        if name in self._scales:
            return name
        return self._weights(name, scale, zero, axis, block) if name in self._constants and scale is not None else None

    def _weights(self, name: str, scale: Array, zero: Array | None, axis: int, block: int = 0) -> str:
        """The name of a constant in float32: that which it had before ONNX Runtime quantized it."""
        values, wanted = _dequantized(self._constants[name], scale, zero, axis, block), name.removesuffix("_quantized")
        return wanted if wanted in self._made and np.array_equal(self._made[wanted], values) else self._new(wanted, values)

    def _new(self, name: str, values: Array) -> str:
        chosen = self._free(name)
        self._constants[chosen] = self._made[chosen] = np.asarray(values, np.float32)
        return chosen

    def _free(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def _now(self, name: str) -> str:
        return self._same.get(name, name)

    def _replace(self, name: str, other: str) -> None:
        """Let another tensor take the place of this one."""
        from onnx import helper

        if name in self._outputs:
            self._emit(helper.make_node("Identity", [self._now(other)], [name], f"{name}_as_output"))
        else:
            self._same[name] = self._now(other)

    def _emit(self, node: Any) -> None:
        self._nodes.append(node)
        known = [name in self._positive for name in node.input]
        kept = (node.op_type in _KEEPS_SIGN and known and known[0]) or (node.op_type in ("Add", "Mul", "Concat") and all(known))
        low = self._constants.get(node.input[1]) if node.op_type == "Clip" and len(node.input) > 1 else None
        if node.op_type in _NOT_NEGATIVE or kept or (low is not None and low.size == 1 and low.item() >= 0):
            self._positive.update(node.output)


def _dequantized(values: Array, scale: Array, zero: Array | None, axis: int, block: int = 0) -> Array:
    """``(values - zero) * scale``, with one scale, one for each place of an axis, or one for each block of places."""
    offset = np.zeros(()) if zero is None else zero.astype(np.float64)

    def spread(numbers: Array) -> Array:
        if numbers.size == 1:
            return numbers.reshape(())
        if block:
            return np.take(np.repeat(numbers, block, axis), np.arange(values.shape[axis]), axis)
        return numbers.reshape([-1 if place == axis % values.ndim else 1 for place in range(values.ndim)]) if numbers.ndim == 1 else numbers

    return ((values.astype(np.float64) - spread(offset)) * spread(scale.astype(np.float64))).astype(np.float32)


def _limits(node: Any, zero: Array | None) -> tuple[int, int] | None:
    """The least and the largest integer of the output; None if it does not hold integers."""
    from ml_dtypes import iinfo
    from onnx import helper

    kind = _options(node).get("output_dtype", 0)
    dtype = zero.dtype if zero is not None else helper.tensor_dtype_to_np_dtype(kind) if kind else np.dtype(np.uint8)
    try:
        limits = iinfo(dtype)  # type: ignore[no-untyped-call]
    except ValueError:  # float8
        return None
    return int(limits.min), int(limits.max)


def _made(op_type: str, inputs: Sequence[str], output: str, like: Any) -> Any:
    """A node of ONNX's own operators with the name and the attributes of another one."""
    from onnx import helper

    node = helper.make_node(op_type, list(inputs), [output], like.name)
    node.attribute.extend(attribute for attribute in like.attribute if attribute.name not in _OURS)
    return node


def _options(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}

"""Evaluation of nodes whose inputs are all constants, also of those that compute with the batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy

from planish.models.onnx.values import BATCHES, Array, BatchArray, UnsupportedError, as_sizes, has_symbols, values_at, without_symbols

_FLOATS = (np.float16, np.float64)


def fold(node: Any, inputs: Sequence[Array | BatchArray | None], opsets: Sequence[Any]) -> list[Array] | list[Array | BatchArray]:
    """The outputs of a node.

    Args:
        node: ``onnx.NodeProto``.
        inputs: its inputs; None for those that are not given.
        opsets: ``opset_import`` of the model.

    Raises:
        UnsupportedError: the operator cannot be evaluated.
    """
    arrays = [value for value in inputs if not isinstance(value, BatchArray)]
    if len(arrays) == len(inputs) and not any(map(has_symbols, arrays)):
        return _evaluated(node, arrays, opsets)
    if len(arrays) == len(inputs) and node.op_type in _RULES:
        return _fold_symbols(node, arrays)
    found = [
        _evaluated(node, [None if value is None else values_at(value, place) for value in inputs], opsets) for place in range(len(BATCHES))
    ]
    return [parts[0] if np.array_equal(parts[0], parts[1]) else BatchArray(parts) for parts in zip(*found, strict=True)]


def _evaluated(node: Any, inputs: Sequence[Array | None], opsets: Sequence[Any]) -> list[Array]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    names = [f"input_{index}" if value is not None else "" for index, value in enumerate(inputs)]
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    alone.input[:] = names
    unknown = onnx.TypeProto()
    graph = onnx.helper.make_graph(
        [alone], "constant",
        [onnx.ValueInfoProto(name=name, type=unknown) for name in names if name],
        [onnx.ValueInfoProto(name=name, type=unknown) for name in node.output if name],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    feed = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
    try:
        found = ReferenceEvaluator(model).run(None, feed)
    except Exception as error:  # the evaluator raises many types without a common base class
        raise UnsupportedError(f"the operator {node.op_type} on constants") from error
    by_name = dict(zip([name for name in node.output if name], found, strict=True))
    return [narrowed(np.asarray(by_name[name])) if name else np.empty(0) for name in node.output]


def narrowed(values: Array) -> Array:
    """Half and double precision as float32; other arrays are returned unchanged."""
    return values.astype(np.float32) if values.dtype in _FLOATS or values.dtype.name == "bfloat16" else values


def _fold_symbols(node: Any, inputs: Sequence[Array | None]) -> list[Array]:
    from onnx.helper import get_attribute_value

    options = {a.name: get_attribute_value(a) for a in node.attribute}
    found = _RULES[node.op_type](options, *inputs)
    return [_objects(part) for part in (found if isinstance(found, list) else [found])]


def _objects(values: Any) -> Array:
    """An array of ints and symbols; int64 if there are no symbols, and booleans as they are."""
    array = np.asarray(values)
    if array.dtype != object:
        return array
    if all(isinstance(value, (bool, np.bool_)) for value in array.flat):
        return array.astype(bool)
    return without_symbols(array)


def _axes(options: dict[str, Any], axes: Any) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.atleast_1d(options.get("axes", axes)))


def _slice(options: dict[str, Any], data: Array, *rest: Any) -> Array:
    starts, ends, axes, steps = (options.get(name) for name in ("starts", "ends", "axes", "steps"))
    given = [None if value is None else list(value) for value in rest] + [None] * 4
    starts, ends, axes, steps = (a if a is not None else b for a, b in zip((starts, ends, axes, steps), given, strict=False))
    if starts is None or ends is None:
        raise UnsupportedError("Slice without limits")
    index: list[Any] = [slice(None)] * data.ndim
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        index[int(axes[place]) if axes else place] = slice(int(start), int(end), int(steps[place]) if steps else 1)
    return np.asarray(data[tuple(index)])


def _unsqueeze(options: dict[str, Any], data: Array, axes: Any = None) -> Array:
    return np.expand_dims(data, _axes(options, axes))


def _squeeze(options: dict[str, Any], data: Array, axes: Any = None) -> Array:
    wanted = None if axes is None and "axes" not in options else _axes(options, axes)
    return np.asarray(np.squeeze(data, wanted))


def _divide(_: Any, a: Any, b: Any) -> Any:
    return np.frompyfunc(lambda x, y: sympy.floor(sympy.Rational(1, int(y)) * x) if _is_number(y) else sympy.floor(x / y), 2, 1)(a, b)


def _is_number(value: Any) -> bool:
    return not isinstance(value, sympy.Basic) or not value.free_symbols


def _gather(options: dict[str, Any], data: Array, indices: Any) -> Array:
    return np.asarray(np.take(data, np.asarray(indices).astype(int), axis=int(options.get("axis", 0))))


def _concat(_: Any, *parts: Any) -> Array:
    return as_sizes([size for part in parts for size in np.atleast_1d(part)])


def _reshape(_: Any, data: Array, shape: Any) -> Array:
    return data.reshape([int(size) for size in shape])


_RULES: dict[str, Callable[..., Any]] = {
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Cast": lambda _, a: a,
    "Identity": lambda _, a: a,
    "Floor": lambda _, a: a,
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Div": _divide,
    "Equal": lambda _, a, b: np.frompyfunc(lambda x, y: bool(x == y), 2, 1)(a, b),
    "Where": lambda _, chosen, a, b: np.where(chosen, a, b),
    "ReduceProd": lambda options, a, *_: np.array([np.prod(a)] if options.get("keepdims", 1) else np.prod(a), object),
    "Max": lambda _, *parts: np.frompyfunc(sympy.Max, 2, 1)(*parts),
    "Split": lambda options, a, *_: [np.asarray(part) for part in np.array_split(a, len(a))],
    "Size": lambda _, a: np.array(a.size),
    "Shape": lambda _, a: np.array(a.shape),
}

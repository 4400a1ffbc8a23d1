"""The registry of supported ONNX operators, and one node as their converters read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.models.onnx.builder import Builder
from planish.models.onnx.values import Array, BatchArray, GraphTensor, UnsupportedError, Value

_DOMAINS = ("", "ai.onnx", "com.microsoft")
_REQUIRED = object()


@dataclass(frozen=True)
class NodeCall:
    """One node of the ONNX graph.

    Args:
        builder: the torch.fx graph that is being built.
        op_type: the operator.
        name: name of the layer, if one is made.
        inputs: values of the inputs.
        names: names of the inputs in the ONNX graph.
        attributes: values of the attributes; strings are text.
        outputs: number of outputs.
        opset: version of ONNX's operators.
        batch: static batch size of the file; None if it is dynamic.
        consumers: how many nodes and outputs of the graph read each input.
    """

    builder: Builder
    op_type: str
    name: str
    inputs: tuple[Value, ...]
    names: tuple[str, ...]
    attributes: dict[str, Any]
    outputs: int
    opset: int
    batch: int | None
    consumers: tuple[int, ...]

    def given(self, index: int) -> Value:
        """An input; None if it is not given."""
        return self.inputs[index] if index < len(self.inputs) else None

    def tensor(self, index: int = 0) -> GraphTensor:
        """An input that depends on the images, its axes possibly in another order; a constant is put into the graph."""
        value = self.given(index)
        if value is None:
            raise UnsupportedError(f"{self.op_type} without its input {index}")
        if isinstance(value, BatchArray):
            raise UnsupportedError(f"{self.op_type} of values that depend on the batch size")
        return value if isinstance(value, GraphTensor) else self.builder.constant(value)

    def plain(self, index: int = 0) -> GraphTensor:
        """The same with its axes in order."""
        return self.builder.in_order(self.tensor(index))

    def constant(self, index: int) -> Array:
        """A constant input."""
        value = self.optional(index)
        if value is None:
            raise UnsupportedError(f"{self.op_type} without its input {index}")
        return value

    def optional(self, index: int) -> Array | None:
        """A constant input that may be absent."""
        value = self.given(index)
        if isinstance(value, (GraphTensor, BatchArray)):
            raise UnsupportedError(f"{self.op_type} whose input {index} is computed from the images")
        return value

    def attribute(self, name: str, default: Any = _REQUIRED) -> Any:
        """An attribute."""
        if default is _REQUIRED and name not in self.attributes:
            raise UnsupportedError(f"{self.op_type} without the attribute {name}")
        return self.attributes.get(name, default)

    def option(self, name: str, index: int, default: Any = None) -> Any:
        """An option that is an attribute in older versions of ONNX's operators and an input in newer ones, as a list or a number."""
        if name in self.attributes:
            return self.attributes[name]
        value = self.optional(index)
        return default if value is None else value.tolist()

    def axes(self, index: int, rank: int) -> list[int] | None:
        """The option ``axes``, each at least 0; None if it is not given."""
        axes = self.option("axes", index)
        return None if axes is None else [int(axis) % rank for axis in np.atleast_1d(axes)]


Converter = Callable[[NodeCall], Value | Sequence[Value]]
CONVERTERS: dict[str, Converter] = {}


def operator(*op_types: str) -> Callable[[Converter], Converter]:
    """Register a function as the converter of these operators."""

    def register(convert: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(op_types, convert))
        return convert

    return register


def converter_of(op_type: str, domain: str) -> Converter:
    """The converter of an operator.

    Raises:
        UnsupportedError: there is none.
    """
    if domain not in _DOMAINS or op_type not in CONVERTERS:
        raise UnsupportedError(f"the operator {op_type}" + (f" of {domain}" if domain not in _DOMAINS[:2] else ""))
    return CONVERTERS[op_type]

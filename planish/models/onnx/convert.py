"""Conversion of an ONNX file to a network of torch layers, which can be pruned, trained, quantized and exported again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper
from torch import fx

from planish.errors import ModelError, first_line
from planish.files.onnx_nodes import bodies, inline_functions
from planish.files.onnx_reading import read_onnx
from planish.models.onnx.builder import Builder
from planish.models.onnx.dequantization import dequantize
from planish.models.onnx.folding import fold, narrowed
from planish.models.onnx.operators import FAMILIES
from planish.models.onnx.padding import with_own_padding
from planish.models.onnx.patterns import with_fused_activations
from planish.models.onnx.registry import NodeCall, converter_of
from planish.models.onnx.unfusing import unfuse
from planish.models.onnx.values import GraphTensor, UnsupportedError, Value, has_symbols

assert FAMILIES  # importing them registers their operators
_SHAPE_ONLY = ("ConstantOfShape", "Expand", "Tile")  # give a tensor of the graph for constants that depend on the batch size
_DEFAULT_SIDE = 224


@dataclass(frozen=True)
class Converted:
    """A network made from an ONNX file.

    Args:
        module: takes float images ``(N, C, H, W)`` with any N; returns a tensor, or a dictionary of several. It is in eval mode.
        outputs: names of the outputs in the file.
        layout: axes of the images in the file.
        channels: of the images.
        height: in pixels.
        width: in pixels.
    """

    module: fx.GraphModule
    outputs: tuple[str, ...]
    layout: Literal["NCHW", "NHWC"]
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class _Missing:
    """A value that could not be converted: the nodes that are the cause, each with the reason."""

    causes: tuple[tuple[str, str], ...]


def convert_file(file: Path, *, size: tuple[int, int] | None = None, outputs: Sequence[str] = ()) -> Converted:
    """Read an ONNX file and convert it; see ``convert``.

    Args:
        file: the file.
        size: height and width in pixels, where the file leaves them free.
        outputs: names of the wanted outputs; all by default.

    Raises:
        ModelError: the file cannot be read or converted.
    """
    return convert(read_onnx(file), name=file.name, size=size, outputs=outputs)


def convert(
    model: Any, *, name: str = "the ONNX file", size: tuple[int, int] | None = None, images: str = "", outputs: Sequence[str] = ()
) -> Converted:
    """Convert a CNN to a graph module of torch layers.

    Weights in half or double precision become float32. Layers are named after their weights where those have the names of a PyTorch
    network, else after their nodes. Quantized layers become float layers, see ``dequantization``.

    Args:
        model: ``onnx.ModelProto`` with the weights; not changed.
        name: of the file, for error messages.
        size: height and width in pixels, where the file leaves them free; 224 by default.
        images: name of the tensor that takes the images; by default the only input of the file.
        outputs: names of the wanted outputs; all of the file's by default.

    Raises:
        ModelError: the file does not take images, or an output depends on an operator that is not supported.
    """
    model = dequantize(unfuse(inline_functions(model)))
    conversion = _Conversion(model, name, size, images)
    conversion.run(model.graph, conversion.values)
    wanted = tuple(outputs) or tuple(value.name for value in model.graph.output)
    found: dict[str, GraphTensor] = {}
    missing: dict[str, tuple[tuple[str, str], ...]] = {}
    for output in wanted:
        value = conversion.values.get(output)
        if isinstance(value, GraphTensor):
            found[output] = value
        else:
            causes = value.causes if isinstance(value, _Missing) else ((output, "an output that does not depend on the images"),)
            missing[output] = causes
    if missing:
        raise _not_converted(name, missing, wanted)
    builder = conversion.builder
    module = with_fused_activations(with_own_padding(builder.finished(found))).eval()
    channels, height, width = (int(side) for side in builder.images.sizes[1:])
    return Converted(module, wanted, conversion.layout, channels, height, width)


class _Conversion:
    """One file on its way."""

    def __init__(self, model: Any, name: str, size: tuple[int, int] | None, images: str) -> None:
        self.opsets = list(model.opset_import)
        self.opset = max((o.version for o in self.opsets if o.domain in ("", "ai.onnx")), default=1)
        graph = model.graph
        self.values: dict[str, Value | _Missing] = {"": None}
        for tensor in graph.initializer:
            self.values[tensor.name] = narrowed(numpy_helper.to_array(tensor))
        inputs = {value.name: value for value in (*graph.input, *graph.value_info) if value.name not in self.values}
        given = [value for value in graph.input if value.name in inputs]
        if not images and len(given) != 1:
            raise ModelError(f"{name} takes {len(given)} inputs", "a network takes one tensor of images", "export it so")
        dims = inputs[images].type.tensor_type.shape.dim if images else given[0].type.tensor_type.shape.dim
        if len(dims) != 4:
            raise ModelError(f"{name} takes a tensor with {len(dims)} axes", "images are (N, C, H, W)", "export it so")
        sides = [dim.dim_value if dim.dim_value > 0 else None for dim in dims]
        self.layout: Literal["NCHW", "NHWC"] = "NHWC" if sides[3] in (1, 3) and sides[1] not in (1, 3) else "NCHW"
        axes = (0, 3, 1, 2) if self.layout == "NHWC" else (0, 1, 2, 3)
        self.batch, channels, height, width = (sides[axis] for axis in axes)
        default = size or (_DEFAULT_SIDE, _DEFAULT_SIDE)
        self.builder = Builder(channels or 3, height or default[0], width or default[1])
        taken = self.builder.images.transposed((0, 2, 3, 1)) if self.layout == "NHWC" else self.builder.images
        self.values[images or given[0].name] = taken
        self.consumers = Counter(output.name for output in graph.output)
        self._count(graph)

    def _count(self, graph: Any) -> None:
        for node in graph.node:
            self.consumers.update(node.input)
            for body in bodies(node):
                self.consumers.update(output.name for output in body.output)
                self._count(body)

    def run(self, graph: Any, values: dict[str, Value | _Missing]) -> None:
        """Convert the nodes of a graph."""
        for number, node in enumerate(graph.node):
            if node.output and node.output[0] in values:  # where the images enter in the middle of a graph
                continue
            inputs = [values.get(name, _Missing(((node.name, f"the tensor {name}, which nothing makes"),))) for name in node.input]
            causes = tuple(dict.fromkeys(cause for value in inputs if isinstance(value, _Missing) for cause in value.causes))
            found: Sequence[Value | _Missing]
            if causes:
                found = [_Missing(causes)] * len(node.output)
            else:
                try:
                    found = self._converted(node, [v for v in inputs if not isinstance(v, _Missing)], values, number)
                except UnsupportedError as error:
                    found = [_Missing(((node.name or node.op_type, str(error)),))] * len(node.output)
                except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError) as error:
                    text = f"the operator {node.op_type}: {first_line(error).rstrip('.')}"
                    found = [_Missing(((node.name or node.op_type, text),))] * len(node.output)
            values.update({output: value for output, value in zip(node.output, found, strict=False) if output})

    def _converted(self, node: Any, inputs: list[Value], values: dict[str, Value | _Missing], number: int) -> Sequence[Value | _Missing]:
        if node.op_type == "If" and isinstance(inputs[0], np.ndarray) and not has_symbols(inputs[0]):
            return self._branch(node, bool(inputs[0].item()), values)
        constants = not any(isinstance(value, GraphTensor) for value in inputs)
        if node.op_type == "Constant":
            return [narrowed(_attribute_values(node))]
        if constants and not (node.op_type in _SHAPE_ONLY and any(map(has_symbols, inputs))):
            return list(fold(node, [v for v in inputs if not isinstance(v, GraphTensor)], self.opsets))
        convert_node = converter_of(node.op_type, node.domain)
        call = NodeCall(
            builder=self.builder,
            op_type=node.op_type,
            name=_layer_name(node, number),
            inputs=tuple(inputs),
            names=tuple(node.input),
            attributes={attribute.name: _plain(onnx.helper.get_attribute_value(attribute)) for attribute in node.attribute},
            outputs=len([output for output in node.output if output]),
            opset=self.opset,
            batch=self.batch,
            consumers=tuple(self.consumers[name] for name in node.input),
        )
        made = convert_node(call)
        return list(made) if isinstance(made, (list, tuple)) else [made]  # type: ignore[list-item]

    def _branch(self, node: Any, taken: bool, values: dict[str, Value | _Missing]) -> list[Value | _Missing]:
        """The outputs of an ``If`` whose condition is constant."""
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        body = branches["then_branch" if taken else "else_branch"]
        inner = dict(values)
        for tensor in body.initializer:
            inner[tensor.name] = narrowed(numpy_helper.to_array(tensor))
        self.run(body, inner)
        return [inner[output.name] for output in body.output]


def _attribute_values(node: Any) -> Any:
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    if attribute.name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    if attribute.name in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    raise UnsupportedError(f"Constant with {attribute.name}")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _layer_name(node: Any, number: int) -> str:
    """A name made from that of the node: ``/layer1/layer1.0/conv1/Conv`` gives ``layer1_0_conv1_Conv``."""
    name = node.name.strip("/").rpartition("network.")[2].replace("/", "_").replace(".", "_")
    return name or f"{node.op_type}_{number}".lower()


def _not_converted(name: str, missing: Mapping[str, tuple[tuple[str, str], ...]], outputs: Sequence[str]) -> ModelError:
    """The error that names each cause, its nodes, and the outputs that depend on it."""
    nodes: dict[str, list[str]] = {}
    affected: dict[str, list[str]] = {}
    for output, causes in missing.items():
        for node, reason in causes:
            nodes.setdefault(reason, []).append(node)
            affected.setdefault(reason, []).append(output)
    texts = []
    for reason, where in nodes.items():
        names = list(dict.fromkeys(where))
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        texts.append(f"{reason} (node {', '.join(names[:2])}{more}; output {', '.join(dict.fromkeys(affected[reason]))})")
    left = [output for output in outputs if output not in missing]
    rule = "a network is made from operators that torch has layers or functions for"
    fix = f"these outputs do not depend on it: {', '.join(left)}" if left else "bench, explain and INT8 take the file as it is"
    return ModelError(f"{name} cannot be converted to a network: {'; '.join(texts)}", rule, fix)

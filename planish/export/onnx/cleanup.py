"""ONNX files of any exporter in the form that quantization and the rest work on: the same function, written in the usual way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_IR_VERSION = 8  # in older ones initialisers are inputs as well, which no runtime can fold


def clean_up(model: Any) -> list[str]:
    """Rewrite what exporters write in unusual ways; changed in place.

    Initialisers are no inputs, every node has a name of its own, all is computed in float32, ``Gemm``
    has no ``alpha`` and ``beta`` but 1, and its bias is a vector.

    Args:
        model: ``onnx.ModelProto``.

    Returns:
        What was done that a user may want to know, in words.
    """
    model.ir_version = max(model.ir_version, _IR_VERSION)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    _name_nodes(graph)
    notes = [*_to_float32(model), *_no_dropout(graph)]
    _plain_gemm(graph)
    return notes


def add_prefix(graph: Any, prefix: str) -> None:
    """Put ``prefix`` before the names of all nodes and tensors, those in the bodies of ``If`` and ``Loop`` too; changed in place.

    ``onnx.compose.add_prefix`` (1.21) leaves what such bodies read from around them as it was.
    """
    for part in _graphs(graph):
        for node in part.node:
            node.name = prefix + node.name
            for names in (node.input, node.output):
                names[:] = [prefix + name if name else name for name in names]
        for named in (*part.initializer, *part.input, *part.output):
            named.name = prefix + named.name
        part.ClearField("value_info")


def free_batch(graph: Any, batch: int) -> None:
    """Let reshapes to a fixed batch take the batch that comes; changed in place.

    Args:
        graph: of an ``onnx.ModelProto``.
        batch: that the file was made for.
    """
    from onnx import numpy_helper

    shapes = _constants(graph)
    of_images = {value.name for value in graph.input}
    for node in graph.node:  # in topological order
        if any(name in of_images for name in node.input):
            of_images.update(node.output)
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in shapes or node.input[0] not in of_images:
            continue
        shape = numpy_helper.to_array(shapes[node.input[1]]).copy()
        if len(shape) < 2 or shape[0] <= 0 or shape[0] % batch:
            continue
        if -1 not in shape and 0 not in shape:
            shape[0] = -1  # also where images were cut into windows, so that the first axis is a multiple of the batch
        elif shape[0] == batch:
            shape[0] = 0  # as it comes
        name = f"{node.output[0]}_any_batch"
        graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name
        kept = [a for a in node.attribute if a.name != "allowzero"]
        node.ClearField("attribute")
        node.attribute.extend(kept)


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside its ``If`` and ``Loop`` nodes."""
    from onnx import AttributeProto

    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
            for body in inner:
                yield from _graphs(body)


def _constants(graph: Any) -> dict[str, Any]:
    """Constant tensors by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    return found | {node.output[0]: a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"}


def _name_nodes(graph: Any) -> None:
    """Names are optional in ONNX; quantizers leave layers out by theirs."""
    taken: set[str] = set()
    for part in _graphs(graph):
        for number, node in enumerate(part.node):
            name = node.name or f"{node.op_type}_{number}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


def _to_float32(model: Any) -> list[str]:
    """Half precision, and weights in double precision, become float32: integer kernels are made from float32."""
    from onnx import TensorProto, numpy_helper

    graphs = list(_graphs(model.graph))
    wide = any(t.data_type == TensorProto.DOUBLE and len(t.dims) > 1 for graph in graphs for t in _constants(graph).values())
    others = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"} | ({TensorProto.DOUBLE: "float64"} if wide else {})
    seen: set[str] = set()

    def widen(tensor: Any) -> None:
        if tensor.data_type in others:
            seen.add(others[tensor.data_type])
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    for graph in graphs:
        for tensor in graph.initializer:
            widen(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    widen(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i in others:
                    seen.add(others[attribute.i])
                    attribute.i = TensorProto.FLOAT
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in others:
                seen.add(others[value.type.tensor_type.elem_type])
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    if not seen:
        return []
    for graph in graphs:
        graph.ClearField("value_info")
    return [f"what it computes in {' and '.join(sorted(seen))} is computed in float32"]


def _no_dropout(graph: Any) -> list[str]:
    """Dropout that an exporter left in training mode; ONNX Runtime passes it over, OpenVINO has none."""
    found = [node for part in _graphs(graph) for node in part.node if node.op_type == "Dropout" and len(node.input) > 2]
    for node in found:
        del node.input[1:]
    return ["its dropout, exported in training mode, is left out"] * bool(found)


def _plain_gemm(graph: Any) -> None:
    """``alpha * A @ B + beta * C`` with 1 and 1, and C of one value an output, where B and C are constant."""
    from onnx import numpy_helper

    constants = _constants(graph)
    for node in graph.node:
        if node.op_type != "Gemm" or node.input[1] not in constants:
            continue
        given = {a.name: a for a in node.attribute}
        alpha, beta = (float(given[name].f) if name in given else 1.0 for name in ("alpha", "beta"))
        weight = numpy_helper.to_array(constants[node.input[1]])
        outputs = weight.shape[0 if "transB" in given and given["transB"].i else 1]
        bias = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if len(node.input) > 2 and node.input[2] and bias is None:
            continue  # computed: it stays as it is
        if alpha != 1:
            node.input[1] = _constant(graph, f"{node.name}_weight", (alpha * weight).astype(weight.dtype))
        if bias is not None:
            values = numpy_helper.to_array(bias)
            if values.ndim > 1 and values.size not in (1, outputs):
                continue  # one a row of the batch
            if beta != 1 or values.shape != (outputs,):
                row = np.broadcast_to((beta * values.reshape(-1)).astype(values.dtype), outputs)
                node.input[2] = _constant(graph, f"{node.name}_bias", row)
        kept = [a for a in node.attribute if a.name not in ("alpha", "beta")]
        node.ClearField("attribute")
        node.attribute.extend(kept)


def _constant(graph: Any, name: str, values: Any) -> str:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name

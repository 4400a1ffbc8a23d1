"""Clean-up of ONNX files from any exporter: the same function, in the form that quantization and the other steps require."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.files.onnx_nodes import graphs, name_nodes

_IR_VERSION = 8  # in older versions initialisers are also graph inputs, which no runtime can fold


def clean_up(model: Any) -> list[str]:
    """Replace unusual constructs of exporters; changes ``model`` in place.

    Afterwards initialisers are not inputs, every node has a unique name, everything is computed in float32, there is no dropout in
    training mode, and every ``Gemm`` with constant weights and one bias per output has ``alpha`` and ``beta`` of 1 and a vector as bias.

    Args:
        model: ``onnx.ModelProto``.

    Returns:
        Notes on the changes that may interest a user.
    """
    model.ir_version = max(model.ir_version, _IR_VERSION)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    name_nodes(graph)
    notes = [*_to_float32(model), *_no_dropout(graph)]
    _plain_gemm(graph)
    return notes


def add_prefix(graph: Any, prefix: str) -> None:
    """Add a prefix to the names of all nodes and tensors, including the bodies of ``If`` and ``Loop``; changes ``graph`` in place.

    ``onnx.compose.add_prefix`` (1.21) does not rename the tensors that such bodies read from the outer graph.
    """
    for part in graphs(graph):
        for node in part.node:
            node.name = prefix + node.name
            for names in (node.input, node.output):
                names[:] = [prefix + name if name else name for name in names]
        for named in (*part.initializer, *part.input, *part.output):
            named.name = prefix + named.name
        part.ClearField("value_info")


def free_batch(graph: Any, batch: int) -> None:
    """Make the batch size of reshapes, and of resizes to a size, dynamic; changes ``graph`` in place.

    Args:
        graph: of an ``onnx.ModelProto``.
        batch: static batch size of the file.
    """
    from onnx import numpy_helper

    shapes = _constants(graph)
    of_images = {value.name for value in graph.input}
    for node in graph.node:  # in topological order
        if any(name in of_images for name in node.input):
            of_images.update(node.output)
    _free_resizes(graph, shapes, of_images)
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in shapes or node.input[0] not in of_images:
            continue
        shape = numpy_helper.to_array(shapes[node.input[1]]).copy()
        if len(shape) < 2 or shape[0] <= 0 or shape[0] % batch:
            continue
        if -1 not in shape and 0 not in shape:
            shape[0] = -1  # also for images cut into windows, where the first axis is a multiple of the batch size
        elif shape[0] == batch:
            shape[0] = 0  # the size of the input's first axis
        name = f"{node.output[0]}_any_batch"
        graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name
        kept = [a for a in node.attribute if a.name != "allowzero"]
        node.ClearField("attribute")
        node.attribute.extend(kept)


def _free_resizes(graph: Any, shapes: dict[str, Any], of_images: set[str]) -> None:
    from onnx import helper, numpy_helper

    nodes = []
    for node in graph.node:
        sizes = shapes.get(node.input[3]) if node.op_type == "Resize" and len(node.input) > 3 and node.input[0] in of_images else None
        if sizes is not None and not any(attribute.name == "axes" for attribute in node.attribute):
            name = f"{node.output[0]}_size"
            first, others = np.zeros(1, np.int64), numpy_helper.to_array(sizes)[1:]
            graph.initializer.extend(numpy_helper.from_array(v, f"{name}_{n}") for n, v in (("first", first), ("others", others)))
            nodes.append(helper.make_node("Shape", [node.input[0]], [f"{name}_before"], f"{name}_before"))
            nodes.append(helper.make_node("Gather", [f"{name}_before", f"{name}_first"], [f"{name}_images"], f"{name}_images"))
            nodes.append(helper.make_node("Concat", [f"{name}_images", f"{name}_others"], [name], name, axis=0))
            node.input[3] = name
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _constants(graph: Any) -> dict[str, Any]:
    """The constant tensors by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    return found | {node.output[0]: a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"}


def _to_float32(model: Any) -> list[str]:
    """Convert half precision, and double precision if weights or inputs have it, to float32, which integer kernels are made from."""
    from onnx import TensorProto, numpy_helper

    parts = list(graphs(model.graph))
    wide = any(t.data_type == TensorProto.DOUBLE and len(t.dims) > 1 for graph in parts for t in _constants(graph).values())
    wide |= any(value.type.tensor_type.elem_type == TensorProto.DOUBLE for value in model.graph.input)
    others = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"} | ({TensorProto.DOUBLE: "float64"} if wide else {})
    seen: set[str] = set()

    def widen(tensor: Any) -> None:
        if tensor.data_type in others:
            seen.add(others[tensor.data_type])
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    for graph in parts:
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
    for graph in parts:
        graph.ClearField("value_info")
    return [f"what it computes in {' and '.join(sorted(seen))} is computed in float32"]


def _no_dropout(graph: Any) -> list[str]:
    """Disable dropout that was exported in training mode, which ONNX Runtime ignores and OpenVINO does not support."""
    found = [node for part in graphs(graph) for node in part.node if node.op_type == "Dropout" and len(node.input) > 2]
    for node in found:
        del node.input[1:]
    return ["its dropout, exported in training mode, is left out"] * bool(found)


def _plain_gemm(graph: Any) -> None:
    """Rewrite ``alpha * A @ B + beta * C`` with constant B and C, so that both factors are 1 and C is a vector.

    Left unchanged if C is computed at run time or has one value per row of the batch.
    """
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
            continue
        values = None if bias is None else numpy_helper.to_array(bias)
        if values is not None and values.ndim > 1 and len(values) > 1:
            continue
        if alpha != 1:
            node.input[1] = _constant(graph, f"{node.name}_weight", (alpha * weight).astype(weight.dtype))
        if values is not None and (beta != 1 or values.shape != (outputs,)):
            row = np.broadcast_to((beta * values.reshape(-1)).astype(values.dtype), outputs)
            node.input[2] = _constant(graph, f"{node.name}_bias", row)
        kept = [a for a in node.attribute if a.name not in ("alpha", "beta")]
        node.ClearField("attribute")
        node.attribute.extend(kept)


def _constant(graph: Any, name: str, values: Any) -> str:
    """Add an initialiser and return its name, which is extended if the graph has a tensor of that name."""
    from onnx import numpy_helper

    taken = {tensor.name for tensor in graph.initializer}.union(*(node.output for node in graph.node))
    while name in taken:
        name += "_"
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name

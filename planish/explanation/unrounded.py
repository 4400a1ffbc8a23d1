"""Load a quantized file and an unrounded copy of it, both with their intermediate tensors as additional outputs.

A pair of quantize and dequantize nodes both rounds and clips, and quantizers drop a ReLU before it because clipping replaces it. The
unrounded copy therefore clips too, so that the error caused by clipping is not part of the difference.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planish.explanation.model_file import Array, ModelFile, Run
from planish.explanation.profiles.openvino import in_file
from planish.explanation.profiles.source_graph import SourceGraph
from planish.export.runtimes.openvino import port_name

_STEPS = 5  # most nodes between a FakeQuantize and the Multiply that undoes its scale, or the layer before it


@dataclass(frozen=True)
class QuantizedTensor:
    """An intermediate tensor that the file quantizes.

    Args:
        before: name of the tensor before quantization.
        after: name of the tensor after dequantization.
        layer: name of the layer that computes it; empty if none was found.
        low: smallest representable value.
        high: largest representable value.
        step: difference between adjacent representable values.
    """

    before: str
    after: str
    layer: str
    low: Array
    high: Array
    step: Array

    def apply(self, values: Array) -> Array:
        rounded: Array = self.low + np.round((np.clip(values, self.low, self.high) - self.low) / self.step) * self.step
        return rounded


def expose_onnx(model: ModelFile, folder: Path) -> tuple[Run, Run, list[QuantizedTensor]]:
    """Load the file with its quantized tensors as additional outputs, and a copy in which they are clipped but not rounded.

    Args:
        model: the file.
        folder: for temporary files.

    Returns:
        The file, whose additional outputs are named ``QuantizedTensor.after``; the unrounded copy, whose additional outputs are named
        ``QuantizedTensor.before``; the tensors.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    source = SourceGraph(model.path)
    readers: dict[str, list[Any]] = {}
    for node in source.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    quantizers = [n for n in source.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in source.constants]
    pairs = {dq.output[0]: q.input[0] for q in quantizers for dq in readers.get(q.output[0], []) if dq.op_type == "DequantizeLinear"}
    outputs = [output.name for output in source.graph.output]
    inputs = {node.name for node in source.graph.input}
    found: dict[str, QuantizedTensor] = {}
    for q in quantizers:
        after = next((name for name, before in pairs.items() if before == q.input[0]), "")
        scale, zero = source.array(q.input[1]), source.array(q.input[2]) if len(q.input) > 2 else np.uint8(0)
        if (
            after
            and q.input[0] not in inputs
            and after not in outputs
            and scale is not None
            and zero is not None
            and scale.size == zero.size == 1
        ):
            scale, zero = scale.reshape(()), zero.reshape(())
            origin, kind = source.origin("", [q.input[0]]), np.iinfo(zero.dtype)
            low, high = (np.asarray(scale * (float(end) - zero), dtype=np.float32) for end in (kind.min, kind.max))
            found.setdefault(q.input[0], QuantizedTensor(q.input[0], after, origin.name if origin is not None else "", low, high, scale))
    tensors = list(found.values())

    plain = copy.deepcopy(source.model)
    kept = []
    for node in plain.graph.node:
        tensor = found.get(pairs.get(node.output[0], ""))
        if tensor is not None:
            ends = [f"{node.output[0]} {end}" for end in ("low", "high")]
            values = zip(ends, (tensor.low, tensor.high), strict=True)
            plain.graph.initializer.extend(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in values)
            kept.append(helper.make_node("Clip", [tensor.before, *ends], [node.output[0]]))
        elif node.op_type != "QuantizeLinear" or node.input[0] not in found:
            kept.append(node)
    del plain.graph.node[:]
    plain.graph.node.extend(kept)

    extra = [tensor.after for tensor in tensors]

    def load(name: str, changed: Any) -> Run:
        changed.graph.output.extend(helper.make_tensor_value_info(e, TensorProto.FLOAT, None) for e in extra)
        onnx.save(changed, str(folder / name))
        session = model.onnxruntime_session(model.onnxruntime_options(), folder / name)
        names = [*outputs, *extra]
        return lambda fed: dict(zip(names, session.run(names, dict(fed)), strict=True))

    return load("rounded.onnx", source.model), renamed(load("plain.onnx", plain), tensors), tensors


def expose_openvino(model: ModelFile, folder: Path) -> tuple[Run, Run, list[QuantizedTensor]]:
    """Do the same for OpenVINO, where a Q/DQ pair is a ``FakeQuantize`` node and the nodes that undo its scale."""
    from openvino import opset13

    tensors: list[QuantizedTensor] = []
    loaded = {}
    for which in ("rounded", "plain"):
        tensors = []
        graph = model.openvino_model()
        names = [port_name(node) for node in graph.outputs]
        for i, quantizer in enumerate(op for op in graph.get_ordered_ops() if op.get_type_name() == "FakeQuantize"):
            before, ends = quantizer.input_value(0), _dequantized(quantizer)
            if before.get_node().get_type_name() in ("Constant", "Parameter") or not ends:
                continue
            known = sorted(before.get_names())
            low, high, *_ = _ranges(quantizer)
            step = (high - low) / (quantizer.get_attributes()["levels"] - 1)
            tensors.append(
                QuantizedTensor(known[0] if known else f"{i} before", f"{i} after", _layer_above(before.get_node()), low, high, step)
            )
            shown = ends[0]
            if which == "plain":
                shown = opset13.minimum(opset13.maximum(before, low.astype(np.float32)), high.astype(np.float32)).output(0)
                for end in ends:
                    end.replace(shown)
            names.append(tensors[-1].after)
            graph.add_outputs([shown])
        loaded[which] = _openvino_runner(model, graph, names)
    return loaded["rounded"], renamed(loaded["plain"], tensors), tensors


def renamed(run: Run, tensors: list[QuantizedTensor]) -> Run:
    """Wrap ``run`` so that its tensors have their names before quantization."""
    before = {tensor.after: tensor.before for tensor in tensors}
    return lambda fed: {before.get(name, name): values for name, values in run(fed).items()}


def _dequantized(quantizer: Any) -> list[Any]:
    """Return the outputs that hold dequantized values: the quantizer's own, or those of the Multiply nodes after its integer output."""
    ranges = _ranges(quantizer)
    if np.allclose(ranges[0], ranges[2]) and np.allclose(ranges[1], ranges[3]):
        return [quantizer.output(0)]
    found, waiting = [], [quantizer.output(0)]
    for _ in range(_STEPS):
        readers = [end.get_node() for output in waiting for end in output.get_target_inputs()]
        found += [node.output(0) for node in readers if node.get_type_name() == "Multiply"]
        waiting = [node.output(0) for node in readers if node.get_type_name() in ("Convert", "Subtract")]
    return found


def _ranges(quantizer: Any) -> list[Array]:
    """Return the quantizer's lowest and highest input, then its lowest and highest output."""
    return [np.asarray(quantizer.input_value(i).get_node().get_data()) for i in range(1, 5)]


def _layer_above(node: Any) -> str:
    for _ in range(_STEPS):
        if node.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            return in_file(str(node.get_friendly_name()))
        if node.get_input_size() == 0:
            return ""
        node = node.input_value(0).get_node()
    return ""


def _openvino_runner(model: ModelFile, graph: Any, names: list[str]) -> Run:
    order = [port_name(node) for node in graph.inputs]
    request = model.openvino_compiled(graph).create_infer_request()

    def run(fed: Mapping[str, Array]) -> dict[str, Array]:
        results = request.infer({i: fed[name] for i, name in enumerate(order)})
        return {name: np.array(results[i]) for i, name in enumerate(names)}

    return run

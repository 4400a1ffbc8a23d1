"""Bias correction: the mean quantization error of each output channel is subtracted from its bias, layer by layer.

M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019 (arXiv:1906.04721), empirical version.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planish.compression.graph.onnx_graph import session_for
from planish.compression.graph.stepped_activations import SteppedActivations

if TYPE_CHECKING:
    from planish.artifact import Pixels
    from planish.progress import Stage

_LAYERS = ("Conv", "Gemm")
_LARGEST = 2**31 - 1


def add_biases(graph: Any) -> None:
    """Add a zero bias to every convolution and linear layer without one, so that there is a bias to correct.

    Args:
        graph: the graph of a float ONNX model; changed in place.
    """
    from onnx import numpy_helper

    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        shape = shapes.get(node.input[1]) if node.op_type in _LAYERS else None
        if shape is not None and (len(node.input) == 2 or not node.input[2]):
            by_rows = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
            name = f"{node.input[1]}.zero_bias"
            graph.initializer.append(numpy_helper.from_array(np.zeros(shape[0] if by_rows else shape[1], np.float32), name))
            node.input[:] = [*node.input[:2], name]


def correct_biases(original: Path, quantized: Path, batches: Sequence[Pixels], stage: Stage) -> int:
    """Correct the integer biases of a Q/DQ file, in place.

    Layers are corrected in order, each on the outputs of the corrected layers before it. If all were corrected at once, errors of early
    layers would be subtracted repeatedly. Every node runs once, and activations are held only as long as later nodes need them.

    Args:
        original: the float file from which it was made, with the same node names.
        quantized: the Q/DQ file.
        batches: batches of calibration images; the largest two or three activations of all of them are held in memory.
        stage: the progress stage, advanced after each layer.

    Returns:
        The number of layers that were corrected.
    """
    import onnx
    from onnx import numpy_helper

    before, model = onnx.load(str(original)), onnx.load(str(quantized))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    outputs = {node.name: node.output[0] for node in before.graph.node if node.op_type in _LAYERS}
    layers = [node for node in model.graph.node if node.name in outputs and _has_integer_bias(node, made_by, tensors)]
    if not layers:
        return 0
    stage.total = len(layers)
    expected = _means(before, [outputs[node.name] for node in layers], batches)
    activations = SteppedActivations(model, {model.graph.input[0].name: list(batches)})
    for node in layers:
        found = activations.of(node.output[0])
        count = sum(map(len, found))
        error = sum(_sum_by_channel(values) for values in found) / count - expected[outputs[node.name]]
        bias = made_by[node.input[2]]
        step, given = numpy_helper.to_array(tensors[bias.input[1]]), numpy_helper.to_array(tensors[bias.input[0]])
        corrected = np.clip(given - np.rint(error / step), -_LARGEST, _LARGEST).astype(np.int32)
        tensors[bias.input[0]].CopyFrom(numpy_helper.from_array(corrected, bias.input[0]))
        change = ((corrected.astype(np.float64) - given) * step).astype(np.float32)
        activations.replace(node.output[0], [values + change.reshape(-1, *[1] * (values.ndim - 2)) for values in found])
        stage.advance()
    onnx.save(model, str(quantized))
    return len(layers)


def _has_integer_bias(node: Any, made_by: dict[str, Any], tensors: dict[str, Any]) -> bool:
    bias = made_by.get(node.input[2]) if len(node.input) == 3 else None
    return bias is not None and bias.op_type == "DequantizeLinear" and bias.input[0] in tensors


def _means(model: Any, names: list[str], batches: Sequence[Pixels]) -> dict[str, npt.NDArray[np.float64]]:
    """The mean of these activations per channel."""
    session = session_for(model, names)
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    for images in batches:
        for name, values in zip(names, session.run(names, {model.graph.input[0].name: images}), strict=True):
            sums[name] = sums[name] + _sum_by_channel(values)
    return {name: total / sum(map(len, batches)) for name, total in sums.items()}


def _sum_by_channel(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The sum over images of the mean over positions, ``(C,)``."""
    sums: npt.NDArray[np.float64] = values.mean(axis=tuple(range(2, values.ndim)), dtype=np.float64).sum(0)
    return sums

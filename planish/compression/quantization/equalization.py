"""Cross-layer equalisation: channels between two layers are rescaled, so that a few large weights do not determine the range.

M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019 (arXiv:1906.04721).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from planish.files.onnx_nodes import readers

_SWEEPS = 10
_ENOUGH = 1.01  # sweeps end when all scales are closer to 1 than this

Weights = npt.NDArray[np.float32]


def equalise(graph: Any) -> int:
    """Equalise every pair of convolutions with nothing or a ReLU between them; the network's function stays the same.

    Other activations are excluded: ReLU6 would need a different limit in each channel, and the others do not commute with scaling.

    Args:
        graph: the graph of an ONNX model with batch norm folded; changed in place.

    Returns:
        The number of pairs.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    pairs = _pairs(graph, tensors)
    values: dict[str, Weights] = {
        name: numpy_helper.to_array(tensors[name]).copy() for pair in pairs for node in pair for name in node.input[1:] if name in tensors
    }
    for _ in range(_SWEEPS):
        scales = [_balance(values, first, second) for first, second in pairs]
        if not scales or max(scales) < _ENOUGH:
            break
    for name, array in values.items():
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    return len(pairs)


def _pairs(graph: Any, tensors: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Pairs of a convolution and the only convolution that reads its output; neither shares its weights."""
    reads = readers(graph)
    for output in graph.output:
        reads.setdefault(output.name, []).append(None)

    def own(node: Any) -> bool:
        return node.op_type == "Conv" and all(name in tensors and len(reads[name]) == 1 for name in node.input[1:])

    pairs = []
    for first in graph.node:
        if not own(first):
            continue
        reading = reads.get(first.output[0], [])
        if len(reading) == 1 and reading[0] is not None and reading[0].op_type == "Relu":
            reading = reads.get(reading[0].output[0], [])
        if len(reading) == 1 and reading[0] is not None and own(reading[0]):
            pairs.append((first, reading[0]))
    return pairs


def _balance(values: dict[str, Weights], first: Any, second: Any) -> float:
    """Scale each shared channel to the same largest weight in both layers; returns the largest scale or inverse scale."""
    makes, reads = values[first.input[1]], values[second.input[1]]
    groups = len(makes) // reads.shape[1]
    by_group = reads.reshape(groups, -1, *reads.shape[1:])  # (groups, outputs of each, inputs of each, ...)
    largest_made = np.abs(makes.reshape(len(makes), -1)).max(1)
    largest_read = np.abs(by_group).max(axis=(1, *range(3, by_group.ndim))).reshape(-1)
    alive = (largest_made > 0) & (largest_read > 0)
    scale = np.ones_like(largest_made)
    scale[alive] = np.sqrt(largest_made[alive] / largest_read[alive])
    makes /= scale.reshape(-1, *[1] * (makes.ndim - 1))
    if len(first.input) > 2:
        values[first.input[2]] /= scale
    by_group *= scale.reshape(groups, 1, -1, *[1] * (by_group.ndim - 3))
    return float(max(scale.max(), 1 / scale.min()))

"""Quantization ranges of weights for networks with weight sharing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]

_STRETCHES = np.linspace(1.0, 1.25, 51)
_MAX_CHANNELS = 64  # maximum number of channels per layer that are evaluated, evenly spread


def shared_weight_ranges(graph: Any, per_channel: bool) -> dict[str, list[dict[str, Any]]]:
    """The weight ranges of all layers, by tensor name, in the format of ONNX Runtime's ``TensorQuantOverrides``.

    Args:
        graph: the graph of an ONNX model with batch norm folded.
        per_channel: whether each output channel has its own range, instead of one range per layer.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in tensors:
            weight = numpy_helper.to_array(tensors[node.input[1]])
            axis = 0 if node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute) else weight.ndim - 1
            channels = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
            largest = np.abs(channels).max(1) if per_channel else np.full(len(channels), np.abs(channels).max())
            ends = np.float32(stretch(channels, largest)) * largest
            where = [{"axis": axis, "rmin": -end, "rmax": end} for end in ends] if per_channel else [{"rmin": -ends[0], "rmax": ends[0]}]
            found[node.input[1]] = where
    return found


def stretch(channels: Weights, largest: Weights) -> float:
    """The factor on the range of a layer's weights, at least 1, with the least error of the layer's outputs.

    The thousands of weights that share a value all have the same rounding error. If the errors of the few values do not cancel, the error
    of each channel is a multiple of the sum of its inputs, which is large after a ReLU, where all inputs are non-negative: in a VGG-16, 16
    values per layer cost 9 dB. A different step size changes these rounding errors. All channels use the same factor, so that a layer of
    few values still has few integers.

    Args:
        channels: the weights of each output channel ``(output channels, weights)``.
        largest: the end of the range of each output channel before the factor is applied ``(output channels,)``.
    """
    chosen = np.unique(np.linspace(0, len(channels) - 1, _MAX_CHANNELS).astype(int))
    chosen = chosen[largest[chosen] > 0]
    steps = 127 * channels[chosen] / largest[chosen, None]

    def error(factor: float) -> float:  # squared error of the outputs, for inputs whose mean equals their standard deviation
        rounding = np.rint(steps / factor) * factor - steps
        return float((rounding.sum(1) ** 2 + (rounding**2).sum(1)).sum())

    return float(min(_STRETCHES, key=error))

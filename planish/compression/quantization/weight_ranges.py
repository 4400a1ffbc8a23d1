"""Which range the 255 steps of a layer's weights shall cover, where these share a few values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]

_STRETCHES = np.linspace(1.0, 1.25, 51)
_LOOKED_AT = 64  # channels of a layer, spread over it


def shared_weight_ranges(graph: Any, per_channel: bool) -> dict[str, list[dict[str, Any]]]:
    """Ranges of the weights of all layers, by name of the tensor, in the form of ONNX Runtime's ``TensorQuantOverrides``.

    Args:
        graph: of an ONNX model with batch norm folded.
        per_channel: a range for each output channel, or one for the layer.
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
    """How far beyond the largest weight the range of a layer shall reach for its outputs to have the least error, 1 for not at all.

    The thousands of weights that share a value are all rounded by the same amount. Where those few amounts happen not to cancel, each
    channel gets a multiple of the sum of its inputs as error, and behind ReLUs, where all inputs have one sign, that is large: in a VGG-16
    16 values per layer cost 9 dB. Another step size rounds each value differently. All channels take the same, so that a layer of
    few values still has few integers.

    Args:
        channels: ``(output channels, weights)``.
        largest: ``(output channels,)``, the end of each range as it is.
    """
    chosen = np.unique(np.linspace(0, len(channels) - 1, _LOOKED_AT).astype(int))
    chosen = chosen[largest[chosen] > 0]
    steps = 127 * channels[chosen] / largest[chosen, None]

    def error(factor: float) -> float:  # squared, of outputs whose inputs have a mean as large as their standard deviation
        rounding = np.rint(steps / factor) * factor - steps
        return float((rounding.sum(1) ** 2 + (rounding**2).sum(1)).sum())

    return float(min(_STRETCHES, key=error))

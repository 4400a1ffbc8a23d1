"""Check whether 8-bit weights can overflow the 16-bit sums of processors without VNNI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from planish.explanation.profiles.source_graph import LAYERS, SourceGraph

_MOST = 32767 // 255  # largest sum of two weights of the same sign that cannot overflow, for activations up to 255


def overflow_share(path: Path) -> float:
    """Return the share of the output channels of integer layers in which the sum of two products can exceed 16 bits.

    The product of an unsigned activation and a weight is at most ``255 * 127``; without VNNI the processor adds two of them in 16 bits.
    Which two are added depends on the kernel, so the two largest weights of the same sign are checked.
    """
    source = SourceGraph(path)
    channels = overflowing = 0
    for node in source.graph.node:
        values = source.stored_weights(node) if node.op_type in LAYERS else None
        if values is None or values.dtype != np.int8 or values.ndim < 2:
            continue
        by_output = np.moveaxis(values, _output_axis(node), 0)
        flat = np.sort(by_output.reshape(len(by_output), -1).astype(np.int64), axis=1)
        if flat.shape[1] < 2:
            continue
        channels += len(flat)
        overflowing += int(((flat[:, -2:].sum(1) > _MOST) | (flat[:, :2].sum(1) < -_MOST)).sum())
    return overflowing / channels if channels else 0.0


def _output_axis(layer: Any) -> int:
    """Return the axis of the output channels in a layer's weights."""
    if layer.op_type == "Gemm":
        return 0 if any(attribute.name == "transB" and attribute.i for attribute in layer.attribute) else 1
    return 1 if layer.op_type == "ConvTranspose" or "MatMul" in layer.op_type else 0

"""Converters of ONNX operators, one file per family. Importing this package registers them."""

from __future__ import annotations

from planish.models.onnx.operators import (
    activations,
    arithmetic,
    convolution,
    linear,
    normalization,
    pooling,
    reductions,
    resize,
    shapes,
    slicing,
)

FAMILIES = (activations, arithmetic, convolution, linear, normalization, pooling, reductions, resize, shapes, slicing)

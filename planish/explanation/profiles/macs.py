"""MACs of an executed operation, from its input and output shapes; padding and dilation add none."""

from __future__ import annotations

import math

Shape = tuple[int, ...]


def convolution_macs(made: Shape, channels: int, weight: Shape) -> int:
    """Return the MACs of a convolution: each output pixel uses every weight once, grouped or not.

    Args:
        made: shape of the output, in any layout.
        channels: number of channels in ``made``, including those that a kernel adds to pad a block.
        weight: shape of the weight in the file ``(C_out, C_in / groups, ...)``.
    """
    return math.prod(made) // channels * math.prod(weight) if made and channels else 0


def transposed_macs(read: Shape, weight: Shape) -> int:
    """Return the MACs of a transposed convolution: each *input* pixel uses every weight once.

    Args:
        read: shape of the input ``(N, C_in, ...)``.
        weight: shape of the weight ``(C_in, C_out / groups, ...)``.
    """
    return math.prod(read) // read[1] * math.prod(weight) if len(read) > 1 and read[1] else 0


def product_macs(read: Shape, made: Shape) -> int:
    """Return the MACs of a matrix product, batched or not, whose left factor may be transposed.

    Args:
        read: shape of the left factor ``(..., M, K)`` or ``(..., K, M)``; of a linear layer's input ``(..., K)``.
        made: shape of the output ``(..., M, N)``.
    """
    if not read or not made:
        return 0
    is_transposed = len(read) == len(made) > 1 and read[-2] != made[-2] == read[-1]
    return math.prod(made) * (read[-2] if is_transposed else read[-1])


def einsum_macs(equation: str, read: list[Shape]) -> int:
    """Return the MACs of an einsum, one per combination of indices; 0 for a single operand (no products), or if ``...`` hides indices."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(read) < 2 or len(terms) != len(read) or "." in equation:
        return 0
    sizes = {index: size for term, shape in zip(terms, read, strict=True) for index, size in zip(term, shape, strict=False)}
    return math.prod(sizes.values())

"""Multiply-accumulates of an executed operation, from the shapes of what it reads and makes; padded and dilated kernels are no more."""

from __future__ import annotations

import math

Shape = tuple[int, ...]


def convolution_macs(made: Shape, channels: int, weight: Shape) -> int:
    """Each output pixel takes all weights once, in groups or not.

    Args:
        made: the output's shape, in any layout.
        channels: of the output, those that a kernel adds to fill up a block included.
        weight: as the file has it ``(C_out, C_in / groups, ...)``.
    """
    return math.prod(made) // channels * math.prod(weight) if made and channels else 0


def transposed_macs(read: Shape, weight: Shape) -> int:
    """Each *input* pixel takes all weights once; output pixels add up what falls on them.

    Args:
        read: the input's shape ``(N, C_in, ...)``.
        weight: ``(C_in, C_out / groups, ...)``.
    """
    return math.prod(read) // read[1] * math.prod(weight) if len(read) > 1 and read[1] else 0


def product_macs(read: Shape, made: Shape) -> int:
    """A matrix product, of one pair of matrices or many, the left one transposed or not.

    Args:
        read: the left factor's shape ``(..., M, K)`` or ``(..., K, M)``; of a linear layer ``(..., K)``.
        made: the output's shape ``(..., M, N)``.
    """
    if not read or not made:
        return 0
    is_transposed = len(read) == len(made) > 1 and read[-2] != made[-2] == read[-1]
    return math.prod(made) * (read[-2] if is_transposed else read[-1])


def einsum_macs(equation: str, read: list[Shape]) -> int:
    """Every combination of the indices once; 0 for a single factor, which nothing is multiplied with, and where ``...`` hides indices."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(read) < 2 or len(terms) != len(read) or "." in equation:
        return 0
    sizes = {index: size for term, shape in zip(terms, read, strict=True) for index, size in zip(term, shape, strict=False)}
    return math.prod(sizes.values())

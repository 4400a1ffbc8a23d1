"""Factorization of the weight tensor of one layer into those of several smaller layers. A linear layer is treated as a 1x1 convolution.

A weight is ``(out, in, kh, kw)``. ``metric`` ``(out, out)`` is the cost of an error in the layer's outputs: an error ``e`` costs
``eᵀ metric e``. None gives all channels the same importance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Method = Literal["svd", "lu", "spatial", "tucker", "cp"]
Ranks = tuple[int, ...]
Shape = tuple[int, int, int, int]  # out, in, kh, kw

METHODS: tuple[Method, ...] = get_args(Method)
_CP_SWEEPS = 200
_CP_LOOK = 20  # sweeps to estimate the energy that a rank keeps
_HOOI_SWEEPS = 5


def shapes(method: Method, ranks: Ranks, shape: Shape) -> list[Shape]:
    """The shapes of the weights that replace a weight of ``shape``; depthwise ones have a second dimension of 1."""
    out, inputs, kh, kw = shape
    match method:
        case "svd" | "lu":
            return [(ranks[0], inputs, kh, kw), (out, ranks[0], 1, 1)]
        case "spatial":
            return [(ranks[0], inputs, kh, 1), (out, ranks[0], 1, kw)]
        case "tucker":
            return [(ranks[0], inputs, 1, 1), (ranks[1], ranks[0], kh, kw), (out, ranks[1], 1, 1)]
        case "cp":
            r = ranks[0]
            return [(r, inputs, 1, 1), (r, 1, kh, 1), (r, 1, 1, kw), (out, r, 1, 1)]


def full_ranks(method: Method, shape: Shape) -> Ranks:
    """The ranks at which the factorization is exact; larger ranks gain nothing."""
    out, inputs, kh, kw = shape
    match method:
        case "svd" | "lu":
            return (min(out, inputs * kh * kw),)
        case "spatial":
            return (min(inputs * kh, out * kw),)
        case "tucker":
            return (min(inputs, out * kh * kw), min(out, inputs * kh * kw))
        case "cp":
            return (out * inputs * kh * kw // max(shape),)


def kept_energy(
    method: Method, weight: Tensor, choices: Sequence[Ranks], metric: Tensor | None = None, outputs: Tensor | None = None
) -> list[float]:
    """The share of the energy (squared norm) that each of ``choices`` keeps. The other arguments are those of ``factorise``.

    The value for ``lu`` is that of the SVD, an upper bound; that for ``tucker`` is a lower bound, which further sweeps hardly improve; that
    for ``cp`` is estimated in few sweeps.
    """
    root = _roots(metric, len(weight))[0]
    weight = torch.einsum("oihw,op->pihw", weight.double(), root)
    if method == "cp":
        return [1 - _cp(weight, rank, 0, _CP_LOOK)[1] for (rank,) in choices]
    if method == "tucker":
        into, outof = (_principal(weight.transpose(0, d).flatten(1))[0] for d in (1, 0))
        kept = _project(weight, outof, into).square().sum((2, 3)).T.cumsum(0).cumsum(1)
    else:
        gram = root @ outputs.double() @ root if outputs is not None and method == "svd" else None
        kept = _principal(_spatial_matrix(weight) if method == "spatial" else weight.flatten(1), gram)[1].cumsum(0)
    return [float(kept[tuple(r - 1 for r in ranks)] / kept.max().clamp_min(1e-300)) for ranks in choices]


def factorise(
    method: Method, weight: Tensor, ranks: Ranks, metric: Tensor | None = None, outputs: Tensor | None = None, seed: int = 0
) -> list[Tensor]:
    """Return the weights, in float64, of the layers that together approximate ``weight``; ``shapes`` gives their shapes.

    Args:
        method: ``svd``, the optimal pair of one KxK and one 1x1 convolution (Eckart and Young 1936; Zhang et al. 2016,
            arXiv:1505.06798); ``lu``, the same form from elimination with complete pivoting; ``spatial``, Kx1 then 1xK (Jaderberg et al.
            2014, arXiv:1405.3866); ``tucker``, 1x1, KxK, 1x1 by higher-order orthogonal iteration (Kim et al. 2016, arXiv:1511.06530);
            ``cp``, 1x1, depthwise Kx1 and 1xK, 1x1 by alternating least squares (Lebedev et al. 2015, arXiv:1412.6553).
        weight: the layer's weight ``(out, in, kh, kw)``.
        ranks: one rank; two for Tucker, of the input and the output side.
        metric: the cost of an error in the outputs ``(out, out)``.
        outputs: for ``svd``, the covariance of the layer's outputs ``(out, out)``; the result is then optimal for those outputs.
        seed: seed of the initial values of ``cp``.
    """
    root, inverse = _roots(metric, len(weight))
    weight = torch.einsum("oihw,op->pihw", weight.double(), root)
    out, inputs, kh, _ = weight.shape
    r = ranks[0]
    match method:
        case "svd":
            basis = _principal(weight.flatten(1), None if outputs is None else root @ outputs.double() @ root)[0][:, :r]
            factors = [torch.einsum("or,oihw->rihw", basis, weight), basis[:, :, None, None]]
        case "lu":
            left, right = _eliminate(weight.flatten(1), r)
            factors = [right.reshape(r, *weight.shape[1:]), left[:, :, None, None]]
        case "spatial":
            matrix = _spatial_matrix(weight)
            basis = _principal(matrix)[0][:, :r]
            horizontal = (basis.T @ matrix).reshape(r, out, 1, -1).transpose(0, 1)
            factors = [basis.T.reshape(r, inputs, kh, 1), horizontal]
        case "tucker":
            into, outof = _tucker(weight, ranks[0], ranks[1])
            factors = [into.T[:, :, None, None], _project(weight, outof, into), outof[:, :, None, None]]
        case "cp":
            (o, i, h, w), _ = _cp(weight, r, seed, _CP_SWEEPS)
            factors = [i.T[:, :, None, None], h.T[:, None, :, None], w.T[:, None, None, :], o[:, :, None, None]]
    factors[-1] = torch.einsum("orhw,op->prhw", factors[-1], inverse)
    return [factor.contiguous() for factor in factors]


def _roots(metric: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """The square root of a metric and its inverse; eigenvalues get a small lower bound, so that the inverse stays bounded.

    The metric is scaled to a mean eigenvalue of 1. This changes no choice and keeps the factors at similar magnitudes.
    """
    if metric is None:
        return torch.eye(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(metric.double())
    values = values.clamp_min(0)
    values = values / values.mean().clamp_min(1e-300) + 1e-3
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T


def _principal(matrix: Tensor, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Left singular vectors and squared singular values of ``matrix`` ``(m, n)``, largest first; of ``gram`` ``(m, m)`` instead if given.

    They are the eigenvectors and eigenvalues of the Gram matrix: an order of magnitude faster than the SVD, and accurate enough in float64.
    """
    values, vectors = torch.linalg.eigh(matrix @ matrix.T if gram is None else gram)
    return vectors.flip(1), values.flip(0).clamp_min(0)


def _spatial_matrix(weight: Tensor) -> Tensor:
    out, inputs, kh, kw = weight.shape
    return weight.permute(1, 2, 0, 3).reshape(inputs * kh, out * kw)


def _eliminate(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Approximate ``matrix`` by ``left @ right`` with ``rank`` steps of Gaussian elimination with complete pivoting. Up to the order of
    rows and columns, left and right are triangular."""
    rest, left, right = matrix.clone(), [], []
    for _ in range(rank):
        row, column = divmod(int(rest.abs().argmax()), rest.shape[1])
        pivot = rest[row, column].clone()
        left.append(rest[:, column] / pivot if pivot != 0 else torch.zeros_like(rest[:, column]))
        right.append(rest[row].clone())
        rest -= torch.outer(left[-1], right[-1])
    return torch.stack(left, 1), torch.stack(right)


def _project(weight: Tensor, outof: Tensor, into: Tensor) -> Tensor:
    return torch.einsum("oihw,or,is->rshw", weight, outof, into)


def _tucker(weight: Tensor, rank_in: int, rank_out: int) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of the input and the output side: HOSVD, then each is optimised in turn with the other fixed."""
    into = _principal(weight.transpose(0, 1).flatten(1))[0][:, :rank_in]
    outof = _principal(weight.flatten(1))[0][:, :rank_out]
    for _ in range(_HOOI_SWEEPS):
        outof = _principal(torch.einsum("oihw,is->oshw", weight, into).flatten(1))[0][:, :rank_out]
        into = _principal(torch.einsum("oihw,or->irhw", weight, outof).flatten(1))[0][:, :rank_in]
    return into, outof


def _cp(weight: Tensor, rank: int, seed: int, sweeps: int) -> tuple[list[Tensor], float]:
    """CP decomposition by alternating least squares: one matrix ``(size, rank)`` per dimension, and the share of the energy lost."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(size, rank, generator=generator, dtype=weight.dtype) for size in weight.shape]
    grams = [part.T @ part for part in parts]
    norm, before, error = max(float(weight.square().sum()), 1e-300), float("inf"), 0.0
    for _ in range(sweeps):
        for d in range(4):
            others = [e for e in range(4) if e != d]
            products = weight.movedim(d, 0).flatten(1) @ _khatri_rao([parts[e] for e in others])
            normal = grams[others[0]] * grams[others[1]] * grams[others[2]]
            ridge = 1e-9 * normal.diagonal().mean().clamp_min(1e-30)  # nearly collinear columns make it singular
            parts[d] = torch.linalg.solve(normal + ridge * torch.eye(rank, dtype=weight.dtype), products.T).T
            grams[d] = parts[d].T @ parts[d]
        lengths = torch.stack([part.norm(dim=0).clamp_min(1e-30) for part in parts])
        even = lengths.log().mean(0).exp()  # distribute the norm evenly over the four matrices
        parts = [part * (even / length) for part, length in zip(parts, lengths, strict=True)]
        grams = [part.T @ part for part in parts]
        # |W - X|² = |W|² - 2 <W, X> + |X|², and <W, X> follows from the products of the last solve
        error = (
            norm - 2 * float((products * parts[3] * (lengths[3] / even)).sum()) + float((grams[0] * grams[1] * grams[2] * grams[3]).sum())
        )
        if abs(before - error) <= 1e-8 * norm:
            break
        before = error
    return parts, min(1.0, max(0.0, error / norm))


def _khatri_rao(parts: Sequence[Tensor]) -> Tensor:
    product = parts[0]
    for part in parts[1:]:
        product = (product[:, None] * part[None]).flatten(0, 1)
    return product

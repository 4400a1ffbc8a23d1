"""Splitting the weight of one layer into the weights of several thinner ones. Tensors only; a linear layer is a 1x1 convolution here.

A weight is ``(out, in, kh, kw)``. ``metric`` ``(out, out)`` says how much an error in the layer's outputs matters: an error ``e`` counts
``eᵀ metric e``. None counts all channels alike.
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
_CP_LOOK = 20  # sweeps to see what a rank is worth
_HOOI_SWEEPS = 5


def shapes(method: Method, ranks: Ranks, shape: Shape) -> list[Shape]:
    """Of the weights that take the place of one of ``shape``; depthwise ones have a second dimension of 1."""
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
    """The ranks at which nothing is lost; more never helps."""
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
    """Share of the energy (squared norm) that each of some ranks keeps. Other arguments as for ``factorise``.

    ``lu`` is told by the SVD it cannot beat; ``tucker`` is a lower bound, which sweeps improve by little; ``cp`` is tried in few sweeps.
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
    """The weights, in float64, of the layers that together do nearly what ``weight`` does; ``shapes`` tells their form.

    Args:
        method: ``svd``, the best of all pairs of one KxK and one 1x1 convolution (Eckart and Young 1936; Zhang et al. 2016,
            arXiv:1505.06798); ``lu``, the same form from elimination with complete pivoting; ``spatial``, Kx1 then 1xK (Jaderberg et al.
            2014, arXiv:1405.3866); ``tucker``, 1x1, KxK, 1x1 by higher-order orthogonal iteration (Kim et al. 2016, arXiv:1511.06530);
            ``cp``, 1x1, depthwise Kx1 and 1xK, 1x1 by alternating least squares (Lebedev et al. 2015, arXiv:1412.6553).
        weight: ``(out, in, kh, kw)``.
        ranks: one, two for Tucker: of its input and its output side.
        metric: what an error in the outputs counts ``(out, out)``.
        outputs: for ``svd``, covariance of the layer's outputs ``(out, out)``: the result is then the best for those outputs.
        seed: of the start of ``cp``.
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
    """Square root of a metric and its inverse; directions that hardly matter count a little, so that nothing explodes.

    The metric is scaled to eigenvalues of 1 on average. That changes no choice, and factors do not become tiny before huge ones.
    """
    if metric is None:
        return torch.eye(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(metric.double())
    values = values.clamp_min(0)
    values = values / values.mean().clamp_min(1e-300) + 1e-3
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T


def _principal(matrix: Tensor, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Left singular vectors and squared singular values of ``(m, n)``, largest first; from ``gram`` ``(m, m)`` in its place if given.

    The eigenvectors of the smaller side's Gram matrix: an order faster than the SVD, and exact enough in float64.
    """
    values, vectors = torch.linalg.eigh(matrix @ matrix.T if gram is None else gram)
    return vectors.flip(1), values.flip(0).clamp_min(0)


def _spatial_matrix(weight: Tensor) -> Tensor:
    out, inputs, kh, kw = weight.shape
    return weight.permute(1, 2, 0, 3).reshape(inputs * kh, out * kw)


def _eliminate(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``matrix ≈ left @ right`` by ``rank`` steps of Gaussian elimination with complete pivoting: left and right are triangular but for
    the order of their rows and columns."""
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
    """Orthonormal bases of the input and the output side: HOSVD, then each in turn the best for the other."""
    into = _principal(weight.transpose(0, 1).flatten(1))[0][:, :rank_in]
    outof = _principal(weight.flatten(1))[0][:, :rank_out]
    for _ in range(_HOOI_SWEEPS):
        outof = _principal(torch.einsum("oihw,is->oshw", weight, into).flatten(1))[0][:, :rank_out]
        into = _principal(torch.einsum("oihw,or->irhw", weight, outof).flatten(1))[0][:, :rank_in]
    return into, outof


def _cp(weight: Tensor, rank: int, seed: int, sweeps: int) -> tuple[list[Tensor], float]:
    """One matrix ``(size, rank)`` a dimension, the weight being about the sum over ranks of their outer products; and the share lost."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(size, rank, generator=generator, dtype=weight.dtype) for size in weight.shape]
    grams = [part.T @ part for part in parts]
    norm, before, error = max(float(weight.square().sum()), 1e-300), float("inf"), 0.0
    for _ in range(sweeps):
        for d in range(4):
            others = [e for e in range(4) if e != d]
            products = weight.movedim(d, 0).flatten(1) @ _khatri_rao([parts[e] for e in others])
            normal = grams[others[0]] * grams[others[1]] * grams[others[2]]
            ridge = 1e-9 * normal.diagonal().mean().clamp_min(1e-30)  # parts that grow alike make it singular
            parts[d] = torch.linalg.solve(normal + ridge * torch.eye(rank, dtype=weight.dtype), products.T).T
            grams[d] = parts[d].T @ parts[d]
        lengths = torch.stack([part.norm(dim=0).clamp_min(1e-30) for part in parts])
        even = lengths.log().mean(0).exp()  # each part carries a fourth of the length
        parts = [part * (even / length) for part, length in zip(parts, lengths, strict=True)]
        grams = [part.T @ part for part in parts]
        # |W - X|² = |W|² - 2 <W, X> + |X|², and after the last solution <W, X> is at hand
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

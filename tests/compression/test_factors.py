"""The mathematics of splitting weights, against NumPy's SVD, dense convolutions and tensors whose rank is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from planish.compression.factorization.factor_layers import chain, fill, replacement, shape_of, weight_of, weight_shape
from planish.compression.factorization.factors import METHODS, Method, factorise, full_ranks, kept_energy, shapes


def random_weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def composed(method: Method, factors: list[Tensor]) -> Tensor:
    """The weight that the factors stand for."""
    match method, factors:
        case (("svd" | "lu"), [a, b]):
            return torch.einsum("rihw,or->oihw", a, b[:, :, 0, 0])
        case "spatial", [a, b]:
            return torch.einsum("rih,orw->oihw", a[..., 0], b[:, :, 0])
        case "tucker", [a, core, b]:
            return torch.einsum("si,rshw,or->oihw", a[..., 0, 0], core, b[..., 0, 0])
        case _, [i, h, w, o]:
            return torch.einsum("ri,rh,rw,or->oihw", i[..., 0, 0], h[:, 0, :, 0], w[:, 0, 0], o[..., 0, 0])
    raise AssertionError


LAYERS = st.builds(
    dict,
    in_channels=st.integers(1, 6),
    out_channels=st.integers(1, 6),
    kernel_size=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    bias=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.sampled_from(["svd", "lu", "spatial", "tucker"]))
def test_at_full_rank_nothing_changes(options: dict[str, int], method: Method) -> None:
    layer = nn.Conv2d(**options).double()  # type: ignore[arg-type]
    ranks = full_ranks(method, weight_shape(shape_of(layer)))
    row = replacement(layer, method, ranks, bias=options["bias"])
    fill(row, factorise(method, weight_of(layer), ranks), layer.bias)
    x = torch.randn(2, options["in_channels"], 11, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(row(x), layer(x), rtol=1e-5, atol=1e-8)
    size = (11, 12)
    for part in chain(shape_of(layer), method, ranks):
        size = part.output_size(size)
    assert size == tuple(layer(x).shape[2:])


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_in_words(padding: str) -> None:
    layer = nn.Conv2d(3, 4, (3, 5), padding=padding, dilation=2).double()
    row = replacement(layer, "spatial", (9,), bias=True)
    fill(row, factorise("spatial", weight_of(layer), (9,)), layer.bias)
    x = torch.randn(1, 3, 12, 14, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(row(x), layer(x))


def test_linear_at_full_rank() -> None:
    layer = nn.Linear(7, 5).double()
    row = replacement(layer, "svd", (5,), bias=True)
    fill(row, factorise("svd", weight_of(layer), (5,)), layer.bias)
    x = torch.randn(3, 2, 7, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(row(x), layer(x))


@pytest.mark.parametrize("method", ["svd", "spatial"])
def test_the_error_is_that_of_the_dropped_singular_values(method: Method) -> None:
    """Eckart and Young 1936, with NumPy's singular values of the matrix that the method is defined by."""
    weight = random_weight(10, 6, 3, 3)
    matrix = weight.flatten(1) if method == "svd" else weight.permute(1, 2, 0, 3).reshape(18, 30)
    singular = np.linalg.svd(matrix.numpy(), compute_uv=False)
    for rank, kept in zip((1, 4, 9), kept_energy(method, weight, [(1,), (4,), (9,)]), strict=True):
        error = (composed(method, factorise(method, weight, (rank,))) - weight).square().sum()
        assert float(error) == pytest.approx((singular[rank:] ** 2).sum(), rel=1e-9)
        assert kept == pytest.approx((singular[:rank] ** 2).sum() / (singular**2).sum(), rel=1e-9)


def test_lu_never_beats_svd_and_ends_exact() -> None:
    weight = random_weight(8, 5, 3, 3)
    errors = {m: [float((composed(m, factorise(m, weight, (r,))) - weight).norm()) for r in range(1, 9)] for m in ("svd", "lu")}  # type: ignore[misc]
    assert all(s <= p + 1e-12 for s, p in zip(errors["svd"], errors["lu"], strict=True))
    assert errors["lu"][-1] < 1e-12
    low = torch.einsum("or,rihw->oihw", random_weight(8, 3), random_weight(3, 5, 3, 3))
    assert float((composed("lu", factorise("lu", low, (3,))) - low).norm()) < 1e-12 * float(low.norm())


def test_tucker_finds_the_ranks_a_tensor_has_and_gains_by_its_sweeps() -> None:
    low = torch.einsum("si,rshw,or->oihw", random_weight(3, 9), random_weight(4, 3, 3, 3), random_weight(10, 4))
    assert float((composed("tucker", factorise("tucker", low, (3, 4))) - low).norm()) < 1e-10 * float(low.norm())
    weight = random_weight(10, 9, 3, 3)
    promised = kept_energy("tucker", weight, [(3, 4)])[0]  # by HOSVD alone
    kept = 1 - float((composed("tucker", factorise("tucker", weight, (3, 4))) - weight).square().sum() / weight.square().sum())
    assert promised <= kept + 1e-12
    basis = [np.linalg.svd(m.numpy())[0] for m in (weight.transpose(0, 1).flatten(1), weight.flatten(1))]
    core = np.einsum("oihw,is,or->rshw", weight.numpy(), basis[0][:, :3], basis[1][:, :4])
    assert promised == pytest.approx((core**2).sum() / float(weight.square().sum()))


@pytest.mark.parametrize("rank", [1, 3])
def test_cp_converges_where_the_rank_is_low(rank: int) -> None:
    parts = [random_weight(size, rank, seed=i) for i, size in enumerate((9, 7, 3, 3))]
    low = torch.einsum("or,ir,hr,wr->oihw", *parts)
    found = composed("cp", factorise("cp", low, (rank,)))
    assert float((found - low).norm()) < 1e-3 * float(low.norm())


def test_cp_errors_fall_with_the_rank() -> None:
    weight = random_weight(8, 6, 3, 3)
    errors = [float((composed("cp", factorise("cp", weight, (r,))) - weight).norm() / weight.norm()) for r in (4, 12, 54)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3
    kept = kept_energy("cp", weight, [(4,), (12,)])
    assert kept == pytest.approx([1 - errors[0] ** 2, 1 - errors[1] ** 2], abs=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_shapes_are_those_of_the_factors(method: Method) -> None:
    ranks = (2, 3) if method == "tucker" else (3,)
    assert [tuple(f.shape) for f in factorise(method, random_weight(8, 6, 3, 5), ranks)] == shapes(method, ranks, (8, 6, 3, 5))


def test_with_covariance_the_outputs_are_as_near_as_can_be() -> None:
    """Among all rank-r maps none has a smaller output error than principal components: NumPy's tail of eigenvalues says how small."""
    weight, x = random_weight(8, 12, 1, 1), random_weight(500, 12) @ random_weight(12, 12, seed=1)
    y = x @ weight[:, :, 0, 0].T
    covariance = y.T @ y / len(y)
    tail = np.linalg.eigvalsh(covariance.numpy())[:-3].sum()

    def error(**given: Tensor) -> float:
        found = composed("svd", factorise("svd", weight, (3,), **given))[:, :, 0, 0]
        return float((y - x @ found.T).square().sum() / len(y))

    assert error(outputs=covariance) == pytest.approx(tail, rel=1e-3)
    assert error() > 1.05 * tail


@pytest.mark.parametrize("method", METHODS)
def test_what_the_metric_weighs_is_kept_better(method: Method) -> None:
    weight = random_weight(8, 6, 3, 3)
    metric = torch.diag(torch.tensor([100.0] * 2 + [1.0] * 6, dtype=torch.float64))
    ranks = (3, 3) if method == "tucker" else (4,)

    def error(metric: Tensor | None) -> float:
        return float((composed(method, factorise(method, weight, ranks, metric)) - weight)[:2].norm())

    assert error(metric) < 0.8 * error(None)


def test_dead_layers_are_split_too() -> None:
    for method in METHODS:
        ranks = (2, 2) if method == "tucker" else (2,)
        factors = factorise(method, torch.zeros(4, 3, 3, 3), ranks, torch.zeros(4, 4))
        assert all(torch.isfinite(f).all() for f in factors), method
        assert np.isfinite(kept_energy(method, torch.zeros(4, 3, 3, 3), [ranks])).all()


def test_composed_is_what_the_layers_compute() -> None:
    """The reference of this file against torch's own convolution."""
    weight, x = random_weight(5, 4, 3, 3), random_weight(1, 4, 8, 8)
    for method in METHODS:
        ranks = (2, 3) if method == "tucker" else (3,)
        layer = nn.Conv2d(4, 5, 3, padding=1, bias=False).double()
        row, factors = replacement(layer, method, ranks, bias=False), factorise(method, weight, ranks)
        fill(row, factors, None)
        with torch.no_grad():
            torch.testing.assert_close(row(x), F.conv2d(x, composed(method, factors), padding=1))


def test_the_size_of_the_metric_is_not_that_of_the_factors() -> None:
    weight, root = random_weight(6, 5, 3, 3), random_weight(6, 6, seed=1)
    factors, same = (factorise("svd", weight, (3,), metric=scale * root @ root.T) for scale in (1.0, 1e-20))
    for a, b in zip(factors, same, strict=True):
        torch.testing.assert_close(a.abs(), b.abs())

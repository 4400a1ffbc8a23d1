"""Ridge regression of a layer's outputs on its inputs, from sums over rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Intercept = Literal["fitted", "absorbed", "none"]


@dataclass(frozen=True)
class RowSums:
    """Sums over rows in float64: of the inputs ``(in,)``, the outputs ``(out,)`` and their products ``(in, in)`` and ``(in, out)``."""

    rows: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> RowSums:
        """Sum rows ``(rows, in)`` and ``(rows, out)``. The products of one batch are taken in float32; sums over batches need float64."""
        return cls(len(x), x.sum(0).double(), y.sum(0).double(), (x.T @ x).double(), (x.T @ y).double())

    def __add__(self, other: RowSums) -> RowSums:
        return RowSums(self.rows + other.rows, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy)


def ridge_regression(sums: RowSums, before: Tensor, intercept: Intercept) -> tuple[Tensor, Tensor | None]:
    """Fit the weight and the intercept with the least squared error; a ridge penalty pulls the weight towards its previous value.

    The ridge is stronger the fewer rows there are per input. It is scaled by the variance of the inputs, because their mean does not affect
    how noisy the estimate is. The intercept is not penalised.

    Args:
        sums: sums over the rows to fit.
        before: the previous weight ``(out, in)``.
        intercept: ``fitted`` if the layer has a bias. ``absorbed`` if it has none but batch norm follows, which removes any mean: the
            weight of the fit with an intercept is then optimal. ``none`` if it has none and the mean matters: the fit goes through the
            origin, as fitting an intercept and dropping it would add an error.

    Returns:
        The weight ``(out, in)`` and the intercept ``(out,)``, or None unless it is fitted; float64.
    """
    mean_x, mean_y = sums.x / sums.rows, sums.y / sums.rows
    xx, xy = sums.xx / sums.rows, sums.xy / sums.rows
    covariance, crossed = xx - torch.outer(mean_x, mean_x), xy - torch.outer(mean_x, mean_y)
    variance = covariance.diagonal().mean().clamp_min(0)
    ridge = (len(mean_x) / sums.rows * variance + 1e-6 * xx.diagonal().mean()).clamp_min(1e-12)
    ridged = ridge * torch.eye(len(mean_x), dtype=xx.dtype)
    moment, product = (xx, xy) if intercept == "none" else (covariance, crossed)
    before = before.double()
    weight = torch.linalg.solve(moment + ridged, product + ridge * before.T).T
    return weight, mean_y - weight @ mean_x if intercept == "fitted" else None

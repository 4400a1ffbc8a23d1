"""Ridge regression of a layer's outputs on its inputs, from sums over rows: what every fit of a layer's weight solves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Intercept = Literal["fitted", "absorbed", "none"]


@dataclass(frozen=True)
class RowSums:
    """Sums over rows, float64, of inputs ``(in,)``, outputs ``(out,)``, and of their products ``(in, in)`` and ``(in, out)``."""

    rows: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> RowSums:
        """Of rows ``(rows, in)`` and ``(rows, out)``; products in float32 are exact enough, their sum over all images might not be."""
        return cls(len(x), x.sum(0).double(), y.sum(0).double(), (x.T @ x).double(), (x.T @ y).double())

    def __add__(self, other: RowSums) -> RowSums:
        return RowSums(self.rows + other.rows, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy)


def ridge_regression(sums: RowSums, before: Tensor, intercept: Intercept) -> tuple[Tensor, Tensor | None]:
    """The weight, and the intercept, whose outputs have the least squared error; a ridge draws the weight to what it was.

    The ridge is the stronger the fewer rows there are for the weights, and is measured by the inputs' variance: their mean says nothing
    about how noisy an estimate is. The intercept is not drawn anywhere.

    Args:
        sums: over rows.
        before: the weight as it was ``(out, in)``.
        intercept: ``fitted`` where the layer has a bias. ``absorbed`` where it has none and the batch norm behind it takes any mean off
            again: the weight of the fit with an intercept is then the best. ``none`` where it has none and its mean counts: the fit is
            through the origin, for an intercept that is found and then dropped leaves an error of its own.

    Returns:
        Weight ``(out, in)`` and intercept ``(out,)``, None unless fitted; float64.
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

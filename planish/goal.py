"""The goal of a search: the limits that the deployed model must meet."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

DEFAULT_RISK = 0.2  # see docs/decisions/0108: what it ships, and how often that exceeds the limit


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Goal:
    """The limits of a search; None for no limit.

    Args:
        max_drop_points: maximum drop of the task's primary metric, original minus candidate: in points if the metric is in percent, else in
            its unit.
        max_latency_ms: maximum latency of one batch.
        max_size_bytes: maximum size of the deployed files.
        point: what counts as one point in the search, in the unit of the primary metric: 1 if it is in percent, else a hundredth of the
            difference between guessing and a model without errors.
        risk: accepted probability that the drop of the deployed model on new images is above ``max_drop_points``, above 0 and at most 0.5.
    """

    max_drop_points: float = 1.0
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    point: float = Field(default=1.0, gt=0)
    risk: float = Field(default=DEFAULT_RISK, gt=0, le=0.5)

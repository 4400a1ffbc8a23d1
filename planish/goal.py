"""The goal of a search: what the model that ships must keep to."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Goal:
    """The limits of a search; None for no limit.

    Args:
        max_drop_points: of the task's primary metric, original minus candidate: in points where that is in percent, else in its unit.
        max_latency_ms: of one batch.
        max_size_bytes: of the files that are deployed.
        point: how much of the primary metric, in its unit, the search takes as one point: 1 where it is in percent, else a hundredth of the
            way from guessing to a model without errors.
    """

    max_drop_points: float = 1.0
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    point: float = Field(default=1.0, gt=0)

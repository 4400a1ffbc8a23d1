"""What is assumed of images without drift, as options of ``serve`` and ``monitor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from planish.serving.monitoring.drift import DriftSettings

Cycle = Literal["none", "day", "week"]
Period = Literal["day", "week"]


def drift_settings(correlation: str | float, cycle: Cycle, false_alarms: float = 0.05, period: Period = "week") -> DriftSettings:
    """The settings of drift detection.

    Args:
        correlation: time after which two images of one source are independent: ``0``, ``60s``.
        cycle: what comes back in each is no drift.
        false_alarms: share of periods without drift that may give an alarm.
        period: each is judged anew.
    """
    from planish.serving.monitoring.drift import DriftSettings
    from planish.units import seconds

    correlation_s = 0.0 if str(correlation).strip() == "0" else seconds(correlation)
    return DriftSettings(false_alarms, period, correlation_s, cycle)

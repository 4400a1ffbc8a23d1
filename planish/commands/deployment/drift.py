"""Drift-detection options of ``serve`` and ``monitor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from planish.serving.monitoring.drift import DriftSettings

Cycle = Literal["none", "day", "week"]
Period = Literal["day", "week"]


def drift_settings(correlation: str | float, cycle: Cycle, false_alarms: float = 0.05, period: Period = "week") -> DriftSettings:
    """Build the settings of drift detection.

    Args:
        correlation: time after which two images from one source are considered independent: ``0``, ``60s``.
        cycle: regular variation with this period is not drift.
        false_alarms: accepted share of periods without drift that raise an alarm.
        period: length of the periods; each is tested separately.
    """
    from planish.serving.monitoring.drift import DriftSettings
    from planish.units import seconds

    correlation_s = 0.0 if str(correlation).strip() == "0" else seconds(correlation)
    return DriftSettings(false_alarms, period, correlation_s, cycle)

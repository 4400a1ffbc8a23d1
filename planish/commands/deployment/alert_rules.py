"""Alert rules for Prometheus."""

from __future__ import annotations

from pathlib import Path


def alert_rules(out: str | Path = "alerts.yaml") -> Path:
    """Write Prometheus alert rules for the metrics of `planish serve`.

    Args:
        out: Output file.

    Returns:
        The file.

    Example:
        $ planish alert-rules alerts.yaml
    """
    import shutil

    from planish.serving.monitoring.monitor import ALERT_RULES

    file = Path(out)
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ALERT_RULES, file)
    return file

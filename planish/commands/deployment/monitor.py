"""Drift detection on the predictions of a service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from planish.commands.deployment.drift import Cycle, Period, drift_settings
from planish.errors import GoalError

if TYPE_CHECKING:
    from planish.serving.monitoring.monitor import Monitored


def monitor(
    source: str | Path,
    bundles: Sequence[str | Path] = (),
    *,
    false_alarms: float = 0.05,
    period: Period = "week",
    correlation: str | float = "60s",
    cycle: Cycle = "none",
    every: str | float | None = None,
    webhook: Annotated[str | None, Parameter(env_var="PLANISH_WEBHOOK")] = None,
    keys: str | Path | None = None,
) -> list[Monitored]:
    """Check a service, or its log, for drift; exit code 1 if there is drift, 2 if nothing could be compared.

    Args:
        source: Folder written by `planish serve --log`, or the address of a service.
        bundles: The bundles that were served, named as they were served; not needed for an address.
        false_alarms: Share of periods without drift in which a false alarm is accepted.
        period: Length of the periods; each is tested separately.
        correlation: Time after which two images from one source (header X-Source) are considered independent: 0, 60s, 10m.
        cycle: Regular variation, such as day and night, that is not drift; each cycle is tested at its end.
        every: Keep checking at this interval: 1m, 1h. Ends at the first alarm the webhook accepts.
        webhook: URL to which alarms are posted as JSON. It is never printed.
        keys: Key file, as for `planish serve`; the first key is sent to the service.

    Returns:
        The drift findings of each model.

    Raises:
        DataError: there is no log, or it has no predictions of one of the bundles.
        BundleError: a bundle is damaged, or has no reference statistics.

    Example:
        $ planish monitor log/ runs/demo
        $ planish monitor http://localhost:8000 --every 10m --webhook https://...
    """
    # do not import training code: monitoring works without PyTorch
    from planish.serving.http.key_file import read_keys
    from planish.serving.monitoring.monitor import monitor as look_for_drift
    from planish.units import seconds

    if not 1e-6 <= false_alarms <= 0.5:
        raise GoalError(f"--false-alarms {false_alarms:g}", "it lies between 0.000001 and 0.5", "for example --false-alarms 0.05")
    return look_for_drift(
        source, bundles, settings=drift_settings(correlation, cycle, false_alarms, period),
        every_s=None if every is None else seconds(every), webhook=webhook, key=None if keys is None else read_keys(Path(keys))[0],
    )  # fmt: skip

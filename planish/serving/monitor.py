"""``planish monitor``: reads what a service logged, or its metrics, and says whether anything drifted."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from planish.errors import DataError
from planish.export.bundle import SEAL
from planish.progress import Stage
from planish.serving.drift import Drift, Finding, Period
from planish.serving.recorder import LOG_FILE
from planish.serving.serve import named_bundles

ALERT_RULES = Path(__file__).parent / "alerts.yaml"  # for Prometheus
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Monitored:
    """What was found of one model.

    Args:
        model: its name.
        version: likewise.
        images: looked at in the last period.
        since: begin of what was looked at in it, in UTC; empty where only metrics were read.
        findings: the strongest first.
        latency_ms: median and 95th percentile of a request, in the last period.
        others: predictions of other bundles of that name, which were passed over.
    """

    model: str
    version: str
    images: int
    since: str
    findings: tuple[Finding, ...]
    latency_ms: tuple[float, ...] | None = None
    others: int = 0

    @property
    def drifted(self) -> list[str]:
        """What drifted."""
        return [one.of for one in self.findings if one.drifted]

    @property
    def verdict(self) -> str:
        """In a line."""
        found = f"drift in {', '.join(self.drifted)}" if self.drifted else "no drift"
        return f"{self.model} version {self.version}: {found} in {self.images:,} images"


def monitor(
    source: str | Path,
    bundles: Sequence[str | Path] = (),
    *,
    false_alarms: float = 0.05,
    period: Period = "week",
    every_s: float | None = None,
    webhook: str | None = None,
) -> list[Monitored]:
    """Look for drift.

    Args:
        source: folder of a service's log, or the service's address, ``http://...``.
        bundles: that it served, named as ``planish serve`` is given them; not needed for an address.
        false_alarms: share of the periods without drift that may give an alarm; a running service has decided on 0.05 and weeks itself.
        period: after which it starts anew.
        every_s: look again after so many seconds, until there is an alarm; None to look once.
        webhook: address that is told of an alarm.

    Raises:
        DataError: there is no log, or nobody answers at an address.
        BundleError: a bundle is damaged.
    """
    while True:
        found = _look(source, bundles, false_alarms, period)
        drifted = any(one.drifted for one in found)
        if drifted and webhook is not None:
            tell(found, webhook)
        if drifted or every_s is None:
            return found
        time.sleep(every_s)


def _look(source: str | Path, bundles: Sequence[str | Path], false_alarms: float, period: Period) -> list[Monitored]:
    if str(source).startswith(("http://", "https://")):
        return _from_metrics(str(source))
    if not bundles:
        raise DataError("a log without a bundle", "it is compared with the bundles that were served", "planish monitor LOG BUNDLE")
    return _from_log(
        Path(source), {key: _Watched(bundle, Drift(bundle, false_alarms, period)) for key, bundle in named_bundles(bundles).items()}
    )


def records(log: Path) -> Iterator[dict[str, Any]]:
    """What was logged, the oldest first; lines that were cut off are passed over.

    Raises:
        DataError: there is no log.
    """
    files = sorted(log.rglob(f"{LOG_FILE}*"), key=lambda file: -int(file.suffix[1:]) if file.suffix[1:].isdigit() else 0)
    if not files:
        raise DataError(f"{log} has no {LOG_FILE}", "it is written by: planish serve --log FOLDER")
    with Stage("reading the log", sum(file.stat().st_size for file in files)) as stage:
        for file in files:
            for line in file.read_bytes().splitlines(keepends=True):
                stage.advance(len(line))
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict) and {"time", "model", "version", "bundle", "seconds"} <= found.keys():
                    yield found


def tell(found: Sequence[Monitored], webhook: str) -> None:
    """Post what drifted to an address as JSON: ``{"text": in words, "models": [...]}``; ``text`` is what chat services show.

    Raises:
        DataError: the address does not take it.
    """
    said = {"text": "\n".join(one.verdict for one in found), "models": [asdict(one) for one in found]}
    try:
        request = urllib.request.Request(webhook, json.dumps(said).encode(), {"Content-Type": "application/json"})
        if request.type not in ("http", "https"):
            raise ValueError("its scheme is not http or https")
        urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise DataError(f"the webhook {webhook} was not told: {error}", "it is an address that takes a POST of JSON") from error


class _Watched:
    """A bundle, and what its predictions in the last period came to."""

    def __init__(self, bundle: Path, drift: Drift) -> None:
        self.seal, self.drift = (bundle / SEAL).read_text()[:12], drift
        self.since, self.seconds, self.others = 0.0, list[float](), 0

    def add(self, record: dict[str, Any]) -> None:
        if record["bundle"] != self.seal:
            self.others += 1
            return
        self.drift.add(record, record.get("class"), record["time"])
        if self.drift.images == 1:  # a new period
            self.since, self.seconds = record["time"], []
        self.seconds.append(record["seconds"])

    def found(self, name: str, version: str) -> Monitored:
        latency = tuple(float(value) for value in 1000 * np.quantile(self.seconds, (0.5, 0.95))) if self.seconds else None
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds")
        return Monitored(name, version, self.drift.images, since, tuple(self.drift.findings()), latency, self.others)


def _from_log(log: Path, watched: Mapping[tuple[str, str], _Watched]) -> list[Monitored]:
    for record in records(log):
        if (one := watched.get((record["model"], record["version"]))) is not None:
            one.add(record)
    return [one.found(*key) for key, one in watched.items()]


def _from_metrics(address: str) -> list[Monitored]:
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/metrics", timeout=_TIMEOUT_S) as answer:
            text = answer.read().decode()
    except (OSError, ValueError) as error:
        raise DataError(f"{address} does not answer: {error}", "it is the address of a running planish serve") from error
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = []
    for watched in (sample for sample in samples if sample.name == "planish_drift_images"):
        of_model = [s for s in samples if s.name == "planish_drift" and watched.labels.items() <= s.labels.items()]
        findings = [Finding(s.labels["of"], s.value > 0, None, "") for s in of_model]
        found.append(Monitored(watched.labels["model"], watched.labels["version"], int(watched.value), "", tuple(findings)))
    return found

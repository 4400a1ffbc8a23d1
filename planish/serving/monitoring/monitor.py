"""``planish monitor``: detects drift from a service's log or its metrics."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from planish.errors import BundleError, DataError, PlanishError
from planish.progress import note
from planish.serving.monitoring.drift import DEFAULT_DRIFT, Drift, DriftFinding, DriftSettings
from planish.serving.monitoring.http_client import NoResponseError, is_http, request
from planish.serving.monitoring.log_contents import EmptyLogError, LogContents, bundle_seal
from planish.serving.monitoring.records import records
from planish.serving.serve import named_bundles

_CLOCK_S = 86_400  # a record further in the future than this was written with a wrong clock
_FUTURE = "have a time in the future: the clock of the service was wrong"
_BACK = "are of an earlier period than those logged before them: the clock was set back"
NOTHING_COMPARED = (
    "Images that are closer in time than --correlation depend on one another, and few of them are compared; with --cycle none are before "
    "its end. Wait for more images, or use --correlation 0 if they are independent."
)
ALERT_RULES = Path(__file__).parent / "alerts.yaml"  # alert rules for Prometheus


@dataclass(frozen=True)
class Monitored:
    """The monitoring result of one model.

    Args:
        model: name of the model.
        version: version of the model.
        images: number of images in the last period.
        compared: number of these images that are far enough apart to be compared with the reference.
        since: time of the first image in the last period, UTC; empty if only metrics were read.
        findings: one per kind of value, the strongest evidence first.
        latency_ms: median and 95th percentile of the request latency in the last period.
        others: number of predictions of other bundles with the same name and version, which were skipped.
    """

    model: str
    version: str
    images: int
    compared: int
    since: str
    findings: tuple[DriftFinding, ...]
    latency_ms: tuple[float, ...] | None = None
    others: int = 0

    @property
    def drifted(self) -> list[str]:
        """The kinds of values that drifted."""
        return [one.of for one in self.findings if one.drifted]

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if not self.compared:
            return f"{self.model} version {self.version}: no verdict, none of {self.images:,} images could be compared"
        found = f"drift in {', '.join(self.drifted)}" if self.drifted else "no drift"
        of = f"{self.compared:,} of " * (self.compared != self.images)
        return f"{self.model} version {self.version}: {found} in {of}{self.images:,} images"


def monitor(
    source: str | Path,
    bundles: Sequence[str | Path] = (),
    *,
    settings: DriftSettings = DEFAULT_DRIFT,
    every_s: float | None = None,
    webhook: str | None = None,
    key: str | None = None,
) -> list[Monitored]:
    """Check a service for drift, once or repeatedly.

    Errors between repeated checks are reported with ``planish.progress.note``.

    Args:
        source: folder of a service's log, or the service's address, ``http://...``.
        bundles: bundles that were served, named as in ``planish serve``. Required for a log. For an address they are optional and
            restrict the check to these models.
        settings: settings of drift detection for a log; a running service uses its own.
        every_s: check again after this many seconds, until there is an alarm and the webhook, if any, accepted it; None to check once. A
            service or webhook that does not respond is then tried again.
        webhook: address that is notified of an alarm. It is never quoted, as it may contain a secret.
        key: one of the service's keys, if it requires one.

    Raises:
        DataError: there is no log, it has no predictions of one of the bundles, or the address is not that of ``planish serve``.
        NoResponseError: the service does not respond, and ``every_s`` is None.
        RequestRefusedError: the service refuses the key.
        BundleError: a bundle is damaged, or has no reference statistics.
    """
    if webhook is not None and not is_http(webhook):
        raise DataError("the webhook is no valid address", "it begins with http:// or https://, without spaces and user names")
    while True:
        try:
            found = _look(source, bundles, settings, key)
        except (NoResponseError, EmptyLogError) as error:
            if every_s is None:
                raise
            note(f"{datetime.now(UTC):%Y-%m-%d %H:%M} {error} Retrying.")
        else:
            drifted = any(one.drifted for one in found)
            told = not drifted or webhook is None or _notified(found, webhook)
            if every_s is None or (drifted and told):
                return found
        time.sleep(every_s)


def _notified(found: Sequence[Monitored], webhook: str) -> bool:
    """Notify the webhook; return whether it accepted the alarm."""
    try:
        tell(found, webhook)
    except PlanishError as error:
        note(f"{datetime.now(UTC):%Y-%m-%d %H:%M} {error} The alarm was not delivered: {'; '.join(one.verdict for one in found)}")
        return False
    return True


def tell(found: Sequence[Monitored], webhook: str) -> None:
    """Post the results to an address as JSON: ``{"text": summary, "models": [...]}``; chat services display ``text``.

    Raises:
        NoResponseError: the address does not respond.
        RequestRefusedError: the address refuses the request.
    """
    message = {"text": "\n".join(one.verdict for one in found), "models": [asdict(one) for one in found]}
    request("the webhook", webhook, json.dumps(message).encode(), {"Content-Type": "application/json"})


def _look(source: str | Path, bundles: Sequence[str | Path], settings: DriftSettings, key: str | None) -> list[Monitored]:
    if is_address(source):
        return _from_metrics(str(source), key, list(named_bundles(bundles)))
    if not bundles:
        raise DataError("a log without a bundle", "it is compared with the bundles that were served", "planish monitor LOG BUNDLE")
    return _from_log(Path(source), named_bundles(bundles), settings)


def is_address(source: str | Path) -> bool:
    """Return whether this is a service's address, not the folder of its log."""
    return str(source).startswith(("http://", "https://"))


class _Watched:
    """A bundle, and the drift and latency of its predictions in the last period."""

    def __init__(self, bundle: Path, settings: DriftSettings) -> None:
        self.seal, self.drift = bundle_seal(bundle), Drift(bundle, settings)
        if not self.drift.kinds:
            raise BundleError(f"{bundle} has no reference statistics", "drift is measured against them", "make the bundle again")
        self.period, self.since, self.seconds, self.others = self.drift.number, 0.0, list[float](), 0

    def add(self, record: Mapping[str, Any], left_out: Counter[str]) -> None:
        if record["bundle"] != self.seal:
            self.others += 1
            return
        images = self.drift.images
        self.drift.add(record, record.get("class"), record["time"], str(record.get("source", "")))
        if self.drift.images == images and self.drift.number == self.period:
            left_out[_BACK] += 1
            return
        if self.drift.number != self.period:
            self.period, self.since, self.seconds = self.drift.number, record["time"], []
        self.seconds.append(record["seconds"])

    def found(self, name: str, version: str) -> Monitored:
        latency = tuple(float(value) for value in 1000 * np.quantile(self.seconds, (0.5, 0.95))) if self.seconds else None
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds") if self.seconds else ""
        drift = self.drift
        return Monitored(name, version, drift.images, drift.compared, since, tuple(drift.findings()), latency, self.others)


def _from_log(log: Path, bundles: Mapping[tuple[str, str], Path], settings: DriftSettings) -> list[Monitored]:
    contents, left_out, latest = LogContents(), Counter[str](), time.time() + _CLOCK_S
    logged = records(log, left_out)
    watched = {key: _Watched(folder, settings) for key, folder in bundles.items()}
    for record in logged:
        contents.add(record)
        one = watched.get((record["model"], record["version"]))
        if one is not None and record["time"] > latest:
            left_out[_FUTURE] += 1
        elif one is not None:
            one.add(record, left_out)
    contents.check(log, bundles)
    for why, count in left_out.items():
        note(f"{log}: {count:,} predictions {why}; they are left out.")
    if others := [f"{model} version {version}" for model, version in contents.models if (model, version) not in bundles]:
        note(f"{log} also has predictions of {', '.join(others)}, whose bundles were not given; they are left out.")
    return [one.found(*key) for key, one in watched.items()]


def _from_metrics(address: str, key: str | None, wanted: Sequence[tuple[str, str]]) -> list[Monitored]:
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise DataError("prometheus-client is not installed", "metrics are read with it", "run: pip install 'planish[serve]'") from error
    service = f"the service at {urlsplit(address).hostname}" if is_http(address) else "the service"
    headers = {} if key is None else {"Authorization": f"Bearer {key.encode().decode('latin-1')}"}  # encoded as the service decodes it
    text = request(service, f"{address.rstrip('/')}/metrics", headers=headers).decode(errors="replace")
    found = []
    try:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        for seen in (sample for sample in samples if sample.name == "planish_drift_images"):
            of_model = [s for s in samples if seen.labels.items() <= s.labels.items()]
            findings = [DriftFinding(s.labels["of"], s.value > 0, None, "") for s in of_model if s.name == "planish_drift"]
            compared = sum(int(s.value) for s in of_model if s.name == "planish_drift_compared_images")
            found.append(Monitored(seen.labels["model"], seen.labels["version"], int(seen.value), compared, "", tuple(findings)))
    except (ValueError, KeyError) as error:
        raise DataError(f"{service} shows no metrics of planish serve", "it is the address of one, without a path") from error
    if not found:
        raise DataError(f"{service} shows no metrics of planish serve", "it is the address of one, without a path")
    served = {(one.model, one.version) for one in found}
    if missing := [f"{name} version {version}" for name, version in wanted if (name, version) not in served]:
        names = ", ".join(f"{name} version {version}" for name, version in sorted(served))
        raise DataError(
            f"{service} does not serve {', '.join(missing)}", f"it serves {names}", "name the bundle as it was served, or omit it"
        )
    return [one for one in found if not wanted or (one.model, one.version) in wanted]

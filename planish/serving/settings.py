"""Settings of a service: models, address, monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from planish.serving.monitoring.drift import DEFAULT_DRIFT, DriftSettings
from planish.serving.monitoring.recorder import NO_LOG, LogSettings
from planish.serving.monitoring.request_log import TO_STDOUT, RequestLog


@dataclass(frozen=True)
class ServingSettings:
    """How bundles are served.

    Args:
        threads: runtime threads of each bundle; None for the number the bundle was measured with.
        canary: ``NAME@VERSION=SHARE``: share of the requests for that name without a version that this version answers.
        reload: replace a model when its folder contains a newer bundle; requests in progress are answered by the old model.
        public_key: PEM file; only bundles signed with this key are served, including reloaded ones. None for any bundle.
        replicas: number of Ray Serve processes; None to serve from this process.
    """

    threads: int | None = None
    canary: tuple[str, ...] = ()
    reload: bool = False
    public_key: Path | None = None
    replicas: int | None = None


@dataclass(frozen=True)
class Address:
    """Where a service listens.

    Args:
        host: address of this machine.
        port: port; 0 for any free port.
        certificate: PEM file with the TLS certificate.
        certificate_key: PEM file with the certificate's private key.
        file: the service writes its address, as reached from this machine, to this file when it listens; see
            ``planish.serving.healthcheck``.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    certificate_key: Path | None = None
    file: Path | None = None

    def url(self, port: int, host: str | None = None) -> str:
        """Return the URL for the port that the service actually listens on."""
        host = host or self.host
        return f"{'https' if self.certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


@dataclass(frozen=True)
class MonitoringSettings:
    """What a service monitors and logs.

    Args:
        watch_rate: maximum number of predictions per second that are checked for drift and logged.
        drift: settings of drift detection.
        log: where predictions are logged, and how many.
        request_log: where requests and failures are logged, one line of JSON each.
    """

    watch_rate: float = 20.0
    drift: DriftSettings = DEFAULT_DRIFT
    log: LogSettings = NO_LOG
    request_log: RequestLog = TO_STDOUT


DEFAULT_ADDRESS = Address()
DEFAULT_SERVING = ServingSettings()
DEFAULT_MONITORING = MonitoringSettings()

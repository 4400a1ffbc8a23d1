"""How a service is set up: what it serves, where it listens, what it watches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from planish.serving.monitoring.drift import DEFAULT_DRIFT, DriftSettings
from planish.serving.monitoring.recorder import NO_LOG, LogSettings
from planish.serving.monitoring.request_log import TO_STDOUT, RequestLog


@dataclass(frozen=True)
class ServingSettings:
    """How the bundles are served.

    Args:
        threads: of the runtime, for each bundle; None for those it was measured with.
        canary: ``NAME@VERSION=SHARE``: of the requests for that name without a version, the share that this version answers.
        reload: exchange a model when its folder holds a newer bundle; requests that run are answered by the old one.
        public_key: PEM file; only bundles that the owner of this key signed are served, newer ones as well. None for any bundle.
        replicas: as so many processes in Ray Serve; None for this process alone.
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
        port: 0 for any that is free.
        certificate: PEM file, for TLS.
        certificate_key: PEM file.
        file: where the address is written once the service listens, as it is reached from this machine; see
            ``planish.serving.healthcheck``.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    certificate_key: Path | None = None
    file: Path | None = None

    def url(self, port: int, host: str | None = None) -> str:
        """With the port that it came to."""
        host = host or self.host
        return f"{'https' if self.certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


@dataclass(frozen=True)
class MonitoringSettings:
    """What a service watches and logs.

    Args:
        watch_rate: at most that many predictions per second are looked at for drift, and logged.
        drift: how it is looked for.
        log: where predictions are logged, and how much of them.
        request_log: where requests and failures are logged, a line of JSON each.
    """

    watch_rate: float = 20.0
    drift: DriftSettings = DEFAULT_DRIFT
    log: LogSettings = NO_LOG
    request_log: RequestLog = TO_STDOUT


DEFAULT_ADDRESS = Address()
DEFAULT_SERVING = ServingSettings()
DEFAULT_MONITORING = MonitoringSettings()

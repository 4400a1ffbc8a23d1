"""Serve bundles over HTTP."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import PngImagePlugin

from planish.devices.allocator import return_large_blocks
from planish.errors import BundleError
from planish.export.bundle.folder import bundle_folder
from planish.serving.limits import DEFAULT_LIMITS, Limits
from planish.serving.model import ServedModel
from planish.serving.monitoring.drift import DEFAULT_DRIFT, DriftSettings
from planish.serving.monitoring.recorder import Recorder
from planish.serving.settings import DEFAULT_ADDRESS, DEFAULT_MONITORING, DEFAULT_SERVING, Address, MonitoringSettings, ServingSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

_BACKLOG = 2048  # connections that may wait to be accepted
_RELOAD_S = 2.0
_TEXT_BYTES = 2_000_000
_DRAIN_S = 30  # seconds that accepted requests have to finish after SIGTERM


def serve(
    bundles: Sequence[str | Path],
    *,
    serving: ServingSettings = DEFAULT_SERVING,
    address: Address = DEFAULT_ADDRESS,
    monitoring: MonitoringSettings = DEFAULT_MONITORING,
    limits: Limits = DEFAULT_LIMITS,
    watch: Callable[[str], None] = lambda text: None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; then accept no new ones, and answer those already accepted.

    Args:
        bundles: folders of bundles or runs, as ``FOLDER``, ``NAME=FOLDER`` or ``NAME@VERSION=FOLDER``; the name defaults to the folder's
            name, and the version to 1.
        serving: threads, canary versions, signatures, replicas.
        address: where the service listens.
        monitoring: drift and logs.
        limits: limits on requests.
        watch: called with messages: what is served, and where.

    Raises:
        BundleError: a bundle is damaged, two have the same name and version, FastAPI, uvicorn or Ray Serve is not installed, the port is
            taken, or the certificate cannot be used.
    """
    try:
        import uvicorn

        from planish.serving.http.app import service
        from planish.serving.http.connection import Connection
    except ImportError as error:
        raise BundleError(
            f"{error.name} is not installed", "the server needs FastAPI, uvicorn and prometheus-client", "run: pip install 'planish[serve]'"
        ) from error
    key = None if serving.public_key is None else serving.public_key.resolve()  # a replica has a working directory of its own
    models = open_models(bundles, serving.threads, key, monitoring.drift)
    for model in models:
        watch(f"{model.name} version {model.version}: {model.folder}, {model.bundle.runtime}")
    shares, reload_s = _shares(serving.canary), _RELOAD_S if serving.reload else None
    if serving.replicas is not None:
        from planish.serving.replicas import serve_replicas

        # a replica has a working directory of its own
        given = [f"{name}@{version}={folder.resolve()}" for (name, version), folder in named_bundles(bundles).items()]
        log, request_log = monitoring.log, monitoring.request_log
        request_log = replace(request_log, file=request_log.file and request_log.file.resolve())
        most = max(serving.threads or model.bundle.threads for model in models)

        def build() -> FastAPI:
            request_log.of_process(os.getpid()).start()
            _bound_memory()
            own = log if log.folder is None else replace(log, folder=log.folder.resolve() / f"replica-{os.getpid()}")
            opened = open_models(given, serving.threads, key, monitoring.drift)
            return service(opened, limits, shares=shares, reload_s=reload_s, recorder=Recorder(own, monitoring.watch_rate))

        watch(_listens(address, address.port))
        most_requests = limits.max_queue + max(limits.max_queue, limits.max_batch)  # above the service's own, so that Ray refuses none
        serve_replicas(build, address, replicas=serving.replicas, threads=most, max_requests=most_requests)
        return
    monitoring.request_log.start()
    _bound_memory()
    warnings.filterwarnings("ignore", module="PIL")  # each damaged file gives a new warning text, and Python would keep all of them
    config = uvicorn.Config(
        service(models, limits, shares=shares, reload_s=reload_s, recorder=Recorder(monitoring.log, monitoring.watch_rate)),
        http=Connection, loop="planish.serving.http.connection:Loop", ws="none", access_log=False, timeout_graceful_shutdown=_DRAIN_S,
        log_level="error",  # warnings are about invalid requests, one line each
        ssl_certfile=address.certificate, ssl_keyfile=address.certificate_key,
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:  # includes ssl.SSLError
        raise BundleError(
            f"{address.certificate} and {address.certificate_key}: {error}", "they are a certificate and its private key, PEM files"
        ) from error
    with _listening(address.host, address.port) as listener:
        watch(_listens(address, listener.getsockname()[1]))
        with contextlib.suppress(KeyboardInterrupt):  # raised after all requests are answered
            uvicorn.Server(config).run([listener])


def _listening(host: str, port: int) -> socket.socket:
    """Open the listening socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a response body waits 40 ms for the ACK of its head
        return listener
    except (OSError, OverflowError) as error:  # OverflowError: the port is above 65535
        raise BundleError(
            f"{host}:{port}: {getattr(error, 'strerror', None) or error}", "the server needs an address of this machine and a free port"
        ) from error


def named_bundles(bundles: Sequence[str | Path]) -> dict[tuple[str, str], Path]:
    """Return the folders of bundles by name and version; see ``serve``.

    Raises:
        BundleError: two bundles have the same name and version.
    """
    found: dict[tuple[str, str], Path] = {}
    for given in bundles:
        named = re.fullmatch(r"([\w.-]+)(?:@([\w.-]+))?=(.+)", str(given))
        folder = Path(named[3] if named else given)
        name, version = (named[1], named[2] or "1") if named else (re.sub(r"[^\w.-]", "-", folder.resolve().name), "1")
        if (name, version) in found:
            raise BundleError(
                f"two bundles are called {name} in version {version}", "each needs a name of its own", f"{name}@2={folder} for the second"
            )
        found[name, version] = bundle_folder(folder)
    return found


def open_models(
    bundles: Sequence[str | Path], threads: int | None = None, public_key: Path | None = None, drift: DriftSettings = DEFAULT_DRIFT
) -> list[ServedModel]:
    """Open the bundles to be served; see ``serve`` for how they are named."""
    return [ServedModel(name, version, folder, threads, public_key, drift) for (name, version), folder in named_bundles(bundles).items()]


def _listens(address: Address, port: int) -> str:
    """Return a message with the address and an example request. Also write the address to its file, if there is one."""
    if address.file is not None:
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
        address.file.parent.mkdir(parents=True, exist_ok=True)
        address.file.write_text(f"{address.url(port, here)}\n", encoding="utf-8")
    return f"listening on {address.url(port)}; try: curl --data-binary @photo.jpg {address.url(port)}/predict"


def _shares(canary: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the canary shares by name and version."""
    shares: dict[tuple[str, str], float] = {}
    for text in canary:
        given = re.fullmatch(r"([\w.-]+)@([\w.-]+)=(0?\.\d+|[01](?:\.0*)?)", text)
        if given is None:
            raise BundleError(
                f"a canary is given as {text!r}", "it is NAME@VERSION=SHARE, the share from 0 to 1", "for example shirts@2=0.1"
            )
        if (given[1], given[2]) in shares:
            raise BundleError(f"{given[1]}@{given[2]} is given two shares", "a version has one share", "give it once")
        shares[given[1], given[2]] = float(given[3])
    return shares


def _bound_memory() -> None:
    """Limit the memory of this process, which does nothing but serve.

    Pillow decompresses up to 64 MB of text chunks of a PNG before it decodes the pixels; they are not used here. And large freed
    blocks go back to the system: after three attacks 184 MB were in use instead of 523 MB.
    """
    PngImagePlugin.MAX_TEXT_MEMORY = _TEXT_BYTES
    return_large_blocks()

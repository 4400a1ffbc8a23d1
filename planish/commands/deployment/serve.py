"""HTTP service for bundles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from planish.commands.deployment.drift import Cycle, drift_settings
from planish.commands.options import at_least
from planish.errors import GoalError


def serve(
    bundles: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int | None = None,
    max_batch: int = 16,
    max_queue: int = 128,
    max_bytes: int = 16_000_000,
    max_pixels: int = 24_000_000,
    max_decoding_bytes: int = 256_000_000,
    timeout: float = 30.0,
    keys: str | Path | None = None,
    cors_origins: Annotated[Sequence[str], Parameter(name="--cors-origin")] = (),
    canary: Sequence[str] = (),
    reload: bool = False,
    watch_rate: float = 20.0,
    request_log: str | Path | None = None,
    request_log_bytes: int = 100_000_000,
    address_file: Annotated[str | Path | None, Parameter(env_var="PLANISH_ADDRESS_FILE")] = None,
    correlation: str | float = "60s",
    cycle: Cycle = "none",
    log: str | Path | None = None,
    log_bytes: int = 100_000_000,
    log_images: int = 0,
    log_image_bytes: int = 1_000_000_000,
    public_key: str | Path | None = None,
    tls_certificate: str | Path | None = None,
    tls_key: str | Path | None = None,
    ray: bool = False,
    replicas: int = 1,
    watch: Callable[[str], None] = lambda text: None,
) -> None:
    """Serve images over HTTP, also by KServe's V1 protocol and the Open Inference Protocol v2 (Triton); /metrics for Prometheus.

    /predict and /models/NAME/predict accept an image file as the body, a form with one or more files, or JSON with base64 or data URLs,
    optionally compressed with gzip or deflate; anything else is answered with status 415. /openapi.json describes the API. On SIGTERM or
    Ctrl-C, accepted requests are still answered.

    Args:
        bundles: Folders of bundles or runs; NAME=FOLDER or NAME@VERSION=FOLDER to name one.
        host: Address to listen on; 0.0.0.0 for all.
        port: Port to listen on; 0 for any free one.
        threads: Threads of the runtime per bundle; by default the number it was measured with.
        max_batch: Maximum batch size.
        max_queue: Maximum number of queued images; further requests are answered with status 429.
        max_bytes: Maximum size of a request, in bytes.
        max_pixels: Maximum size of an image, in pixels.
        max_decoding_bytes: Maximum memory for images being decoded at the same time, in bytes.
        timeout: Seconds after which a request is answered with status 504.
        keys: File with one API key per line, one of which every request must carry; # starts a comment.
        cors_origins: Origin whose pages may send requests, such as https://example.com; may be repeated, '*' for all. None by default.
        canary: Share of the requests without a version that this version answers: shirts@2=0.1. May be repeated.
        reload: Replace a model when its folder contains a newer bundle.
        watch_rate: Maximum number of predictions per second that are checked for drift and logged.
        request_log: File for the request log, readable only by its owner; standard output by default.
        request_log_bytes: Maximum size of the request log, in bytes; the oldest lines are deleted first.
        address_file: File to write the address to, for a container's health check.
        correlation: Time after which two images from one source (header X-Source) are considered independent: 0, 60s, 10m.
        cycle: Regular variation, such as day and night, that is not drift; each cycle is tested at its end.
        log: Folder for logged predictions, for `planish monitor`.
        log_bytes: Maximum size of the prediction log, in bytes; the oldest lines are deleted first.
        log_images: Maximum number of image files kept beside the log; the oldest are deleted first.
        log_image_bytes: Maximum total size of these image files, in bytes.
        public_key: Public Ed25519 key, a PEM file: only bundles signed with it are served.
        tls_certificate: TLS certificate, a PEM file.
        tls_key: Private key of the TLS certificate, a PEM file.
        ray: Serve with Ray Serve, on this machine or on the cluster named by RAY_ADDRESS.
        replicas: Number of Ray Serve replicas; each loads all models.
        watch: Called with a line for each model that is served, and for warnings.

    Raises:
        BundleError: a bundle is damaged, two have the same name and version, the port is in use, or a library is missing.

    Example:
        $ planish serve runs/demo
        $ planish serve shirts=runs/demo shirts@2=runs/demo-2 --port 8080
        $ curl --data-binary @photo.jpg localhost:8000/predict
        $ curl -F a=@photo.jpg -F b=@other.jpg localhost:8000/predict
        $ (echo '{"image": "'; base64 photo.jpg; echo '"}') | curl -d @- localhost:8000/predict
        $ (echo '{"instances": [{"b64": "'; base64 photo.jpg; echo '"}]}') | curl -d @- localhost:8000/v1/models/NAME:predict
        $ gzip -c photo.bmp | curl -H "Content-Encoding: gzip" --data-binary @- localhost:8000/predict
    """
    # do not import training code: a service works without PyTorch
    from planish.serving.http.key_file import others_may_read, read_keys
    from planish.serving.limits import Limits
    from planish.serving.monitoring.recorder import LogSettings
    from planish.serving.monitoring.request_log import RequestLog
    from planish.serving.serve import serve as listen
    from planish.serving.settings import Address, MonitoringSettings, ServingSettings

    at_least(1, threads=threads, max_batch=max_batch, max_queue=max_queue, max_bytes=max_bytes, max_pixels=max_pixels, replicas=replicas)
    at_least(1, max_decoding_bytes=max_decoding_bytes, log_image_bytes=log_image_bytes)
    at_least(0.001, timeout=timeout, watch_rate=watch_rate)
    at_least(0, port=port, log_images=log_images)
    at_least(10_000, request_log_bytes=request_log_bytes)
    at_least(1_000_000, log_bytes=log_bytes)
    if replicas > 1 and not ray:
        raise GoalError("--replicas without --ray", "Ray Serve starts them", "add --ray")
    accepted = () if keys is None else read_keys(Path(keys))
    if keys is not None and others_may_read(Path(keys)):
        watch(f"Warning: other users of this machine can read {keys}; run: chmod 600 {keys}")
    listen(
        bundles,
        serving=ServingSettings(threads, tuple(canary), reload, _path(public_key), replicas if ray else None),
        address=Address(host, port, _path(tls_certificate), _path(tls_key), _path(address_file)),
        monitoring=MonitoringSettings(
            watch_rate,
            drift_settings(correlation, cycle),
            LogSettings(_path(log), log_bytes, log_images, log_image_bytes),
            RequestLog(_path(request_log), request_log_bytes),
        ),
        limits=Limits(max_batch, max_queue, max_bytes, max_pixels, max_decoding_bytes, timeout, accepted, tuple(cors_origins)),
        watch=watch,
    )


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)

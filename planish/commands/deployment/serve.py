"""Bundles over HTTP."""

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

    /predict, or /models/NAME/predict, takes an image file as the body, a form with one or more files, or JSON with base64 or data URLs;
    each also compressed with gzip or deflate. Other forms are answered 415. /openapi.json describes it all. Ends at SIGTERM or Ctrl-C, when
    accepted requests are answered.

    Args:
        bundles: Folders of bundles or runs; NAME=FOLDER or NAME@VERSION=FOLDER to name one.
        host: Address to listen on; 0.0.0.0 for all.
        port: 0 for any that is free.
        threads: Of the runtime, for each bundle; by default those it was measured with.
        max_batch: Largest batch size.
        max_queue: Images that may wait; beyond that requests are answered 429.
        max_bytes: Of a request.
        max_pixels: Of an image file.
        max_decoding_bytes: Of memory for all images that are decoded at a time.
        timeout: Seconds after which a request is answered 504.
        keys: A file: a key a line, one of which requests must have; # for comments.
        cors_origins: https://example.com: a site whose pages may send requests; may be repeated, '*' for all. By default none may.
        canary: NAME@VERSION=SHARE of the requests without a version: shirts@2=0.1. May be repeated.
        reload: Replace a model when its folder holds a newer bundle.
        watch_rate: At most that many predictions a second are watched for drift, and logged.
        request_log: File to log requests in, readable by its owner alone; by default they go to standard output.
        request_log_bytes: That this log may have; the oldest lines go first.
        address_file: File to write the address into, for a container's health check.
        correlation: Time after which two images of one source (header X-Source) are independent: 0, 60s, 10m.
        cycle: What comes back in each, as day and night do, is no drift. Judged at its end.
        log: Folder to log predictions in, for `planish monitor`.
        log_bytes: That the log may have; the oldest lines go first.
        log_images: Image files to keep beside the log; the oldest go first.
        log_image_bytes: That they may have together.
        public_key: PEM file: only bundles are served that the owner of this key signed.
        tls_certificate: PEM file.
        tls_key: PEM file.
        ray: As replicas in Ray Serve, here or in the cluster RAY_ADDRESS names.
        replicas: Processes in Ray Serve, each with all models.
        watch: Called with a line for each model that is served, and for warnings.

    Raises:
        BundleError: a bundle is damaged, two have one name and version, the port is taken, or a library is missing.

    Example:
        $ planish serve runs/demo
        $ planish serve shirts=runs/demo shirts@2=runs/demo-2 --port 8080
        $ curl --data-binary @photo.jpg localhost:8000/predict
        $ curl -F a=@photo.jpg -F b=@other.jpg localhost:8000/predict
        $ (echo '{"image": "'; base64 photo.jpg; echo '"}') | curl -d @- localhost:8000/predict
        $ (echo '{"instances": [{"b64": "'; base64 photo.jpg; echo '"}]}') | curl -d @- localhost:8000/v1/models/NAME:predict
        $ gzip -c photo.bmp | curl -H "Content-Encoding: gzip" --data-binary @- localhost:8000/predict
    """
    # not by way of what trains: a service has no use for PyTorch
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

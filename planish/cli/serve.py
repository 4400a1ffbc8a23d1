"""The command that puts bundles on a port."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planish.cli.options import Correlation, Cycle, Debug, drift_settings
from planish.cli.running import fail, running, stderr, stdout


def serve(
    bundles: Annotated[
        list[str], typer.Argument(metavar="BUNDLE...", help="Folders of bundles or runs; NAME=FOLDER or NAME@VERSION=FOLDER to name one.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the runtime, for each bundle; by default those it was measured with.")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch size.")] = 16,
    max_queue: Annotated[int, typer.Option(min=1, help="Images that may wait; beyond that requests are answered 429.")] = 128,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 16_000_000,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of an image file.")] = 24_000_000,
    max_decoding_bytes: Annotated[int, typer.Option(min=1, help="Of memory for all images that are decoded at a time.")] = 256_000_000,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which a request is answered 504.")] = 30.0,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", exists=True, dir_okay=False, help="A file: a key a line, one of which requests must bring; # for comments."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="https://example.com: a site whose pages may ask; repeat it for several, '*' for all. By default none may."),
    ] = None,
    canary: Annotated[
        list[str] | None,
        typer.Option(help="NAME@VERSION=SHARE of the requests without a version; shirts@2=0.1."),
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Exchange a model when its folder holds a newer bundle.")] = False,
    watch_rate: Annotated[
        float, typer.Option(min=0.001, help="At most that many predictions a second are looked at for drift, and logged.")
    ] = 20.0,
    request_log: Annotated[
        Path | None, typer.Option(help="File to log requests in, readable by its owner alone; by default they go to standard output.")
    ] = None,
    request_log_bytes: Annotated[int, typer.Option(min=10_000, help="That this log may have; the oldest lines go first.")] = 100_000_000,
    address_file: Annotated[
        Path | None, typer.Option(envvar="PLANISH_ADDRESS_FILE", help="File to write the address into, for a container's health check.")
    ] = None,
    correlation: Correlation = "60s",
    cycle: Cycle = "none",
    log: Annotated[Path | None, typer.Option(help="Folder to log predictions in, for planish monitor.")] = None,
    log_bytes: Annotated[int, typer.Option(min=1_000_000, help="That the log may have; the oldest lines go first.")] = 100_000_000,
    log_images: Annotated[int, typer.Option(min=0, help="Image files to keep beside the log; the oldest go first.")] = 0,
    public_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="PEM file: only bundles are served that the owner of this key signed.")
    ] = None,
    log_image_bytes: Annotated[int, typer.Option(min=1, help="That they may have together.")] = 1_000_000_000,
    certificate: Annotated[Path | None, typer.Option("--tls-certificate", exists=True, dir_okay=False, help="PEM file.")] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", exists=True, dir_okay=False, help="PEM file.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="As replicas in Ray Serve, here or in the cluster RAY_ADDRESS names.")] = False,
    replicas: Annotated[int, typer.Option(min=1, help="Processes in Ray Serve, each with all models.")] = 1,
    debug: Debug = False,
) -> None:
    """Answer images over HTTP, also by KServe's V1 protocol and the Open Inference Protocol v2 (Triton); /metrics for Prometheus.

    /predict, or /models/NAME/predict, takes an image file as the body, a form with one or more files, or JSON with base64 or data URLs;
    each also compressed with gzip or deflate. What is sent in another form is answered 415. /openapi.json describes it all.

    \b
    curl --data-binary @photo.jpg localhost:8000/predict
    curl -F a=@photo.jpg -F b=@other.jpg localhost:8000/predict
    (echo '{"image": "'; base64 photo.jpg; echo '"}') | curl -d @- localhost:8000/predict
    (echo '{"instances": [{"b64": "'; base64 photo.jpg; echo '"}]}') | curl -d @- localhost:8000/v1/models/NAME:predict
    gzip -c photo.bmp | curl -H "Content-Encoding: gzip" --data-binary @- localhost:8000/predict
    """
    with running(debug=debug):
        if replicas > 1 and not ray:
            fail("--replicas has no meaning without --ray, which starts them.")
        from planish.serving.http.key_file import others_may_read, read_keys
        from planish.serving.monitoring.recorder import LogSettings
        from planish.serving.monitoring.request_log import RequestLog
        from planish.serving.serve import serve as listen  # planish.commands would bring torch, which a service has no use for

        if keys is not None and others_may_read(keys):
            stderr.print(f"Warning: other users of this machine can read {keys}; run: chmod 600 {keys}", soft_wrap=True)
        listen(
            bundles,
            host=host,
            port=port,
            threads=threads,
            max_batch=max_batch,
            max_queue=max_queue,
            max_bytes=max_bytes,
            max_pixels=max_pixels,
            max_decoding_bytes=max_decoding_bytes,
            timeout_s=timeout,
            keys=() if keys is None else read_keys(keys),
            cors_origins=tuple(cors_origin or ()),
            canary=canary or (),
            reload=reload,
            watch_rate=watch_rate,
            request_log=RequestLog(request_log, request_log_bytes),
            address_file=address_file,
            public_key=public_key,
            drift=drift_settings(correlation, cycle),
            log=LogSettings(log, log_bytes, log_images, log_image_bytes),
            certificate=certificate,
            certificate_key=key,
            replicas=replicas if ray else None,
            watch=lambda text: stdout.print(text, soft_wrap=True),
        )

"""The service as Ray Serve replicas: several processes, on one machine or a cluster, behind one port."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from planish.errors import BundleError
from planish.serving.settings import Address

if TYPE_CHECKING:
    from fastapi import FastAPI

_NAME = "planish"


def serve_replicas(
    build: Callable[[], FastAPI],
    address: Address,
    *,
    replicas: int,
    threads: int,
    max_requests: int,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C, in the cluster given by ``RAY_ADDRESS``, or else in a new local cluster.

    Ray assigns each request to a replica; limits and ``/metrics`` are those of the replica that answers.

    Args:
        build: makes the application, in the process of each replica; the files that it reads must have the same paths on every machine.
        address: where Ray listens.
        replicas: number of processes, each with all models.
        threads: CPU cores that Ray reserves for each replica.
        max_requests: maximum number of concurrent requests that Ray sends to a replica.

    Raises:
        BundleError: Ray Serve is not installed.
    """
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise BundleError(f"{error.name} is not installed", "replicas need Ray Serve", "run: pip install 'planish[ray]'") from error
    ray.init(include_dashboard=False)
    # replaces Ray's own handler, which exits at once: SIGTERM acts like Ctrl-C, and replicas finish what they accepted
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tls = {"ssl_certfile": str(address.certificate), "ssl_keyfile": str(address.certificate_key)} if address.certificate else {}
    serve.start(http_options={"host": address.host, "port": address.port, **tls})
    deployment = serve.deployment(
        serve.ingress(build)(),
        name=_NAME,
        num_replicas=replicas,
        max_ongoing_requests=max_requests,
        ray_actor_options={"num_cpus": threads},
    )
    try:
        serve.run(deployment.bind(), name=_NAME, blocking=True)
    finally:
        serve.delete(_NAME)  # only this application: the cluster may serve others as well

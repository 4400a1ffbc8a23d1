"""Ray Serve: ``python -m benchmarks.serving_peer_apps.ray BUNDLE PORT BATCH``."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

from benchmarks.serving_peer_apps import MAX_PIXELS, WAIT_S, named
from planish.serving.model import ServedModel


def main(bundle: Path, port: int, batch: int) -> None:
    @serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
    class Api:
        """Image bytes in, a class name out."""

        def __init__(self) -> None:
            self.served = ServedModel("served", "1", bundle, threads=1)

        @serve.batch(max_batch_size=batch, batch_wait_timeout_s=WAIT_S)
        async def classes(self, pixels: list[Any]) -> list[str]:
            return await asyncio.to_thread(named, self.served, pixels)

        async def __call__(self, request: Request) -> dict[str, str]:
            pixels, _region = await asyncio.to_thread(self.served.pixels, await request.body(), MAX_PIXELS)
            return {"class": (await self.classes(pixels))}

    quiet = LoggingConfig(enable_access_log=False, log_level="ERROR")
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=2)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
    serve.run(Api.bind(), route_prefix="/predict", logging_config=quiet)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3]))

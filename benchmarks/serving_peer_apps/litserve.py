"""LitServe: ``python -m benchmarks.serving_peer_apps.litserve BUNDLE PORT BATCH``."""

# no postponed annotations: LitServe reads them
import sys
from pathlib import Path
from typing import Annotated, Any

import litserve as ls
from fastapi import Body

from benchmarks.serving_peer_apps import MAX_PIXELS, WAIT_S, named
from planish.serving.model import ServedModel


class Api(ls.LitAPI):
    """Image bytes in, a class name out."""

    bundle: Path

    def setup(self, device: str) -> None:
        self.served = ServedModel("served", "1", self.bundle, threads=1)

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Any:
        return self.served.pixels(request, MAX_PIXELS)[0]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return list(inputs)

    def predict(self, x: list[Any]) -> list[str]:
        return named(self.served, x)

    def unbatch(self, output: list[str]) -> list[str]:
        return output

    def encode_response(self, output: str) -> dict[str, str]:
        return {"class": output}


if __name__ == "__main__":
    api = Api(max_batch_size=int(sys.argv[3]), batch_timeout=WAIT_S)
    api.bundle = Path(sys.argv[1]).resolve()
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, log_level="warning", generate_client_file=False)

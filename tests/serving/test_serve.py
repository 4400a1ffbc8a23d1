"""The command, in a process of its own, and Triton's own client."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tritonclient.http as triton

if TYPE_CHECKING:
    from conftest import Served


@pytest.fixture
def served(bundle: Path, serve: Callable[..., Served]) -> Served:
    return serve(f"shapes={bundle}")


def test_tritons_client_works_unchanged(served: Served) -> None:
    client = triton.InferenceServerClient(served.address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("shapes")
    metadata = client.get_model_metadata("shapes")
    shape = metadata["inputs"][0]["shape"][1:]
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    together = client.infer("shapes", [given]).as_numpy("logits")
    for i in range(5):
        one = triton.InferInput("images", [1, *shape], "UINT8")
        one.set_data_from_numpy(images[i : i + 1], binary_data=False)
        asked = triton.InferRequestedOutput("logits", binary_data=False)
        alone = client.infer("shapes", [one], outputs=[asked], request_id=str(i))
        assert alone.as_numpy("logits")[0] == pytest.approx(together[i], abs=1e-4)


def test_an_answer_does_not_wait_for_an_acknowledgement(served: Served, bundle: Path) -> None:
    """Without TCP_NODELAY each takes 40 ms more on a connection that is kept."""
    data = next((bundle / "golden").glob("*.png")).read_bytes()
    connection, seconds = http.client.HTTPConnection("127.0.0.1", served.port), []
    for _ in range(30):
        begun = time.perf_counter()
        connection.request("POST", "/predict", data)
        connection.getresponse().read()
        seconds.append(time.perf_counter() - begun)
    assert sorted(seconds)[10] < 0.03

"""Whatever is sent is answered within seconds, never as an error of the service's own, and nothing of it stays in its memory."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import image_requests, raw_requests, tensor_requests

if TYPE_CHECKING:
    from conftest import Served

SECONDS = 60  # without an answer for so long it hangs; the service's own limits are far shorter
MEMORY = 60e6


def status(port: int, request: bytes) -> str:
    """Of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        try:
            connection.sendall(request)
        except ConnectionError:
            return "closed while sending"
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
        except (ConnectionError, http.client.BadStatusLine):
            return "closed without an answer"
        return str(answer.status)


def fuzz(strategy: st.SearchStrategy[Any], count: int, ask: Callable[[Any], None]) -> None:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=slow)(given(strategy)(ask))()


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nothing_that_is_sent_breaks_the_service(serve: Callable[..., Served], bundle: Path, count: int) -> None:
    served = serve(f"shapes={bundle}", "--max-bytes", 300_000, "--max-pixels", 1_000_000, "--timeout", 0.5)
    process, found = psutil.Process(served.process.pid), Counter[str]()

    def ask(request: bytes) -> None:
        answer = status(served.port, request)
        assert answer in {"200", "400", "404", "405", "413", "415", "431", "504"} or answer.startswith("closed"), (answer, request)
        found[answer] += 1

    kinds: list[tuple[float, st.SearchStrategy[Any]]] = [(0.4, image_requests()), (0.35, tensor_requests()), (0.25, raw_requests())]
    for _share, kind in kinds:
        fuzz(kind, 100, ask)
    before = process.memory_info().rss
    for share, kind in kinds:
        fuzz(kind, int(share * count), ask)
    after = process.memory_info().rss
    print(f"{found.total()} requests: {dict(found)}; memory {before / 1e6:.0f} -> {after / 1e6:.0f} MB")
    assert found["200"] > 0.1 * found.total()
    assert sum(number for answer, number in found.items() if answer.startswith("closed")) < 0.1 * found.total()
    assert after - before < MEMORY
    assert "Traceback" not in served.log.read_text()
    assert json.load(urllib.request.urlopen(f"http://{served.address}/v2/health/ready"))["ready"]

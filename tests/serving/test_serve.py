"""The command, in a process of its own: Triton's own client, and a stop that loses nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton


@pytest.fixture
def served(bundle: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "planish.cli", "serve", f"shapes={bundle}", "--port", str(port)]
    log = (tmp_path / "log").open("w+")  # a pipe that nobody reads would fill, and the service wait for it
    process = subprocess.Popen(command, stdout=log, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    address = f"127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://{address}/v2/health/ready", timeout=1)
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
        yield process, address
    finally:
        process.kill()
        process.wait()
        log.close()


def test_tritons_client_works_unchanged(served: tuple[subprocess.Popen[str], str]) -> None:
    client = triton.InferenceServerClient(served[1])
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


def test_sigterm_under_load_loses_no_request(served: tuple[subprocess.Popen[str], str], bundle: Path) -> None:
    """Each request is answered or not accepted: none is accepted and then dropped."""
    process, address = served
    data = next((bundle / "golden").glob("*.png")).read_bytes()
    answered, refused, lost = [], [], []

    def ask() -> None:
        while not refused and not lost:
            try:
                with urllib.request.urlopen(urllib.request.Request(f"http://{address}/predict", data), timeout=10) as answer:
                    answered.append(answer.status)
            except urllib.error.URLError as error:
                (refused if isinstance(error.reason, ConnectionRefusedError) else lost).append(error)
            except ConnectionResetError:  # still in the port's own queue when it was closed: never accepted
                refused.append(None)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)
    for client in clients:
        client.join()
    assert len(answered) > 20
    assert set(answered) == {200}
    assert not [error for error in lost if not isinstance(error.reason, ConnectionError)], lost

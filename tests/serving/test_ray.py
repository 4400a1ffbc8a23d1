"""Replicas in Ray Serve answer over HTTP what the plain service answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from planish.serving.http.app import service
from planish.serving.serve import open_models

pytest.importorskip("ray", reason="needs planish[ray]")


@pytest.mark.slow
def test_two_replicas_answer_as_one_service_and_end_with_sigterm(bundle: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "log").open("w+")
    command = [sys.executable, "-m", "planish.cli", "serve", f"shapes={bundle.name}", "--ray", "--replicas", "2", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--max-bytes", "5000"], stdout=log, stderr=log, cwd=bundle.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as ray,
            TestClient(service(open_models([f"shapes={bundle}"]))) as own,
        ):
            for _ in range(600):
                assert process.poll() is None, (tmp_path / "log").read_text()
                try:
                    if ray.get("/v2/health/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            assert ray.get("/v2/models/shapes").json() == own.get("/v2/models/shapes").json()
            for image in sorted((bundle / "golden").glob("*.png")):
                for path in ("/predict", "/models/shapes/predict?why=true"):
                    found, expected = (client.post(path, content=image.read_bytes()).json() for client in (ray, own))
                    assert found["class"] == expected["class"]
                    np.testing.assert_allclose(found["confidence"], expected["confidence"], atol=1e-5)
            assert ray.post("/predict", content=b"no image").status_code == 400
            assert ray.post("/predict", content=bytes(6000)).status_code == 413, "limits reach the replicas"
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/v2/health/live", timeout=5)
    finally:
        process.kill()
        process.wait()
        log.close()

"""A model that fails is seen to fail: counted, logged, not ready; and it is ready again when it works again."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from planish.export.bundle.folder import SEAL
from planish.files.workspace import replace_folder
from planish.serving import health
from planish.serving.http.app import service
from planish.serving.http.protocol import HEADER_LENGTH
from planish.serving.model import ServedModel
from planish.serving.serve import open_models

Outputs = dict[str, np.ndarray]


class Faulty:
    """Stands between a model and its runtime; what it does can be changed while the model is served."""

    def __init__(self, model: ServedModel) -> None:
        self.right = model.run
        self.does: Callable[[np.ndarray], Outputs] = self.right

    def __call__(self, images: np.ndarray) -> Outputs:
        return self.does(images)

    def fail(self, images: np.ndarray) -> Outputs:
        raise RuntimeError("the device is gone")

    def nan(self, images: np.ndarray) -> Outputs:
        return {name: np.full_like(values, np.nan) for name, values in self.right(images).items()}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "RECHECK_S", 0.05)


@pytest.fixture
def served(bundle: Path) -> Iterator[tuple[TestClient, Faulty]]:
    (model,) = open_models([f"shapes={bundle}"])
    faulty = Faulty(model)
    model.run = faulty  # type: ignore[method-assign]
    with TestClient(service([model])) as client:
        yield client, faulty


@pytest.fixture
def image(bundle: Path) -> bytes:
    return (bundle / "golden" / "000.png").read_bytes()


def count(client: TestClient, line: str) -> float:
    return next((float(row.rpartition(" ")[2]) for row in client.get("/metrics").text.splitlines() if row.startswith(line)), 0.0)


def failures(client: TestClient, reason: str) -> float:
    return count(client, f'planish_failures_total{{model="shapes",reason="{reason}",version="1"}}')


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "planish.serving" and record.levelno >= logging.ERROR]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("planish.serving"), "propagate", True)
    return caplog


def test_an_exception_of_the_runtime_is_counted_and_logged_and_readiness_follows(
    served: tuple[TestClient, Faulty], image: bytes, log: pytest.LogCaptureFixture
) -> None:
    client, faulty = served
    assert client.get("/v2/health/ready").json() == {"live": True, "ready": True}
    faulty.does = faulty.fail
    for _ in range(3):
        answer = client.post("/predict", content=image)
        assert (answer.status_code, "error" in answer.json()) == (500, True)
    assert failures(client, "runtime") >= 3
    assert count(client, 'planish_requests_total{model="shapes",status="500",version="1"}') == 3
    first = logged(log)[0]
    assert (first["model"], first["failure"], first["error"]) == ("shapes", "runtime", "RuntimeError: the device is gone")
    assert "in fail" in first["traceback"]
    assert sum("traceback" in line for line in logged(log)) == 1, "further ones within a minute have a line, no traceback"
    wait_until(lambda: client.get("/v2/health/ready").status_code == 503)
    assert client.get("/v2/health/live").status_code == 200
    said = client.get("/v2/models/shapes/ready")
    assert (said.status_code, said.json()["ready"]) == (503, False)
    assert said.json()["reason"]
    assert count(client, 'planish_ready{model="shapes",version="1"}') == 0
    faulty.does = faulty.right
    wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
    assert client.post("/predict", content=image).status_code == 200
    assert count(client, 'planish_ready{model="shapes",version="1"}') == 1


def test_outputs_that_are_no_numbers_are_a_failure_and_never_invalid_json(served: tuple[TestClient, Faulty], image: bytes) -> None:
    client, faulty = served
    shape = client.get("/v2/models/shapes").json()["inputs"][0]["shape"][1:]
    request: dict[str, Any] = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, *shape], "data": [7] * int(np.prod(shape))}]}
    path, reading = "/v2/models/shapes/infer", {"parameters": {"binary_data_output": True}}
    for value in (np.nan, np.inf, -np.inf):

        def wrong(images: np.ndarray, value: float = value) -> Outputs:
            outputs = {name: values.copy() for name, values in faulty.right(images).items()}
            outputs["logits"][:, -1] = value
            return outputs

        before = failures(client, "not_finite")
        faulty.does = wrong
        assert client.post("/predict", content=image).status_code == 500
        in_json = client.post(path, json=request)
        json.loads(in_json.content, parse_constant=lambda token: pytest.fail(f"{token} is not JSON"))
        assert in_json.status_code == 500
        binary = client.post(path, json=request | reading)
        assert binary.status_code == 200
        found = np.frombuffer(binary.content[int(binary.headers[HEADER_LENGTH]) :], np.float32)
        np.testing.assert_equal(found[-1], np.float32(value))
        assert failures(client, "not_finite") >= before + 3


def test_requests_that_make_the_model_fail_do_not_take_it_from_others(served: tuple[TestClient, Faulty], image: bytes) -> None:
    """The sample still gives its answer, so that the model is ready again by itself."""
    client, faulty = served
    sample = faulty.right.__self__.sample  # type: ignore[attr-defined]

    def fails_on_others(images: np.ndarray) -> Outputs:
        return faulty.right(images) if np.array_equal(images, sample) else faulty.fail(images)

    faulty.does = fails_on_others
    other = next(data for data in _golden_files(client) if data != image)
    for _ in range(5):
        assert client.post("/predict", content=other).status_code == 500
    wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
    assert client.post("/predict", content=image).status_code == 200
    assert failures(client, "runtime") == 5


def _golden_files(client: TestClient) -> list[bytes]:
    import io

    from PIL import Image

    shape = client.get("/v2/models/shapes").json()["inputs"][0]["shape"][1:]
    found = []
    for value in (0, 200):
        file = io.BytesIO()
        Image.fromarray(np.full(shape[:2], value, np.uint8)).save(file, "PNG")
        found.append(file.getvalue())
    return found


def test_a_model_that_begins_to_answer_otherwise_is_not_ready(bundle: Path) -> None:
    """Nothing raises and all is finite, but it is not what the sample's answer was."""
    (model,) = open_models([f"shapes={bundle}"])
    right = model.run
    model.run = lambda images: {name: 2 * values + 1 for name, values in right(images).items()}  # type: ignore[method-assign]
    with TestClient(service([model])) as client:
        assert client.get("/v2/health/ready").status_code == 503
        assert failures(client, "wrong_answer") == 1
        assert "changed" in client.get("/v2/models/shapes/ready").json()["reason"]


def resealed(folder: Path) -> Path:
    """The bundle with the hashes of what it holds now."""
    described = json.loads((folder / "bundle.json").read_text())
    described["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in described["sha256"]}
    (folder / "bundle.json").write_text(json.dumps(described))
    (folder / SEAL).write_text(hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest())
    return folder


@pytest.fixture
def confused(bundle: Path, other_bundle: Path, tmp_path: Path) -> Path:
    """A bundle with another one's model: whole by its hashes, wrong by its golden samples."""
    folder = Path(shutil.copytree(bundle, tmp_path / "confused"))
    shutil.copyfile(other_bundle / "model.onnx", folder / "model.onnx")
    return resealed(folder)


def test_a_bundle_that_does_not_give_its_golden_outputs_is_never_ready(confused: Path) -> None:
    with TestClient(service(open_models([f"shapes={confused}"]))) as client:
        assert client.get("/v2/health/ready").status_code == 503
        assert "golden samples" in client.get("/v2/models/shapes/ready").json()["reason"]


def test_a_reload_that_fails_is_logged_counted_and_tried_again(
    bundle: Path, other_bundle: Path, confused: Path, image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    mine = Path(shutil.copytree(bundle, tmp_path / "mine"))
    models = open_models([f"shapes={mine}"])
    attempts: list[float] = []

    def opens_at_last(*arguments: Any, **options: Any) -> ServedModel:
        attempts.append(time.monotonic())
        if len(attempts) < 4:
            raise (ValueError("protobuf"), MemoryError(), KeyError("x"))[len(attempts) - 1]
        return ServedModel(*arguments, **options)

    with TestClient(service(models, reload_s=0.02)) as client:
        old = client.post("/predict", content=image).json()
        refused = 'planish_reload_failures_total{model="shapes",version="1"}'
        replace_folder(mine, Path(shutil.copytree(confused, tmp_path / "next")))
        wait_until(lambda: count(client, refused) >= 1)
        assert "golden samples" in " ".join(record.message for record in log.records)
        assert client.post("/predict", content=image).json() == old
        before = count(client, refused)
        monkeypatch.setattr("planish.serving.models.ServedModel", opens_at_last)
        wait_until(lambda: bool(attempts))  # an attempt begun before would open the bundle that comes now
        replace_folder(mine, Path(shutil.copytree(other_bundle, tmp_path / "good")))
        wait_until(lambda: client.post("/predict", content=image).json() != old)
        assert count(client, refused) >= before + 3
        for kind in ("ValueError: protobuf", "MemoryError", "KeyError"):
            assert any(kind in record.message for record in log.records), kind
        pauses = np.diff(attempts)
        # the first attempt may have been one at the bundle before
        assert (pauses[1] >= 0.04, pauses[2] >= 0.08) == (True, True), "each pause is twice the last, at least"
        assert client.get("/v2/health/ready").status_code == 200


def test_a_fault_of_the_service_itself_is_counted(
    served: tuple[TestClient, Faulty], image: bytes, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    client, _faulty = served
    monkeypatch.setattr(ServedModel, "responses", lambda *arguments, **options: 1 / 0)
    assert client.post("/predict", content=image).status_code == 500
    assert failures(client, "error") == 1
    assert logged(log)[0]["error"] == "ZeroDivisionError: division by zero"
    assert client.get("/v2/health/ready").status_code == 200

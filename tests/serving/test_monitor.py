"""What a service logs, and what is made of it: drift that is there is found, none is invented, and what is logged stays bounded."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from planish.cli.app import app
from planish.errors import BundleError, DataError
from planish.export import ToOnnx
from planish.export.bundle import REFERENCE, SEAL, write_bundle
from planish.export.reference import image_values
from planish.serving.app import service
from planish.serving.drift import CLASSES, Drift
from planish.serving.labelling import worth_labelling
from planish.serving.monitor import monitor, records, tell
from planish.serving.recorder import IMAGES, LOG_FILE, LogSettings, Recorder
from planish.serving.serve import open_models
from planish.testing import write_shapes
from planish.training.prepare import Job, prepare

WEEK = 604_800
MONDAY = 4 * 86_400 + 2_900 * WEEK


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return prepare(write_shapes(tmp_path_factory.mktemp("many-shapes"), per_class=150), "resnet8x0.5")


@pytest.fixture(scope="module")
def bundle(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched") / "shapes"
    exported = ToOnnx().apply(job.artifact, job.task)
    return write_bundle(exported, job.task, folder, runtime="onnxruntime", measurements={}, threads=1, batch=1, golden=4)


def _values(job: Job, bundle: Path, darker: float = 1.0) -> list[dict[str, float]]:
    """What is said of each test image, made darker."""
    model = open_models([bundle])[0]
    split = job.task.split("test")
    images = (split.images(model.bundle.input_spec, model.bundle.preprocessing) * darker).astype(np.uint8)
    outputs = model.run(images)
    return image_values(model.bundle.name, model.bundle.class_names, images, outputs, [split.file_bytes(i) for i in range(len(split))])


def _write(folder: Path, bundle: Path, found: list[dict[str, float]], start: float = MONDAY) -> None:
    folder.mkdir(exist_ok=True)
    head = {"model": bundle.name, "version": "1", "bundle": (bundle / SEAL).read_text()[:12], "seconds": 0.004}
    with (folder / LOG_FILE).open("a") as file:
        for number, values in enumerate(found):
            file.write(json.dumps(head | {"time": start + number} | values) + "\n")


def test_a_log_without_drift_is_quiet_and_darker_images_are_named(job: Job, bundle: Path, tmp_path: Path) -> None:
    _write(tmp_path / "same", bundle, _values(job, bundle))
    _write(tmp_path / "dark", bundle, _values(job, bundle, darker=0.5))
    (same,), (dark,) = monitor(tmp_path / "same", [bundle]), monitor(tmp_path / "dark", [bundle])
    assert same.drifted == []
    assert same.images == len(job.task.split("test"))
    assert same.latency_ms == pytest.approx((4, 4))
    assert "brightness" in dark.drifted
    assert "no drift" in same.verdict
    assert "brightness" in dark.verdict


def test_each_week_is_judged_anew(job: Job, bundle: Path, tmp_path: Path) -> None:
    _write(tmp_path, bundle, _values(job, bundle, darker=0.5))
    _write(tmp_path, bundle, _values(job, bundle), start=MONDAY + WEEK)
    (found,) = monitor(tmp_path, [bundle])
    assert found.drifted == []
    assert found.images == len(job.task.split("test"))
    assert found.since == "2025-08-11T00:00:00+00:00"
    assert date.fromisoformat(found.since[:10]).weekday() == 0


def test_what_another_bundle_said_is_not_held_against_this_one(job: Job, bundle: Path, tmp_path: Path) -> None:
    _write(tmp_path, bundle, [one | {"bundle": "other"} for one in _values(job, bundle, darker=0.5)])
    (found,) = monitor(tmp_path, [bundle])
    assert (found.images, found.drifted, found.others) == (0, [], len(job.task.split("test")))


def test_a_class_that_no_longer_comes_is_named(tmp_path: Path) -> None:
    (tmp_path / REFERENCE).write_text(json.dumps({"values": {}, "classes": {"cat": 200, "dog": 300, "hen": 500}}))
    drift = Drift(tmp_path)
    for number in range(600):
        drift.add({}, ["cat", "hen", "hen"][number % 3], MONDAY)
    (found,) = drift.findings()
    assert (found.of, found.drifted, found.words) == (CLASSES, True, "dog: 30 % → 0 %")


def test_lines_that_were_cut_off_are_passed_over(job: Job, bundle: Path, tmp_path: Path) -> None:
    _write(tmp_path, bundle, _values(job, bundle)[:3])
    with (tmp_path / LOG_FILE).open("a") as file:
        file.write('{"time": 3, "mod\nnull\n[1]\n\n')
    assert len(list(records(tmp_path))) == 3


def test_a_log_needs_a_bundle_and_a_folder(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a log without a bundle"):
        monitor(tmp_path)
    with pytest.raises(DataError, match="planish serve --log"):
        monitor(tmp_path, [bundle])
    with pytest.raises(DataError, match="does not answer"):
        monitor("http://127.0.0.1:9")


def _file(job: Job, index: int, brightness: float = 1.0) -> bytes:
    image = Image.open(io.BytesIO(job.task.split("test").file_bytes(index))).convert("RGB").point(lambda value: int(value * brightness))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _served(bundle: Path, log: LogSettings, files: list[bytes]) -> str:
    """What the metrics say after these files."""
    with TestClient(service(open_models([bundle]), recorder=Recorder(log, a_second=1e6))) as client:
        for number, data in enumerate(files, 1):
            assert client.post("/predict", content=data).status_code == 200
            # one after the other: what its thread is not ready for is passed over
            while f'planish_drift_images{{model="{bundle.name}",version="1"}} {number}.0' not in client.get("/metrics").text:
                time.sleep(0.002)
        return str(client.get("/metrics").text)


def test_the_service_sees_the_drift_that_its_log_tells_of(job: Job, bundle: Path, tmp_path: Path) -> None:
    files = [_file(job, index % len(job.task.split("test")), 0.4) for index in range(40)]
    metrics = _served(bundle, LogSettings(tmp_path), files)
    (found,) = monitor(tmp_path, [bundle])
    assert found.images == 40
    assert "brightness" in found.drifted
    shown = {
        line.split('of="')[1].split('"')[0] for line in metrics.splitlines() if line.startswith("planish_drift{") and line.endswith(" 1.0")
    }
    assert shown == set(found.drifted)


def test_the_log_and_its_images_stay_bounded(job: Job, bundle: Path, tmp_path: Path) -> None:
    files = [_file(job, index % len(job.task.split("test")), 1 - index / 100) for index in range(60)]
    _served(bundle, LogSettings(tmp_path, bytes=10_000, images=7), files)
    written = list(tmp_path.glob(f"{LOG_FILE}*"))
    assert 2 <= len(written) <= 5
    assert sum(file.stat().st_size for file in written) <= 10_000
    kept = {path.read_bytes() for path in (tmp_path / IMAGES).iterdir()}
    assert kept == set(files[-7:])
    times = [record["time"] for record in records(tmp_path)]
    assert times == sorted(times), "the oldest file is read first"


def test_images_most_worth_a_label_are_the_least_sure_of_every_class(job: Job, bundle: Path, tmp_path: Path) -> None:
    _served(bundle, LogSettings(tmp_path / "log", images=100), [_file(job, index) for index in range(len(job.task.split("test")))])
    count = worth_labelling(tmp_path / "log", tmp_path / "out", 5)
    with (tmp_path / "out" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert count == len(rows) == 5
    assert all(row["label"] == "" for row in rows), "the model's own guess is no label"
    assert {Image.open(tmp_path / "out" / row["path"]).format for row in rows} == {"PNG"}
    logged = list(records(tmp_path / "log"))
    for name in {record["class"] for record in logged}:
        least = max((record for record in logged if record["class"] == name), key=lambda record: record["entropy"])
        assert f"{least['confidence']:.3f}" in [row["confidence"] for row in rows if row["predicted"] == name]
    with pytest.raises(BundleError, match="not overwritten"):
        worth_labelling(tmp_path / "log", tmp_path / "out", 5)
    _served(bundle, LogSettings(tmp_path / "without"), [_file(job, 0)])
    with pytest.raises(DataError, match="--log-images"):
        worth_labelling(tmp_path / "without", tmp_path / "none", 5)


def test_predictions_that_wait_to_be_looked_at_do_not_fill_the_memory(
    job: Job, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the thread is busy only so many bytes are taken in; afterwards there is room again."""
    (model,), going, looked = open_models([bundle]), threading.Event(), list[int]()
    recorder = Recorder(LogSettings(), a_second=1e9)
    monkeypatch.setattr(recorder, "_look", lambda one: (going.wait(), looked.append(one.bytes)))
    pixels = np.zeros((1, *model.input_shape), np.uint8)
    large = {"logits": np.zeros((1, 6_000_000), np.float32)}  # 24 MB

    def offer(times: int) -> None:
        for _ in range(times):
            recorder.offer(model, pixels, large, 0.1)
            time.sleep(0.001)

    offer(10)
    going.set()
    while len(looked) < 2:
        time.sleep(0.01)
    offer(1)
    recorder.close()
    assert len(looked) == 3


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, object]]]]:
    told: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204 if self.path == "/ok" else 500)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", told
    server.shutdown()


def test_the_command_ends_with_1_and_tells_the_webhook(
    job: Job, bundle: Path, tmp_path: Path, hook: tuple[str, list[dict[str, object]]]
) -> None:
    address, told = hook
    _write(tmp_path / "same", bundle, _values(job, bundle))
    _write(tmp_path / "dark", bundle, _values(job, bundle, darker=0.5))
    run = CliRunner().invoke
    rules = tmp_path / "rules.yaml"
    quiet = run(app, ["monitor", str(tmp_path / "same"), str(bundle), "--webhook", f"{address}/ok", "--rules", str(rules)])
    assert (quiet.exit_code, told) == (0, []), quiet.output
    assert "planish_drift" in rules.read_text()
    loud = run(app, ["monitor", str(tmp_path / "dark"), str(bundle), "--webhook", f"{address}/ok", "--json"])
    assert loud.exit_code == 1, loud.output
    assert "brightness" in str(told[0]["text"])
    assert any(one["of"] == "brightness" and one["drifted"] for one in json.loads(loud.stdout)[0]["findings"])
    for wrong in (f"{address}/no", "file:///etc/passwd", "not an address"):
        with pytest.raises(DataError, match="was not told"):
            tell(monitor(tmp_path / "dark", [bundle]), wrong)

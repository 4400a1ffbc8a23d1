"""What a service logs, and what is made of it: drift that is there is found, none is invented, and what is logged stays bounded."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import time
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from planish.errors import BundleError, DataError
from planish.export import ToOnnx
from planish.export.bundle.folder import SEAL, write_bundle
from planish.export.bundle.reference import image_values
from planish.progress import collecting_notes
from planish.serving.http.app import service
from planish.serving.monitoring.drift import DriftSettings
from planish.serving.monitoring.labelling import find_label_candidates
from planish.serving.monitoring.monitor import monitor
from planish.serving.monitoring.recorder import LOG_FILE, LogSettings, Recorder
from planish.serving.monitoring.records import records
from planish.serving.serve import open_models
from planish.settings import DeploymentTarget, ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import Job, prepare_job

WEEK = 604_800
INDEPENDENT = DriftSettings(correlation_s=0)
MONDAY = 4 * 86_400 + 2_900 * WEEK


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return prepare_job(write_shapes(tmp_path_factory.mktemp("many-shapes"), per_class=150), ModelSettings("resnet8x0.5"))


@pytest.fixture(scope="module")
def bundle(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched") / "shapes"
    exported = ToOnnx().apply(job.artifact, job.task)
    return write_bundle(exported, job.task, folder, target=DeploymentTarget("onnxruntime"), measurements={}, golden=4)


def _values(job: Job, bundle: Path, darker: float = 1.0) -> list[dict[str, float]]:
    """What is said of each test image, made darker."""
    model = open_models([bundle])[0]
    split = job.task.split("test")
    images = (split.images(model.bundle.input_spec, model.bundle.preprocessing) * darker).astype(np.uint8)
    outputs = model.run(images)
    return image_values(model.bundle.task, model.bundle.class_names, images, outputs, [split.file_bytes(i) for i in range(len(split))])


def _write(folder: Path, bundle: Path, found: list[dict[str, float]], start: float = MONDAY) -> None:
    folder.mkdir(exist_ok=True)
    head = {"model": bundle.name, "version": "1", "bundle": (bundle / SEAL).read_text()[:12], "seconds": 0.004}
    with (folder / LOG_FILE).open("a") as file:
        for number, values in enumerate(found):
            file.write(json.dumps(head | {"time": start + number} | values) + "\n")


def test_a_log_without_drift_is_quiet_and_darker_images_are_named(job: Job, bundle: Path, tmp_path: Path) -> None:
    _write(tmp_path / "same", bundle, _values(job, bundle))
    _write(tmp_path / "dark", bundle, _values(job, bundle, darker=0.5))
    (same,), (dark,) = (
        monitor(tmp_path / "same", [bundle], settings=INDEPENDENT),
        monitor(tmp_path / "dark", [bundle], settings=INDEPENDENT),
    )
    assert same.drifted == []
    assert same.images == len(job.task.split("test"))
    assert same.latency_ms == pytest.approx((4, 4))
    assert "brightness" in dark.drifted
    assert "no drift" in same.verdict
    assert "brightness" in dark.verdict


def test_each_week_is_judged_anew(job: Job, bundle: Path, tmp_path: Path) -> None:
    _write(tmp_path, bundle, _values(job, bundle, darker=0.5))
    _write(tmp_path, bundle, _values(job, bundle), start=MONDAY + WEEK)
    (found,) = monitor(tmp_path, [bundle], settings=INDEPENDENT)
    assert found.drifted == []
    assert found.images == len(job.task.split("test"))
    assert found.since == "2025-08-11T00:00:00+00:00"
    assert date.fromisoformat(found.since[:10]).weekday() == 0


def test_lines_that_were_cut_off_are_passed_over(job: Job, bundle: Path, tmp_path: Path) -> None:
    _write(tmp_path, bundle, _values(job, bundle)[:3])
    good = (tmp_path / LOG_FILE).read_text().splitlines()[0]
    with (tmp_path / LOG_FILE).open("a") as file:
        file.write('{"time": 3, "mod\nnull\n[1]\n\n' + "[" * 100_000 + "\n")
        for wrong in ('"then"', "NaN", "1e300", "-5", "null"):
            file.write(re.sub('"time": [0-9.]+', f'"time": {wrong}', good) + "\n")
    assert len(list(records(tmp_path))) == 3
    (found,) = monitor(tmp_path, [bundle], settings=INDEPENDENT)
    assert found.images == 3


def test_replicas_logs_are_read_in_order_of_time(job: Job, bundle: Path, tmp_path: Path) -> None:
    """Else what the second replica logged would all be of a time that is over."""
    values = _values(job, bundle)[:20]
    for replica in range(2):
        (tmp_path / f"replica-{replica}").mkdir()
        for number in range(replica, 20, 2):
            _write(tmp_path / f"replica-{replica}", bundle, [values[number]], MONDAY + 3600 * number)
    assert [record["time"] for record in records(tmp_path)] == [MONDAY + 3600 * number for number in range(20)]
    (found,) = monitor(tmp_path, [bundle], settings=DriftSettings(correlation_s=1))
    assert found.images == 20
    assert 3 <= found.compared <= 14, "two in five, about"


def test_a_log_is_read_while_the_service_begins_a_new_file(job: Job, bundle: Path, tmp_path: Path) -> None:
    values = _values(job, bundle)
    _write(tmp_path, bundle, values[:2])
    (tmp_path / LOG_FILE).rename(tmp_path / f"{LOG_FILE}.1")
    _write(tmp_path, bundle, values[2:4], MONDAY + 10)
    reading = records(tmp_path)
    first = next(reading)
    (tmp_path / f"{LOG_FILE}.1").rename(tmp_path / f"{LOG_FILE}.2")
    (tmp_path / LOG_FILE).rename(tmp_path / f"{LOG_FILE}.1")
    assert [one["time"] - MONDAY for one in (first, *reading)] == [0, 1, 10, 11]


def test_a_log_needs_a_bundle_and_a_folder(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a log without a bundle"):
        monitor(tmp_path)
    with pytest.raises(DataError, match="planish serve --log"):
        monitor(tmp_path, [bundle], settings=INDEPENDENT)


def _file(job: Job, index: int, brightness: float = 1.0) -> bytes:
    image = Image.open(io.BytesIO(job.task.split("test").file_bytes(index))).convert("RGB").point(lambda value: int(value * brightness))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _served(bundle: Path, log: LogSettings, files: list[bytes]) -> str:
    """What the metrics say after these files."""
    with TestClient(service(open_models([bundle], drift=INDEPENDENT), recorder=Recorder(log, a_second=1e6))) as client:
        for number, data in enumerate(files, 1):
            assert client.post("/predict", content=data).status_code == 200
            # one after the other: what its thread is not ready for is passed over
            while f'planish_drift_images{{model="{bundle.name}",version="1"}} {number}.0' not in client.get("/metrics").text:
                time.sleep(0.002)
        return str(client.get("/metrics").text)


def test_the_service_sees_the_drift_that_its_log_tells_of(job: Job, bundle: Path, tmp_path: Path) -> None:
    files = [_file(job, index % len(job.task.split("test")), 0.4) for index in range(40)]
    metrics = _served(bundle, LogSettings(tmp_path), files)
    (found,) = monitor(tmp_path, [bundle], settings=INDEPENDENT)
    assert found.images == 40
    assert "brightness" in found.drifted
    shown = {
        line.split('of="')[1].split('"')[0] for line in metrics.splitlines() if line.startswith("planish_drift{") and line.endswith(" 1.0")
    }
    assert shown == set(found.drifted)


def test_images_most_worth_a_label_are_the_least_sure_of_every_class(job: Job, bundle: Path, tmp_path: Path) -> None:
    _served(bundle, LogSettings(tmp_path / "log", images=100), [_file(job, index) for index in range(len(job.task.split("test")))])
    count = find_label_candidates(tmp_path / "log", tmp_path / "out", 5)
    with (tmp_path / "out" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert count == len(rows) == 5
    assert all(row["label"] == "" for row in rows), "the model's own guess is no label"
    assert {Image.open(tmp_path / "out" / row["path"]).format for row in rows} == {"PNG"}
    logged = list(records(tmp_path / "log"))
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0, "for their owner alone, as in the log"
    for name in {record["class"] for record in logged}:
        least = max((record for record in logged if record["class"] == name), key=lambda record: record["entropy"])
        assert f"{least['confidence']:.3f}" in [row["confidence"] for row in rows if row["predicted"] == name]
    with pytest.raises(BundleError, match="not overwritten"):
        find_label_candidates(tmp_path / "log", tmp_path / "out", 5)
    _served(bundle, LogSettings(tmp_path / "without"), [_file(job, 0)])
    with pytest.raises(DataError, match="--log-images"):
        find_label_candidates(tmp_path / "without", tmp_path / "none", 5)


def test_the_source_of_an_image_is_logged(job: Job, bundle: Path, tmp_path: Path) -> None:
    with TestClient(service(open_models([bundle]), recorder=Recorder(LogSettings(tmp_path), a_second=1e6))) as client:
        assert client.post("/predict", content=_file(job, 0), headers={"X-Source": "camera 7" * 100}).status_code == 200
        assert client.post("/predict", content=_file(job, 0)).status_code == 200
    named, other = sorted(records(tmp_path), key=lambda record: "source" not in record)
    assert named["source"].startswith("camera 7")
    assert len(named["source"]) <= 100
    assert "source" not in other


def test_copies_and_packed_files_beside_a_log_are_named_and_not_read(bundle: Path, tmp_path: Path):
    log = tmp_path / "log"
    _write(log, bundle, [{"confidence": 0.5 + number / 100} for number in range(10)])
    text = (log / LOG_FILE).read_bytes()
    (log / f"{LOG_FILE}.1").write_bytes(text[: text.index(b"\n") + 1])
    for name, content in ((f"{LOG_FILE}.bak", text), (f"{LOG_FILE}.2.gz", gzip.compress(text)), (f"{LOG_FILE}~", text)):
        (log / name).write_bytes(content)
    with collecting_notes() as notes:
        assert len(list(records(log))) == 11
    assert any(f"3 files beside the log are left out, such as {log / LOG_FILE}.2.gz" in note for note in notes)

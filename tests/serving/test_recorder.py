"""What the recorder writes is bounded and for its owner alone, and what it passes over does not depend on the image."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.errors import DataError
from planish.serving.model import ServedModel
from planish.serving.monitoring.recorder import IMAGES, LOG_FILE, LogSettings, Recorder
from planish.serving.monitoring.records import records
from planish.serving.serve import open_models


@pytest.fixture(scope="module")
def model(bundle: Path) -> ServedModel:
    return open_models([bundle])[0]


@pytest.fixture(scope="module")
def files(bundle: Path) -> list[bytes]:
    """Different ones, all the same image."""
    png = next((bundle / "golden").glob("*.png")).read_bytes()
    return [png + bytes([number]) * 100 for number in range(60)]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def record(model: ServedModel, settings: LogSettings, files: list[bytes], pixels: Any = None, **given: Any) -> None:
    """All of them, whatever time it takes."""
    recorder = Recorder(settings, 1e9)
    pixels = np.zeros((1, *model.input_shape), np.uint8) if pixels is None else pixels
    outputs = model.run(pixels)
    for number, data in enumerate(files, 1):
        recorder.offer(model, pixels, outputs, 0.01, [data] * (data is not None), **given)
        deadline = time.monotonic() + 300
        while recorder._done < recorder._taken:
            assert time.monotonic() < deadline, f"prediction {number} was not looked at"
            time.sleep(0.0005)
    recorder.close()


def modes(folder: Path) -> set[str]:
    return {f"{path.stat().st_mode & 0o777:o}" for path in [folder, *folder.rglob("*")]}


def test_logs_and_images_are_for_their_owner_alone(model: ServedModel, files: list[bytes], tmp_path: Path) -> None:
    with umask(0o022):
        log = tmp_path / "log"
        log.mkdir()
        (log / IMAGES).mkdir()
        for older in (log / f"{LOG_FILE}.1", log / LOG_FILE, log / IMAGES / "older"):
            older.write_text("")  # of a service before
        record(model, LogSettings(log, bytes=10_000, images=5), files)
        record(model, LogSettings(tmp_path / "new", images=5), files[:2])
    assert len(list(log.glob(f"{LOG_FILE}*"))) > 2
    assert modes(log / IMAGES) == {"700", "600"}
    assert {f"{path.stat().st_mode & 0o777:o}" for path in log.glob(f"{LOG_FILE}*")} == {"600"}
    assert modes(tmp_path / "new") == {"700", "600"}


def test_log_and_images_stay_bounded(model: ServedModel, files: list[bytes], tmp_path: Path) -> None:
    record(model, LogSettings(tmp_path, bytes=10_000, images=7), files, source="Kamera äöü 東京")
    written = list(tmp_path.glob(f"{LOG_FILE}*"))
    assert 2 <= len(written) <= 5
    assert sum(file.stat().st_size for file in written) <= 10_000
    assert {path.read_bytes() for path in (tmp_path / IMAGES).iterdir()} == set(files[-7:])
    found = list(records(tmp_path))
    assert [one["time"] for one in found] == sorted(one["time"] for one in found), "the oldest file is read first"
    assert {one["source"] for one in found} == {"Kamera äöü 東京"}


def test_images_are_bounded_in_bytes_as_well(model: ServedModel, files: list[bytes], tmp_path: Path) -> None:
    bound = 5 * max(map(len, files))
    record(model, LogSettings(tmp_path, images=1000, image_bytes=bound), files)
    kept = [path.read_bytes() for path in (tmp_path / IMAGES).iterdir()]
    assert set(kept) == set(files[-len(kept) :])
    assert 4 <= len(kept) <= 6
    assert sum(map(len, kept)) <= bound
    record(model, LogSettings(tmp_path, images=1000, image_bytes=bound // 2), [])
    assert sum(path.stat().st_size for path in (tmp_path / IMAGES).iterdir()) <= bound // 2


def test_a_line_with_too_many_boxes_goes_without_them(tmp_path: Path) -> None:
    from planish.serving.monitoring.recorder import _LogFile

    log = _LogFile(tmp_path / LOG_FILE, 2000)
    for _ in range(30):
        log.write({"time": 1.0, "boxes": [{"class": "tree"}] * 500})
    assert json.loads((tmp_path / LOG_FILE).read_text().splitlines()[0]) == {"time": 1.0}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 10_000


def test_the_log_is_json_whatever_the_model_answers(model: ServedModel, files: list[bytes], tmp_path: Path) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def run(self, pixels: Any) -> Any:
            return {name: np.full_like(values, np.nan) for name, values in model.run(pixels).items()}

    record(Broken(), LogSettings(tmp_path), files[:1])

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    (line,) = (tmp_path / LOG_FILE).read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["confidence"] is None


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "log"):
        with pytest.raises(DataError, match="cannot be logged in"):
            Recorder(LogSettings(folder), 20)


def _decisions(model: ServedModel, monkeypatch: pytest.MonkeyPatch, size_of: Callable[[int], int]) -> list[int]:
    """Which of 40 images are taken while the recorder is busy, by their number."""
    recorder, going, looked = Recorder(LogSettings(), 1e9), threading.Event(), list[int]()
    monkeypatch.setattr(recorder, "_look", lambda one: (going.wait(), looked.append(int(one.source))))
    pixels = np.zeros((1, *model.input_shape), np.uint8)
    for number in range(40):
        recorder.offer(model, pixels, {"logits": np.zeros((1, 10), np.float32)}, 0.1, [bytes(size_of(number))], str(number))
        if not number:
            time.sleep(0.05)  # the first is under way
        time.sleep(0.001)
    going.set()
    recorder.close()
    return looked


def test_what_is_passed_over_does_not_depend_on_the_image(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images that wait behind the same others, the large ones are taken as the small ones are."""
    small = _decisions(model, monkeypatch, lambda number: 30_000_000 if number < 2 else 100)
    large = _decisions(model, monkeypatch, lambda number: 30_000_000 if number < 2 else 6_000_000 if number == 2 else 100)
    assert 2 in small
    assert 2 in large


def test_predictions_that_wait_do_not_fill_the_memory(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = _decisions(model, monkeypatch, lambda number: 24_000_000)
    assert len(taken) == 3, "64 MB, and the one that went beyond"


def test_a_clock_that_is_set_back_does_not_stop_the_log(model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, recorder, pixels = [2e9], Recorder(LogSettings(tmp_path), 1e9), np.zeros((1, *model.input_shape), np.uint8)
    monkeypatch.setattr("planish.serving.monitoring.recorder.time.time", lambda: clock[0])
    outputs = model.run(pixels)
    for clock[0] in (2e9, 1e9):
        recorder.offer(model, pixels, outputs, 0.01)
    recorder.close()
    assert [line["time"] for line in map(json.loads, (tmp_path / LOG_FILE).read_text().splitlines())] == [2e9, 1e9]

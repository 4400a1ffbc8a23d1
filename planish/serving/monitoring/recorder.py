"""Records predictions in the background: drift detection, and a line in the log for each prediction."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planish.errors import DataError
from planish.export.bundle.reference import CLASS, image_values
from planish.serving.monitoring.log_contents import SEAL_LENGTH
from planish.tasks.responses import detected_boxes

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels
    from planish.serving.model import ServedModel

_LOG = logging.getLogger("planish.serving")
LOG_FILE, IMAGES = "predictions.jsonl", "images"
SOURCE = "X-Source"  # header with the source of an image, such as a camera or user
_FILES = 5  # files of the log, including the current one
_WAITING, _WAITING_BYTES = 32, 64_000_000  # limits of the queue, in predictions and bytes; masks of many objects are large
_SOURCE_LENGTH = 100
_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700


@dataclass(frozen=True)
class LogSettings:
    """Where predictions are logged.

    Args:
        folder: folder of the log; None for no log.
        bytes: maximum total size of the log files; the oldest lines are deleted first.
        images: maximum number of image files of logged predictions that are kept; the oldest are deleted first.
        image_bytes: maximum total size of these image files.
    """

    folder: Path | None = None
    bytes: int = 100_000_000
    images: int = 0
    image_bytes: int = 1_000_000_000


NO_LOG = LogSettings()


@dataclass(frozen=True)
class _Prediction:
    """The answer to one request, with its input."""

    at: float
    model: ServedModel
    pixels: Pixels
    outputs: Outputs
    seconds: float
    files: Sequence[bytes]
    source: str

    @property
    def bytes(self) -> int:
        """Memory that it occupies."""
        return self.pixels.nbytes + sum(values.nbytes for values in self.outputs.values()) + sum(map(len, self.files))


class Recorder:
    """Processes predictions of a service in a background thread; predictions beyond its rate or capacity are skipped.

    Whether a prediction is skipped depends on the time and on the queue, never on the image, so that the recorded ones are
    representative for drift detection. Log files can be read by their owner only.

    Args:
        log: where predictions are logged.
        a_second: maximum number of images per second.

    Raises:
        DataError: the log's folder is not writable.
    """

    def __init__(self, log: LogSettings, a_second: float) -> None:
        self._pause, self._next = 1 / a_second, 0.0
        self._queue: queue.Queue[_Prediction | None] = queue.Queue(_WAITING)
        self._taken = self._done = 0  # bytes; each counter is updated by one thread only
        self._images: _KeptImages | None = None
        self._file: _LogFile | None = None
        if log.folder is not None:
            try:
                _make_private(log.folder)
                self._file = _LogFile(log.folder / LOG_FILE, log.bytes // _FILES)
                if log.images:
                    self._images = _KeptImages(log.folder / IMAGES, log.images, log.image_bytes)
            except OSError as error:
                raise DataError(
                    f"predictions cannot be logged in {log.folder}: {error.strerror}", "it is a folder that this user may write"
                ) from error
        self._thread = threading.Thread(target=self._work, name="planish-recorder", daemon=True)
        self._thread.start()

    def offer(
        self,
        model: ServedModel,
        pixels: Pixels,
        outputs: Outputs,
        seconds: float,
        files: Sequence[bytes] = (),
        source: str | None = None,
    ) -> None:
        """Queue the answer to a request if the rate and the queue allow it; returns at once.

        Args:
            model: the model.
            pixels: input, uint8 ``(N, H, W, C)``.
            outputs: outputs of the model.
            seconds: latency of the request.
            files: the N image files, if the request contained files.
            source: source of the images, such as a camera or user, if given; images of one source may resemble each other.
        """
        now = time.monotonic()  # the rate must not depend on a clock that may be set back
        if now < self._next or self._queue.full() or self._taken - self._done >= _WAITING_BYTES:
            return
        prediction = _Prediction(time.time(), model, pixels, outputs, seconds, files, (source or "")[:_SOURCE_LENGTH])
        self._next = now + self._pause * len(pixels)
        self._taken += prediction.bytes
        self._queue.put_nowait(prediction)

    def close(self) -> None:
        """Process the queued predictions, and stop."""
        self._queue.put(None)
        self._thread.join()
        if self._file is not None:
            self._file.close()

    def _work(self) -> None:
        while (prediction := self._queue.get()) is not None:
            try:
                self._look(prediction)
            except OSError as error:  # for example, a full disk
                _LOG.error("a prediction could not be recorded: %s", error.strerror)
            except Exception:  # recording must not stop the service
                _LOG.exception("a prediction could not be recorded")
            self._done += prediction.bytes

    def _look(self, one: _Prediction) -> None:
        bundle = one.model.bundle
        boxes = detected_boxes(bundle.task, one.outputs, bundle.class_names) if self._images is not None and one.files else []
        for i, seen in enumerate(image_values(bundle.task, bundle.class_names, one.pixels, one.outputs, one.files)):
            one.model.drift.add(seen, seen.get(CLASS), one.at, one.source)
            if self._file is None:
                continue
            line: dict[str, Any] = {
                "time": round(one.at, 3),
                "model": one.model.name,
                "version": one.model.version,
                "bundle": one.model.seal[:SEAL_LENGTH],
                "seconds": round(one.seconds, 5),
                **({"source": one.source} if one.source else {}),
                **{name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in seen.items()},
            }
            if self._images is not None and one.files:
                line["image"] = self._images.keep(one.files[i])
                if boxes[i]:
                    line["boxes"] = boxes[i]
            self._file.write(line)


class _LogFile(RotatingFileHandler):
    """Rotating files of JSON lines that only their owner can read.

    Args:
        file: the current file.
        most_bytes: maximum size of each file.
    """

    def __init__(self, file: Path, most_bytes: int) -> None:
        for older in file.parent.glob(f"{file.name}*"):
            older.chmod(_PRIVATE_FILE)
        super().__init__(file, maxBytes=most_bytes, backupCount=_FILES - 1, encoding="ascii", delay=True)

    def write(self, line: dict[str, Any]) -> None:
        """Write a line; a line that exceeds the size of a file is written without its boxes."""
        text = json.dumps(line)
        if len(text) + 1 >= self.maxBytes:
            text = json.dumps({name: value for name, value in line.items() if name != "boxes"})
        self.emit(logging.LogRecord("", logging.INFO, "", 0, text, None, None))

    def _open(self) -> TextIOWrapper:
        return TextIOWrapper(open(self.baseFilename, "ab", opener=_open_private), self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # the recorder logs it; by default, logging prints a traceback for every line if the disk is full


class _KeptImages:
    """A folder of the most recent image files, named by the hash of their content."""

    def __init__(self, folder: Path, most: int, most_bytes: int) -> None:
        _make_private(folder)
        folder.chmod(_PRIVATE_FOLDER)
        self._folder, self._most, self._most_bytes, self._new = folder, most, most_bytes, folder / ".new"
        self._new.unlink(missing_ok=True)
        found = sorted((path.stat().st_mtime, path.name, path.stat().st_size) for path in folder.iterdir())
        self._kept = deque((name, size) for _, name, size in found)
        self._bytes = sum(size for _, size in self._kept)
        self._trim()

    def keep(self, data: bytes) -> str:
        """Store an image file and return its name."""
        name = hashlib.sha256(data).hexdigest()[:20]
        if not (self._folder / name).exists():
            with open(self._new, "wb", opener=_open_private) as file:
                file.write(data)
            self._new.replace(self._folder / name)  # atomic
            self._kept.append((name, len(data)))
            self._bytes += len(data)
            self._trim()
        return name

    def _trim(self) -> None:
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            name, size = self._kept.popleft()
            (self._folder / name).unlink(missing_ok=True)
            self._bytes -= size


def _make_private(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, _PRIVATE_FILE)

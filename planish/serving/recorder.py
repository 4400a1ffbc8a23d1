"""What was predicted, looked at beside the requests: drift, and a line in the log for each."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

from planish.export.reference import CLASS, image_values
from planish.tasks.answers import boxes_told

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels
    from planish.serving.model import ServedModel

_LOG = logging.getLogger("planish.serving")
LOG_FILE, IMAGES = "predictions.jsonl", "images"
_FILES = 5  # that the log has, the one being written included
_WAITING, _WAITING_BYTES = 32, 64_000_000  # predictions; masks of many objects are large


@dataclass(frozen=True)
class LogSettings:
    """Where predictions are logged.

    Args:
        folder: of the log; None for none.
        bytes: that its files may have together; the oldest lines go first.
        images: of the logged ones how many image files are kept; the oldest go first.
    """

    folder: Path | None = None
    bytes: int = 100_000_000
    images: int = 0


NO_LOG = LogSettings()


@dataclass(frozen=True)
class _Prediction:
    at: float
    model: ServedModel
    pixels: Pixels
    outputs: Outputs
    seconds: float
    file_bytes: bytes | None

    @property
    def bytes(self) -> int:
        """Memory that it needs."""
        return self.pixels.nbytes + sum(values.nbytes for values in self.outputs.values()) + len(self.file_bytes or b"")


class Recorder:
    """Takes predictions from the service and looks at them in a thread of its own; more than it is to look at, or can, are passed over.

    Args:
        log: where to write them.
        a_second: at most that many are looked at.
    """

    def __init__(self, log: LogSettings, a_second: float) -> None:
        self._pause, self._next = 1 / a_second, 0.0
        self._queue: queue.Queue[_Prediction | None] = queue.Queue(_WAITING)
        self._taken = self._done = 0  # bytes, each counted by one thread alone
        self._images = None if log.folder is None or not log.images else _KeptImages(log.folder / IMAGES, log.images)
        self._file: RotatingFileHandler | None = None
        if log.folder is not None:
            log.folder.mkdir(parents=True, exist_ok=True)
            self._file = RotatingFileHandler(
                log.folder / LOG_FILE, maxBytes=log.bytes // _FILES, backupCount=_FILES - 1, encoding="utf-8", delay=True
            )
        self._thread = threading.Thread(target=self._work, name="planish-recorder", daemon=True)
        self._thread.start()

    def offer(self, model: ServedModel, pixels: Pixels, outputs: Outputs, seconds: float, file_bytes: bytes | None = None) -> None:
        """Take a request's answer in if there is time for it; returns at once.

        Args:
            model: that answered.
            pixels: uint8 ``(N, H, W, C)``.
            outputs: of the model.
            seconds: the request took.
            file_bytes: the image file, where that was sent.
        """
        now = time.time()
        if now < self._next or self._queue.full():
            return
        prediction = _Prediction(now, model, pixels, outputs, seconds, file_bytes)
        waiting = self._taken - self._done
        if waiting and waiting + prediction.bytes > _WAITING_BYTES:
            return
        self._next = now + self._pause * len(pixels)
        self._taken += prediction.bytes
        self._queue.put_nowait(prediction)

    def close(self) -> None:
        """Finish what was taken in."""
        self._queue.put(None)
        self._thread.join()
        if self._file is not None:
            self._file.close()

    def _work(self) -> None:
        while (prediction := self._queue.get()) is not None:
            try:
                self._look(prediction)
            except Exception:  # nobody's request may fail for it
                _LOG.exception("a prediction could not be recorded")
            self._done += prediction.bytes

    def _look(self, one: _Prediction) -> None:
        files = () if one.file_bytes is None else (one.file_bytes,)
        bundle = one.model.bundle
        boxes = boxes_told(bundle.name, one.outputs, bundle.class_names) if self._images is not None and files else []
        for i, seen in enumerate(image_values(bundle.name, bundle.class_names, one.pixels, one.outputs, files)):
            one.model.drift.add(seen, seen.get(CLASS), one.at)
            if self._file is None:
                continue
            line = {
                "time": round(one.at, 3),
                "model": one.model.name,
                "version": one.model.version,
                "bundle": one.model.seal[:12],
                "seconds": round(one.seconds, 5),
                **seen,
            }
            if self._images is not None and one.file_bytes is not None:
                line["image"] = self._images.keep(one.file_bytes)
                if boxes[i]:
                    line["boxes"] = boxes[i]
            text = json.dumps(line, ensure_ascii=False)
            self._file.emit(logging.LogRecord("", logging.INFO, "", 0, text, None, None))


class _KeptImages:
    """The newest files, named by what is in them."""

    def __init__(self, folder: Path, most: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._most = folder, most
        self._names = deque(path.name for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime))

    def keep(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()[:20]
        if not (self._folder / name).exists():
            (self._folder / name).write_bytes(data)
            self._names.append(name)
        while len(self._names) > self._most:
            (self._folder / self._names.popleft()).unlink(missing_ok=True)
        return name

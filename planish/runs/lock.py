"""One process at a time works on a run; and how long the last one was alive, if it was killed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planish.errors import BundleError
from planish.files.reading import DAMAGED

LOCK_FILE = "run.lock"
_BEAT_SECONDS = 1.0
_BYTES = 100


class RunLock:
    """Held from construction to ``release``, or to the end of the process, however it ends: the operating system takes it back.

    The file also says who holds it and how far its clock is, so that whoever goes on after a kill knows how much time was lost.

    Args:
        folder: of the run.

    Attributes:
        alive_until: what ``elapsed`` last said of the former holder, in seconds; 0 if there was none.

    Raises:
        BundleError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        import fcntl  # not on Windows, where what needs no run works all the same

        self._file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by the processes that are started
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(self._file).get("pid", "unknown")
            os.close(self._file)
            raise BundleError(
                f"{folder} is in use by the process {holder}", "one process at a time works on a run", "wait until it ends, or stop it"
            ) from None
        self.alive_until = float(_read(self._file).get("elapsed", 0.0))
        self._write(self.alive_until)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def keep_telling(self, elapsed: Callable[[], float]) -> None:
        """Write every second what ``elapsed()`` says, from a thread; until ``release``."""

        def tell() -> None:
            while not self._stop.wait(_BEAT_SECONDS):
                self._write(elapsed())

        self._thread = threading.Thread(target=tell, name="planish-alive", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let others work on the run; does nothing the second time."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        os.close(self._file)

    def _write(self, elapsed: float) -> None:
        text = json.dumps({"pid": os.getpid(), "elapsed": elapsed})
        os.pwrite(self._file, text.ljust(_BYTES).encode(), 0)


def check_unlocked(folder: Path) -> None:
    """See that nobody works on the run, before anything long is begun.

    Raises:
        BundleError: somebody does.
    """
    if (folder / LOCK_FILE).exists():
        RunLock(folder).release()


def _read(file: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(file, _BYTES, 0))
        return {"pid": int(found["pid"]), "elapsed": float(found["elapsed"])}
    except DAMAGED:  # new, or cut off with the power
        return {}

"""A lock that lets one process at a time work on a run, and records how long the last one was alive in case it was killed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from planish.errors import BundleError
from planish.files.reading import DAMAGED

LOCK_FILE = "run.lock"
_BEAT_SECONDS = 1.0
_BYTES = 100
_ALIVE_SECONDS = 60.0  # since the holder wrote last, after which its process id may be that of another program


class RunLock:
    """The lock of a run folder, held until ``release`` or the end of the process: the operating system frees it even after a kill.

    The lock file also contains the process id of the holder and its elapsed time, so that a run that is resumed after a kill can account
    for the time that was lost.

    Args:
        folder: folder of the run.

    Attributes:
        alive_until: last elapsed time that the previous holder wrote, in seconds; 0 if there was none.

    Raises:
        BundleError: another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        import fcntl  # not available on Windows; imported here so that everything that needs no run works there

        self._file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by child processes
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
        """Write the value of ``elapsed()`` to the lock file every second, from a thread, until ``release``."""

        def tell() -> None:
            while not self._stop.wait(_BEAT_SECONDS):
                self._write(elapsed())

        self._thread = threading.Thread(target=tell, name="planish-alive", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the lock; further calls do nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._write(float(_read(self._file).get("elapsed", 0.0)), pid=0)
        os.close(self._file)

    def _write(self, elapsed: float, pid: int | None = None) -> None:
        text = json.dumps({"pid": os.getpid() if pid is None else pid, "elapsed": elapsed})
        os.pwrite(self._file, text.ljust(_BYTES).encode(), 0)


def check_unlocked(folder: Path) -> None:
    """Check that no other process is working on the run, before long work begins.

    Raises:
        BundleError: another process is working on it.
    """
    if (folder / LOCK_FILE).exists():
        RunLock(folder).release()


def holder(folder: Path) -> int | None:
    """Return the process id of whoever works on a run; None if nobody does. The lock itself is not touched, so no run is in its way."""
    try:
        file = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        pid, beat = int(_read(file).get("pid", 0)), os.fstat(file).st_mtime
    finally:
        os.close(file)
    if not pid or time.time() - beat > _ALIVE_SECONDS:
        return None
    try:
        ended = psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return None if ended else pid


def _read(file: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(file, _BYTES, 0))
        return {"pid": int(found["pid"]), "elapsed": float(found["elapsed"])}
    except DAMAGED:  # a new file, or one truncated by a power failure
        return {}

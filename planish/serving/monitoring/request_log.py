"""The log of requests and failures: a line of JSON each, on standard output or in a file of bounded size."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

_FILES = 4  # that the log has, the one being written included


@dataclass(frozen=True)
class RequestLog:
    """Where requests are logged.

    Args:
        file: readable by its owner alone; None for standard output.
        max_bytes: that the file and the older ones beside it, ``FILE.1`` and so on, may have together; the oldest lines go first.
    """

    file: Path | None = None
    max_bytes: int = 100_000_000

    def of_process(self, number: int) -> RequestLog:
        """A log of its own for one of several processes."""
        return self if self.file is None else replace(self, file=self.file.with_name(f"{self.file.name}-{number}"))

    def start(self) -> None:
        """Write to it from now on, what was set before is replaced."""
        handler: logging.Handler
        if self.file is None:
            handler = logging.StreamHandler(sys.stdout)
        else:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handler = PrivateRotatingFile(self.file, maxBytes=self.max_bytes // _FILES, backupCount=_FILES - 1, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(message)s"))
        log = logging.getLogger("planish.serving")
        log.setLevel(logging.INFO)
        log.handlers, log.propagate = [handler], False


TO_STDOUT = RequestLog()


class PrivateRotatingFile(RotatingFileHandler):
    """A rotating file that only its owner can read, also where it was there before with other permissions."""

    def _open(self) -> Any:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.chmod(self.baseFilename, 0o600)
        return os.fdopen(descriptor, self.mode, encoding=self.encoding)

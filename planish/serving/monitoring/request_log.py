"""The log of requests and failures: one line of JSON each, on standard output or in files of bounded size."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

_FILES = 4  # files of the log, including the current one


@dataclass(frozen=True)
class RequestLog:
    """Where requests are logged.

    Args:
        file: log file, readable by its owner only; None for standard output.
        max_bytes: maximum total size of the file and its older versions, ``FILE.1`` and so on; the oldest lines are deleted first.
    """

    file: Path | None = None
    max_bytes: int = 100_000_000

    def of_process(self, number: int) -> RequestLog:
        """Return settings with a separate log file for one of several processes."""
        return self if self.file is None else replace(self, file=self.file.with_name(f"{self.file.name}-{number}"))

    def start(self) -> None:
        """Log to this destination from now on, instead of the previous one."""
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
    """A rotating log file that only its owner can read; permissions of an existing file are corrected."""

    def _open(self) -> Any:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.chmod(self.baseFilename, 0o600)
        return os.fdopen(descriptor, self.mode, encoding=self.encoding)

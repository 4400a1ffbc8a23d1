"""TensorBoard: event files in a folder, with a subfolder for each candidate."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

_FOLDER = "tensorboard"
_LONGEST = 60  # characters of a folder's name


class TensorBoardTracker:
    """Event files, with hyper-parameters of the job and of each candidate. TensorBoard stores no files, so only their paths are noted.

    Args:
        name: name of the job.
        place: folder for the folder of the job; None for ``tensorboard``.
        settings: hyper-parameters of the job.
    """

    def __init__(self, name: str, place: str | None, settings: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._new_writer = SummaryWriter
        self._folder = Path(place or _FOLDER) / f"{_folder_name(name)}-{datetime.now():%Y%m%d-%H%M%S}"
        self._writers: dict[str, Any] = {}
        self._described: defaultdict[str, dict[str, str]] = defaultdict(dict, {"": dict(settings)})
        self._newest: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._writer("")

    def describe(self, part: str, values: Mapping[str, str]) -> None:
        """Remember hyper-parameters, which are written at the end; long ones are text."""
        self._described[part] |= values

    def log(self, part: str, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer(part).add_scalar(name, value, step)
        self._newest[part] |= values

    def save(self, path: Path) -> None:
        """Note the path."""
        self._writer("").add_text(f"files/{path.name}", str(path.absolute()))

    def close(self, failed: bool) -> None:
        """Write hyper-parameters with the newest numbers, and close the files."""
        for part, writer in self._writers.items():
            described = {name: text for name, text in self._described[part].items() if text}
            if described and self._newest[part]:
                writer.add_hparams(described, {f"result/{name}": value for name, value in self._newest[part].items()}, run_name=".")
            writer.close()

    def _writer(self, part: str) -> Any:
        if part not in self._writers:
            self._writers[part] = self._new_writer(str(self._folder / _folder_name(part) if part else self._folder))
        return self._writers[part]


def _folder_name(name: str) -> str:
    """A name without characters that are special in paths; long ones are shortened, and get a hash that tells them apart."""
    plain = re.sub(r"[^\w.@+=-]+", "-", name).strip("-.") or "run"
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

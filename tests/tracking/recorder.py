"""A tracker that keeps everything, and one that breaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Recorder:
    """What a tracker was given, by part."""

    settings: dict[str, str] = field(default_factory=dict)
    logged: dict[str, list[tuple[int, dict[str, float]]]] = field(default_factory=dict)
    described: dict[str, dict[str, str]] = field(default_factory=dict)
    saved: list[Path] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)

    def describe(self, part: str, values: Mapping[str, str]) -> None:
        self.described.setdefault(part, {}).update(values)

    def log(self, part: str, values: Mapping[str, float], step: int) -> None:
        self.logged.setdefault(part, []).append((step, dict(values)))

    def save(self, path: Path) -> None:
        self.saved.append(path)

    def close(self, failed: bool) -> None:
        self.closed.append(failed)

    def series(self, part: str, name: str) -> list[tuple[int, float]]:
        return [(step, values[name]) for step, values in self.logged[part] if name in values]


@dataclass
class Broken(Recorder):
    """Raises from the third number on, as a server that went away."""

    calls: int = 0

    def log(self, part: str, values: Mapping[str, float], step: int) -> None:
        self.calls += 1
        if self.calls >= 3:
            raise ConnectionError("the server went away")
        super().log(part, values, step)

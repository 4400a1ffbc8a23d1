"""The runs below a folder: finished, running, and stopped ones, as their files describe them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from planish.errors import PlanishError
from planish.files.reading import DAMAGED
from planish.runs.live import LIVE_FILE
from planish.runs.lock import holder
from planish.runs.store import STORE_FILE
from planish.search.result import CandidateResult, Result

State = Literal["finished", "running", "stopped"]
_DEEPEST = 4  # folders below the one that is searched
_MOST = 500
_NO_RUNS = ("work", "bundle", "node_modules")


@dataclass(frozen=True)
class Dot:
    """A candidate in a plot.

    Args:
        name: its summary and runtime.
        speed_up: how many times as fast as the original.
        drop: of the primary metric on validation; None if it was not measured.
        size: bytes of the file; None if it was not exported.
        state: the last stage it reached, or why it was stopped.
        chosen: whether it ships.
        original: whether it is the original.
    """

    name: str
    speed_up: float
    drop: float | None
    size: float | None
    state: str
    chosen: bool = False
    original: bool = False


@dataclass(frozen=True)
class RunSummary:
    """A run folder.

    Args:
        id: its path below the folder that was searched.
        path: its path.
        state: whether it is finished, running, or was stopped before its end.
        created: date and time of the result, ISO 8601; empty if there is none.
        command: command line that started it; empty if unknown.
        started_in: folder in which it was started; empty if unknown.
        verdict: of the result; empty if there is none.
        goal_met: whether the result meets its goal.
        metric: name of the primary metric.
        unit: unit of its drops.
        model: name of the network.
        data: name of the data set.
        points: candidates that were timed.
        live: contents of ``live.json``.
        damaged: why its result cannot be read; empty if it can.
    """

    id: str
    path: Path
    state: State
    created: str = ""
    command: str = ""
    started_in: str = ""
    verdict: str = ""
    goal_met: bool = False
    metric: str = "accuracy"
    unit: str = "points"
    model: str = ""
    data: str = ""
    points: tuple[Dot, ...] = ()
    live: Mapping[str, Any] = field(default_factory=dict)
    damaged: str = ""

    @property
    def chosen(self) -> Dot | None:
        """The candidate that ships."""
        return next((point for point in self.points if point.chosen), None)

    @property
    def has_report(self) -> bool:
        return (self.path / "report.html").is_file()

    @property
    def can_resume(self) -> bool:
        """Whether it was stopped and the command that started it is known."""
        return self.state == "stopped" and self.command.startswith("planish optimize ")


def find_runs(root: Path) -> list[RunSummary]:
    """Return the runs below a folder, running ones first, then the newest.

    Args:
        root: the folder; links are not followed.
    """
    found = [summary(path, root) for path in _run_folders(root, 0)]
    return sorted(found, key=lambda run: (run.state == "running", run.created or _modified(run.path)), reverse=True)[:_MOST]


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / STORE_FILE).is_file() and any((folder / name).is_file() for name in ("result.json", LIVE_FILE)):
        yield folder
        return
    if depth == _DEEPEST:
        return
    try:
        inner = sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink())
    except OSError:
        return
    for one in inner:
        if not one.name.startswith(".") and one.name not in _NO_RUNS:
            yield from _run_folders(one, depth + 1)


def summary(path: Path, root: Path) -> RunSummary:
    """Return what the files of a run folder say."""
    name, live = path.relative_to(root).as_posix(), _live(path)
    command, started_in = str(live.get("command", "")), str(live.get("folder", ""))
    if (running := holder(path) is not None) or not (path / "result.json").is_file():
        state: State = "running" if running else "stopped"
        return RunSummary(name, path, state, command=command, started_in=started_in, points=_live_points(live), live=live)
    try:
        result = Result.load(path / "result.json")
    except PlanishError as error:
        return RunSummary(name, path, "finished", damaged=str(error))
    return RunSummary(
        name,
        path,
        "finished",
        created=result.created,
        command=result.command or command,
        started_in=started_in,
        verdict=result.verdict,
        goal_met=result.goal_met,
        metric=result.metric,
        unit=result.drop.unit,
        model=result.model,
        data=str(result.data.get("name", "")),
        points=_points(result),
        live=live,
    )


def _points(result: Result) -> tuple[Dot, ...]:
    chosen, points = result.chosen, list[Dot]()
    for one in {c.key: c for c in (*result.candidates, result.baseline, chosen)}.values():
        if "latency_ratio" in one.measurements:
            points.append(_point(one, chosen=one.key == chosen.key, original=one.stage == "baseline"))
    return tuple(points)


def _point(one: CandidateResult, chosen: bool, original: bool) -> Dot:
    values = {name: m.value for name, m in one.measurements.items()}
    drop = 0.0 if original and "drop_validation" not in values else values.get("drop_validation")
    state = "chosen" if chosen else "original" if original else one.reason or one.stage
    return Dot(f"{one.summary}; {one.runtime}", values["latency_ratio"], drop, values.get("size_bytes"), state, chosen, original)


def _live_points(live: Mapping[str, Any]) -> tuple[Dot, ...]:
    points = []
    for one in live.get("candidates", ()):
        values = one.get("measurements", {})
        if "latency_ratio" in values:
            drop = values.get("drop_validation", values.get("drop_untrained"))
            state = one.get("reason") or one.get("stage", "")
            points.append(
                Dot(f"{one.get('summary')}; {one.get('runtime')}", values["latency_ratio"], drop, values.get("size_bytes"), state)
            )
    return tuple(points)


def _live(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / LIVE_FILE).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except DAMAGED:
        return {}


def _modified(path: Path) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp((path / STORE_FILE).stat().st_mtime, UTC).isoformat(timespec="seconds")

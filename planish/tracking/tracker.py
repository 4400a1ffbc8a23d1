"""What an experiment tracker is, and how a job is tracked without ever depending on it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from planish.errors import GoalError, RuntimeMissingError, first_line
from planish.progress import LoggedValues, logging_to, note

if TYPE_CHECKING:
    from planish.measurement import Measurement

TRACKERS = ("mlflow", "tensorboard", "wandb", "trackio")


class Tracker(Protocol):
    """One job in an experiment tracker. ``part`` names a nested run, such as a candidate; empty for the job itself."""

    def describe(self, part: str, values: Mapping[str, str]) -> None:
        """Set text by name; a later value of the same name replaces it."""

    def log(self, part: str, values: Mapping[str, float], step: int) -> None:
        """Store finite numbers of one step, from 1, which only increases within a part and name."""

    def save(self, path: Path) -> None:
        """Store a file or a folder of the job."""

    def close(self, failed: bool) -> None:
        """End all runs."""


class Tracked:
    """A job that is tracked. The first failure of the tracker is a note and ends the tracking, never the job.

    Args:
        tracker: the tracker; None if the job is not tracked.
    """

    def __init__(self, tracker: Tracker | None) -> None:
        self._tracker = tracker
        self._parts: dict[str, str] = {}  # by subject
        self._keys: dict[str, str] = {}  # newest key by part
        self._last: defaultdict[tuple[str, bool], int] = defaultdict(int)
        self._offset: defaultdict[str, int] = defaultdict(int)

    def receive(self, logged: LoggedValues) -> None:
        """Pass numbers on. Trainings of one subject follow each other, and a finalist continues the trial that it was."""
        part, is_epoch = self._part(logged), logged.step is not None
        if logged.step is None:
            step = self._last[part, is_epoch] + 1
        else:
            if logged.step + self._offset[part] <= self._last[part, is_epoch]:  # another training of the same candidate
                self._offset[part] = self._last[part, is_epoch]
            step = logged.step + self._offset[part]
        self._last[part, is_epoch] = step
        self._log(part, logged.values, step)
        if about := {name: text for name, text in logged.about.items() if text}:
            self._safely(lambda tracker: tracker.describe(part, about))

    def result(self, measurements: Mapping[str, Measurement], files: Iterable[Path], verdict: str = "") -> None:
        """Store the result of the job: measurements with the ends of their intervals, files and folders, and the verdict."""
        values = {name: m.value for name, m in measurements.items()}
        for name, m in measurements.items():
            if m.low is not None and m.high is not None:
                values |= {f"{name}_low": m.low, f"{name}_high": m.high}
        self._log("", values, self._last["", True] or 1)
        if verdict:
            self._safely(lambda tracker: tracker.describe("", {"verdict": verdict}))
        for path in files:
            self._safely(lambda tracker, path=path: tracker.save(path))  # type: ignore[misc]

    def close(self, failed: bool) -> None:
        """End the tracking."""
        self._safely(lambda tracker: tracker.close(failed))
        self._tracker = None

    def _part(self, logged: LoggedValues) -> str:
        key = logged.about.get("key", "")
        if logged.subject not in self._parts:
            self._parts[logged.subject] = logged.subject
            if key and logged.subject == key:  # finalists are named by their keys
                trial = next((part for part, newest in reversed(self._keys.items()) if newest == key), "")
                self._parts[key] = trial or f"{logged.about['summary']} ({key})"
        part = self._parts[logged.subject]
        if key:
            self._keys[part] = key
        return part

    def _log(self, part: str, values: Mapping[str, float], step: int) -> None:
        finite = {name.replace(":", "/"): float(value) for name, value in values.items() if math.isfinite(value)}
        if finite:
            self._safely(lambda tracker: tracker.log(part, finite, step))

    def _safely(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except Exception as error:  # whatever a tracker, its server or its disk raises
            self._tracker = None
            note(f"tracking has ended, and the job goes on: {first_line(error)}")


@contextmanager
def tracking(chosen: str | None, name: str, settings: Mapping[str, Any]) -> Iterator[Tracked]:
    """Within this block, a tracker gets the numbers of the job.

    Args:
        chosen: ``mlflow``, ``tensorboard``, ``wandb`` or ``trackio``, with the place where it stores them after a colon:
            ``mlflow:http://localhost:5000``; None for none.
        name: name of the job.
        settings: settings of the job by name; None is left out.

    Raises:
        GoalError: there is no such tracker.
        RuntimeMissingError: its library is not installed.
    """
    if chosen is None:
        yield Tracked(None)
        return
    tracked, failed = Tracked(_opened(chosen, name, {key: str(value) for key, value in settings.items() if value is not None})), True
    try:
        with logging_to(tracked.receive):
            yield tracked
        failed = False
    finally:
        tracked.close(failed)


def _opened(chosen: str, name: str, settings: Mapping[str, str]) -> Tracker | None:
    kind, _, place = chosen.partition(":")
    if kind not in TRACKERS:
        raise GoalError(f"there is no tracker {kind!r}", f"trackers are {', '.join(TRACKERS)}", "for example --track mlflow")
    try:
        if kind == "mlflow":
            from planish.tracking.mlflow_tracker import MlflowTracker

            return MlflowTracker(name, place or None, settings)
        if kind == "tensorboard":
            from planish.tracking.tensorboard_tracker import TensorBoardTracker

            return TensorBoardTracker(name, place or None, settings)
        from planish.tracking.wandb_tracker import WandbTracker

        return WandbTracker(kind, name, place or None, settings)
    except ImportError as error:
        raise RuntimeMissingError(f"the library {kind} is not installed", "", f"run: pip install 'planish[{kind}]'") from error
    except Exception as error:  # whatever a tracker or its server raises
        note(f"{kind} cannot be used, and the job is not tracked: {first_line(error)}")
        return None

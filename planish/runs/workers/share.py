"""Sharing steps that do not depend on each other among workers, before the run needs their results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from time import monotonic, time
from typing import Any, Protocol

from planish.errors import DeviceError, PlanishError
from planish.files.workspace import replacing
from planish.progress import Stage, note
from planish.runs.store import Store
from planish.runs.workers.parcel import Outcome, Parcel, pack
from planish.split_assignment import SPLITS_FILE


class Workers(Protocol):
    """Processes that carry out steps."""

    @property
    def count(self) -> int:
        """The number of steps that they carry out at the same time."""
        ...

    def results(self, parcels: Iterable[Parcel]) -> Iterator[tuple[int, Outcome]]:
        """Yield the outcome of each parcel with its index, in the order in which they are finished. Parcels are sent as they are made.

        A step whose process or machine ends is carried out by another one.

        Raises:
            DeviceError: the workers can no longer be reached.
        """
        ...


_workers: ContextVar[Workers | None] = ContextVar("planish_workers", default=None)


@contextmanager
def using_workers(workers: Workers) -> Iterator[None]:
    """Within this block, ``share_steps`` has these workers carry out steps."""
    token = _workers.set(workers)
    try:
        yield
    finally:
        _workers.reset(token)


def worker_count() -> int:
    """Return the number of steps that are carried out at the same time; 1 without workers."""
    workers = _workers.get()
    try:
        return 1 if workers is None else max(1, workers.count)
    except DeviceError:
        return 1


def share_steps(store: Store, folder: Path, calls: Iterable[Callable[[], Any]], needs: Iterable[Path] = ()) -> None:
    """Have the workers carry out the steps that these calls need next. Without workers nothing is done: the calls do it themselves.

    Of each call, it is the first step that is not finished. If latency is measured in it, or if it fails, the call does it again here: a
    worker may lack a file or a package. Images with other splits than those of the run are an error.

    Args:
        store: store of the run.
        folder: folder of the run.
        calls: functions whose steps do not depend on each other; they are called afterwards by the caller, and then find their steps
            finished.
        needs: files and folders of the run that the steps read.
    """
    workers = _workers.get()
    if workers is None:
        return
    found = [step for call in calls if (step := store.first_unfinished(call)) is not None]
    steps = list({step.key: step for step in found}.values())
    if len(steps) < 2:
        return
    splits = folder / SPLITS_FILE
    needed = (*needs, *([splits] if splits.exists() else ()))
    parcels = (pack(store, folder, step, needed) for step in steps)
    before = monotonic()
    try:
        with Stage(f"{steps[0].stage}, on {workers.count} workers", len(steps)) as stage:
            for index, outcome in workers.results(parcels):
                if why := outcome.error or _refusal(outcome, steps[index].key):
                    note(f"a worker could not do {steps[index].key}, so it is done here: {why}")
                else:
                    _keep(store, folder, outcome, monotonic() - before)
                    before = monotonic()
                stage.advance()
    except DeviceError as error:
        note(f"the workers are lost, so everything is done here: {error}")
    except PlanishError as error:
        note(f"nothing is shared with other processes: {error}")


def _refusal(outcome: Outcome, key: str) -> str:
    """Return why a step was impossible, as ``Store.attempt`` and the trainings of an experiment store it; empty if it was not."""
    found = next((json.loads(row[2]) for row in outcome.rows if row[0] == key), "")
    if isinstance(found, dict):
        return str(found.get("error", ""))
    return found if key.startswith("attempt:") else ""


def _keep(store: Store, folder: Path, outcome: Outcome, passed: float) -> None:
    """Add the files and rows of an outcome to the run. Its seconds become the time that passed, so that stages add up to the duration."""
    for relative, content in (outcome.files or {}).items():
        place = folder / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as partial:
            partial.write_bytes(content)
    share_of = passed / max(1e-9, sum(row[4] for row in outcome.rows))
    store.add([(*row[:4], share_of * row[4], store.now, time()) for row in outcome.rows])

"""A step as bytes that another process carries out, in a folder of its own, and the bytes that it returns."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import cloudpickle
import numpy as np

from planish.devices.absent import AbsentDevice
from planish.devices.device import current_device, using_device
from planish.errors import PlanishError, first_line
from planish.files.workspace import cache_root, replacing
from planish.runs.store import STORE_FILE, Row, Store, UnfinishedStep
from planish.training.parallel.pickling import ArrayPickler, map_file

_PART_BYTES = 64 << 20
_NOT_SENT = "scratch"  # folder of the files that a step needs only while it runs

Fetch = Callable[[str], Iterable[bytes]]


@dataclass(frozen=True)
class Parcel:
    """A step to be carried out by ``perform``.

    Args:
        content: the step, the finished steps of its run, and the files that it needs.
        files: memory-mapped files that it reads, by name. A worker that has no such file at the same place fetches it.
    """

    content: bytes
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Outcome:
    """What a worker returns.

    Args:
        rows: the finished steps: the one of the parcel, and those within it.
        files: the files that it wrote, by path relative to the folder of the run.
        seconds: duration.
        error: why it failed; empty otherwise.
    """

    rows: tuple[Row, ...] = ()
    files: Mapping[str, bytes] | None = None
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class _Place:
    """Where a worker carries out a step."""

    folder: Path
    store: Store
    fetch: Fetch


_place: ContextVar[_Place] = ContextVar("planish_worker_place")


class _StepPickler(ArrayPickler):
    """Replaces the store and the paths in the folder of a run by those of the worker."""

    def __init__(self, buffer: io.BytesIO, folder: Path, store: Store) -> None:
        super().__init__(buffer)
        self.files: dict[str, Path] = {}
        self._folder, self._store = os.path.abspath(folder), store

    def reducer_override(self, obj: Any) -> Any:
        if obj is self._store:
            return _own_store, ()
        if isinstance(obj, Path):
            path = str(obj) if obj.is_absolute() else os.path.abspath(obj)
            if path == self._folder or path.startswith(self._folder + os.sep):
                return _own_path, (os.path.relpath(path, self._folder),)
        return super().reducer_override(obj)

    def mapped(self, array: np.memmap[Any, Any]) -> tuple[Any, ...]:
        file = Path(str(array.filename))
        state = file.stat()
        name = hashlib.sha256(f"{file}:{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()[:24]
        self.files[name] = file
        return _own_array, (name, str(file), state.st_size, state.st_mtime_ns, array.dtype.str, array.offset, array.shape)


def _own_store() -> Store:
    return _place.get().store


def _own_path(relative: str) -> Path:
    return _place.get().folder / relative


def _own_array(name: str, file: str, size: int, changed: int, dtype: str, offset: int, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    with suppress(OSError):
        state = os.stat(file)
        if (state.st_size, state.st_mtime_ns) == (size, changed):
            return map_file(file, dtype, offset, shape)
    folder = cache_root(None) / "from_other_machines"
    folder.mkdir(exist_ok=True)
    own = folder / name
    if not own.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # several processes may fetch the same file
            fetched = Path(scratch) / name
            with replacing(fetched) as partial, partial.open("wb") as opened:
                opened.writelines(_place.get().fetch(name))
            fetched.replace(own)
    return map_file(str(own), dtype, offset, shape)


def pack(store: Store, folder: Path, step: UnfinishedStep, needs: Iterable[Path] = ()) -> Parcel:
    """Make a parcel of a step.

    Args:
        store: store of the run.
        folder: folder of the run; paths in it become paths in the worker's own folder.
        step: the step.
        needs: files and folders of the run that it reads, besides what it holds in memory.

    Raises:
        PlanishError: it cannot be sent, for example because a network of the user's holds an open file.
    """
    buffer = io.BytesIO()
    pickler = _StepPickler(buffer, folder, store)
    try:
        pickler.dump((step.key, step.stage, step.work))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise PlanishError(f"{step.key} cannot be sent to another process: {first_line(error)}") from error
    every = [file for path in needs for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    files = {str(file.relative_to(folder)): file.read_bytes() for file in every}
    return Parcel(pickle.dumps((str(Path.cwd()), AbsentDevice.of(current_device()), store.rows(), files, buffer.getvalue())), pickler.files)


def perform(content: bytes, fetch: Fetch) -> Outcome:
    """Carry out the step of a parcel in a temporary folder. Errors are returned, not raised. Nothing is timed in it.

    Args:
        content: see ``Parcel``.
        fetch: returns the content, in parts, of a memory-mapped file by its name.
    """
    begun = monotonic()
    try:
        where, device, rows, files, pickled = pickle.loads(content)
        with tempfile.TemporaryDirectory(prefix="planish-worker-") as name, _in_folder(where), using_device(device):
            folder = Path(name)
            for relative, given in files.items():
                place = folder / relative
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(given)
            store = Store(folder)
            token = _place.set(_Place(folder, store, fetch))
            try:
                store.add(rows)
                before = _states(folder)
                key, stage, work = cloudpickle.loads(pickled)
                (folder / "work").mkdir(exist_ok=True)
                store.once(key, stage, work)
                known = {row[0] for row in rows}
                written = [relative for relative, state in _states(folder).items() if before.get(relative) != state]
                made = {relative: (folder / relative).read_bytes() for relative in written}
                return Outcome(tuple(row for row in store.rows() if row[0] not in known), made, monotonic() - begun)
            finally:
                _place.reset(token)
                store.close()
    except Exception as error:
        return Outcome(error=f"{type(error).__name__}: {first_line(error)}", seconds=monotonic() - begun)


def parts_of(file: Path) -> Iterator[bytes]:
    """Yield the content of a file in parts of 64 MiB."""
    with file.open("rb") as opened:
        while part := opened.read(_PART_BYTES):
            yield part


@contextmanager
def _in_folder(folder: str) -> Iterator[None]:
    """Work in the folder that the command was started in, if there is one, so that relative paths mean the same."""
    before = os.getcwd()
    with suppress(OSError):
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of each file that belongs to the run."""
    found = {}
    for file in folder.rglob("*"):
        relative = file.relative_to(folder)
        if file.is_file() and not file.name.startswith(STORE_FILE) and _NOT_SENT not in relative.parts:
            state = file.stat()
            found[str(relative)] = (state.st_size, state.st_mtime_ns)
    return found

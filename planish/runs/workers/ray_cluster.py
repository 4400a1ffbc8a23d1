"""Workers on a Ray cluster, or in processes of this machine that Ray starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from planish.errors import TechniqueError, first_line
from planish.runs.workers.parcel import Outcome, Parcel, parts_of, perform

_CORES = 4  # of a step by default, or all of the smallest machine if it has less: small batches keep no more of them busy
_CONNECT_SECONDS = 5
_TRIES = 3  # of a step whose process or machine ends


class RayWorkers:
    """Steps as Ray tasks. If a machine is lost, Ray runs its tasks again on another one.

    Args:
        address: ``HOST:PORT`` or ``ray://HOST:PORT`` of a cluster; empty for the one that this machine belongs to, or else a new one on
            this machine, which ends with the run.
        cores: cores of each step; by default 4, or all of the smallest machine.

    Raises:
        TechniqueError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str = "", cores: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise TechniqueError("--workers ray needs Ray", "it is not installed", 'pip install "planish[ray]"') from error
        self._ray = ray
        started = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
        named = address or os.environ.get("RAY_ADDRESS", "")
        if named and not _answers(named):
            raise TechniqueError(f"no Ray cluster answers at {named}", "", "start it, or name another one")
        try:
            ray.init(address=named or ("auto" if _has_cluster() else "local"), **started)
        except (ConnectionError, RuntimeError) as error:  # another version of Ray or Python, or another token
            fix = "use the same versions on all machines; if it was started with a token, set RAY_AUTH_MODE=token"
            raise TechniqueError(f"the Ray cluster at {named} cannot be used: {first_line(error)}", "", fix) from error
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        self._gpus = int(any(node.get("GPU") for node in alive))
        smallest = min((int(node["CPU"]) for node in alive if not self._gpus or node.get("GPU")), default=1)
        self._cores = cores or max(1, min(_CORES, smallest))
        self._sent: dict[str, list[Any]] = {}

    @property
    def count(self) -> int:
        """The number of steps that the cluster has room for."""
        return sum(self._room(node["Resources"]) for node in self._ray.nodes() if node["Alive"])

    def _room(self, resources: Mapping[str, float]) -> int:
        by_cores = int(resources.get("CPU", 0) // self._cores)
        return min(by_cores, int(resources.get("GPU", 0))) if self._gpus else by_cores

    def results(self, parcels: Iterable[Parcel]) -> Iterator[tuple[int, Outcome]]:
        """See ``Workers.results``."""
        ray, machines = self._ray, {node["NodeManagerAddress"] for node in self._ray.nodes() if node["Alive"]}
        task = ray.remote(num_cpus=self._cores, num_gpus=self._gpus, max_retries=_TRIES)(_perform)
        waiting: dict[Any, int] = {}
        try:
            for index, parcel in enumerate(parcels):
                files = {} if len(machines) < 2 else {name: self._put(name, file) for name, file in parcel.files.items()}
                waiting[task.remote(parcel.content, files)] = index
            while waiting:
                done = ray.wait(list(waiting))[0][0]
                index = waiting.pop(done)
                try:
                    outcome = ray.get(done)
                except ray.exceptions.RayError as error:
                    outcome = Outcome(error=first_line(error))
                yield index, outcome
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    def _put(self, name: str, file: Path) -> list[Any]:
        """Put a file into Ray's object store, once."""
        if name not in self._sent:
            self._sent[name] = [self._ray.put(part) for part in parts_of(file)]
        return self._sent[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ray.shutdown()


def _has_cluster() -> bool:
    """Whether this machine belongs to a cluster that answers."""
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # a file that stays when a cluster is lost
    return noted.exists() and _answers(noted.read_text().strip())


def _answers(address: str) -> bool:
    """Whether something listens there; Ray itself would try for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    with suppress(OSError, ValueError), socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
        return True
    return False


def _perform(content: bytes, files: Mapping[str, Sequence[Any]]) -> Outcome:
    import ray

    return perform(content, lambda name: (ray.get(part) for part in files[name]))

"""The workers that a text such as ``ray`` or ``postgresql://host/database`` names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

from planish.errors import GoalError
from planish.progress import note
from planish.runs.workers.share import using_workers

_FORMS = "ray, ray?cores=2, ray://HOST:10001 or postgresql://USER@HOST/DATABASE"


@contextmanager
def working_with(workers: str | None) -> Iterator[None]:
    """Within this block, steps that do not depend on each other are shared among workers.

    Args:
        workers: ``ray`` for the Ray cluster that this machine belongs to, or processes on this machine; ``ray://HOST:PORT``;
            ``postgresql://USER@HOST/DATABASE`` for the processes of ``planish worker``; None for this process alone.

    Raises:
        GoalError: it names no workers.
        TechniqueError: what is needed is not installed.
        DeviceError: they cannot be reached.
    """
    if workers is None:
        yield
        return
    parts = urlsplit(workers)
    kind = parts.scheme or parts.path
    if kind == "ray":
        from planish.runs.workers.ray_cluster import RayWorkers

        address = f"ray://{parts.netloc}" if parts.netloc else ""
        with RayWorkers(address, _cores(workers, parts.query)) as cluster, using_workers(cluster):
            note(f"steps that do not depend on each other are shared among {cluster.count} workers")
            yield
    elif kind in ("postgresql", "postgres"):
        from planish.runs.workers.database import DatabaseWorkers

        with DatabaseWorkers(workers) as database, using_workers(database):
            note(f"steps that do not depend on each other are shared among {database.count} processes, this one included")
            yield
    else:
        raise GoalError(f"--workers {workers}", "it names no workers", _FORMS)


def _cores(workers: str, query: str) -> int | None:
    given = parse_qs(query, keep_blank_values=True)
    if not given:
        return None
    value = given.get("cores", [""])[-1]
    if given.keys() != {"cores"} or not value.isdigit() or int(value) < 1:
        raise GoalError(f"--workers {workers}", "cores are all that can be set", _FORMS)
    return int(value)

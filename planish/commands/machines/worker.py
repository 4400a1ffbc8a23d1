"""A process that carries out steps of other processes' runs."""

from __future__ import annotations


def worker(database: str, *, idle: str | None = None) -> int:
    """Carry out steps of runs that were started with `--workers` and this database, on any machine that reaches it, until Ctrl-C.

    A step whose worker is stopped or lost is carried out by another one. Images of `planish optimize`, `compare`, `search` and `backbones`
    are sent to workers that do not have them; those of other commands must lie under the same path on each machine. Steps are sent as
    Python objects: whoever may write to the database can run programs as the user of each worker.

    Args:
        database: PostgreSQL database: postgresql://USER@HOST/DATABASE. The tables are made in it.
        idle: End after this time without a step: 10m; by default never.

    Returns:
        Number of steps that were carried out.

    Raises:
        DeviceError: the database cannot be reached.
        TechniqueError: psycopg is not installed.

    Example:
        $ planish worker postgresql://me@server/planish
        $ planish worker postgresql://me@server/planish --idle 10m
    """
    from planish import units
    from planish.runs.workers.database import work_for

    return work_for(database, None if idle is None else units.seconds(idle))

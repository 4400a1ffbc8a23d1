"""Workers without Ray and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from planish.runs.workers.parcel import Outcome, Parcel, perform


class ThisProcess:
    """Carries out steps here, in a folder of their own, the last one first.

    Attributes:
        parcels: number of steps of each call.
    """

    count = 2

    def __init__(self) -> None:
        self.parcels: list[int] = []

    def results(self, parcels: Iterable[Parcel]) -> Iterator[tuple[int, Outcome]]:
        made = list(parcels)
        self.parcels.append(len(made))
        for index, parcel in reversed(list(enumerate(made))):
            yield index, _perform(parcel.content)


class Processes(ThisProcess):
    """Two new processes."""

    def results(self, parcels: Iterable[Parcel]) -> Iterator[tuple[int, Outcome]]:
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            running = {pool.submit(_perform, parcel.content): index for index, parcel in enumerate(parcels)}
            self.parcels.append(len(running))
            for done in as_completed(running):
                yield running[done], done.result()


def _perform(content: bytes) -> Outcome:
    return perform(content, _nothing_to_fetch)


def _nothing_to_fetch(name: str) -> list[bytes]:
    raise AssertionError(name)

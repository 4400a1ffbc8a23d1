"""The models of a service: which one answers, and one exchanged for a newer one while requests run."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from planish.errors import BundleError, PlanishError
from planish.export.bundle import SEAL
from planish.serving.batching import Batcher
from planish.serving.model import ServedModel

_LOG = logging.getLogger("planish.serving")


@dataclass(frozen=True)
class Entry:
    """A model, and what runs it. A request keeps its entry to the end, also when the model is exchanged meanwhile."""

    model: ServedModel
    batcher: Batcher


class Models:
    """By name and version. Without a version the first of its name answers, apart from the shares that others have.

    Args:
        models: at least one.
        start: what runs a model.
        shares: of the requests without a version, by name and version; the canary's way in.

    Raises:
        BundleError: a share is for a model that is not there, or those of one name are more than all.
    """

    def __init__(
        self, models: Sequence[ServedModel], start: Callable[[ServedModel], Batcher], shares: Mapping[tuple[str, str], float]
    ) -> None:
        self._start, self._shares = start, shares
        self._entries: dict[str, dict[str, Entry]] = {}
        for model in models:
            self.put(model)
        for (name, version), share in shares.items():
            if version not in self._entries.get(name, {}) or not 0 <= share <= 1:
                raise BundleError(f"a share of {share:g} for {name}@{version}", "it is from 0 to 1, of a model that is served")
        for name in self._entries:
            if (given := sum(share for (of, _), share in shares.items() if of == name)) > 1:
                raise BundleError(f"the shares of {name} add up to {given:g}", "they are at most 1 together")

    def put(self, model: ServedModel) -> None:
        """Serve a model from now on, instead of one with the same name and version."""
        self._entries.setdefault(model.name, {})[model.version] = Entry(model, self._start(model))

    def __iter__(self) -> Iterator[Entry]:
        return (entry for versions in self._entries.values() for entry in versions.values())

    def versions(self, name: str) -> list[str]:
        """Of a model; empty where there is none."""
        return list(self._entries.get(name, ()))

    def find(self, name: str | None, version: str | None = None) -> Entry | None:
        """The one that answers a request; the first of all where no name is given. None where there is none."""
        versions = self._entries.get(next(iter(self._entries)) if name is None else name)
        if versions is None:
            return None
        if version is not None:
            return versions.get(version)
        first = next(iter(versions.values()))
        place = random.random()
        for (of, other), share in self._shares.items():
            if of == first.model.name:
                place -= share
                if place < 0:
                    return versions[other]
        return first

    async def close(self) -> None:
        """Wait until all that was accepted is answered."""
        await asyncio.gather(*(entry.batcher.close() for entry in self))

    async def reload(self, every_s: float) -> None:
        """For ever: where a folder holds another bundle than before, exchange the model; one that does not open is left alone."""
        seals, told = {entry.model.key: _seal(entry.model) for entry in self}, dict[tuple[str, str], bytes]()
        while True:
            await asyncio.sleep(every_s)
            for entry in list(self):
                old = entry.model
                seal = _seal(old)
                if not seal or seal == seals[old.key]:
                    continue
                try:
                    new = await asyncio.to_thread(ServedModel, old.name, old.version, old.folder, old.threads, old.drift.settings)
                except (PlanishError, OSError) as error:  # it may be copied just now, so it is looked at again
                    if told.get(old.key) != seal:
                        _LOG.error("%s: the new bundle is not served: %s", old.folder, error)
                    told[old.key] = seal
                else:
                    self.put(new)
                    seals[old.key] = seal
                    _LOG.info("%s version %s: exchanged for a newer bundle", old.name, old.version)


def _seal(model: ServedModel) -> bytes:
    """What changes with every bundle; empty while one is being exchanged."""
    try:
        return (model.folder / SEAL).read_bytes()
    except OSError:
        return b""

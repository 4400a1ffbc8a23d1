"""The models of a service: which one answers, and one exchanged for a newer one while requests run."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from planish.errors import BundleError
from planish.export.bundle.folder import SEAL
from planish.serving.batching import Batcher
from planish.serving.health import Health
from planish.serving.model import ServedModel

_LOG = logging.getLogger("planish.serving")
_LONGEST_PAUSE = 64  # times the usual one, between attempts to open a bundle that does not open


@dataclass(frozen=True)
class Entry:
    """A model, and what runs it. A request keeps its entry to the end, also when the model is exchanged meanwhile."""

    model: ServedModel
    batcher: Batcher
    health: Health


class Models:
    """By name and version. Without a version the first of its name answers, apart from the shares that others have.

    Args:
        models: at least one.
        start: makes what runs a model.
        shares: of the requests without a version, by name and version; the canary's way in.

    Raises:
        BundleError: a share is for a model that is not there, or those of one name are more than all.
    """

    def __init__(
        self, models: Sequence[ServedModel], start: Callable[[ServedModel], Entry], shares: Mapping[tuple[str, str], float]
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
        self._entries.setdefault(model.name, {})[model.version] = self._start(model)

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

    async def reload(self, every_s: float, failed: Callable[[ServedModel], None]) -> None:
        """For ever: where a folder holds another bundle than before, exchange the model.

        One that does not open, or does not give its known answers, is logged and tried again, after pauses that grow; the old one goes on.

        Args:
            every_s: seconds between looks.
            failed: called with the old model for each attempt that failed.
        """
        watched = {entry.model.key: _Watched(_seal(entry.model)) for entry in self}
        while True:
            await asyncio.sleep(every_s)
            for entry in list(self):
                old, folder = entry.model, watched[entry.model.key]
                seal = _seal(old)
                if seal and seal != folder.served and (seal != folder.tried or folder.waits_for() <= 0):
                    try:
                        new = await asyncio.to_thread(
                            ServedModel, old.name, old.version, old.folder, old.threads, old.public_key, old.drift.settings
                        )
                        if new.fault:
                            raise BundleError(new.fault)
                        self.put(new)
                    except Exception as error:  # whatever it is, requests go on, and the folder may be mended
                        folder.failed(seal, every_s)
                        failed(old)
                        _LOG.error("%s: the new bundle is not served: %s: %s", old.folder, type(error).__name__, str(error)[:1000])
                    else:
                        watched[old.key] = _Watched(seal)
                        _LOG.info("%s version %s: exchanged for a newer bundle", old.name, old.version)


@dataclass
class _Watched:
    """A folder that a model is served from."""

    served: bytes  # the seal of the bundle that is
    tried: bytes = b""  # of one that could not be
    attempts: int = 0
    again: float = 0.0  # when it is tried next

    def failed(self, seal: bytes, every_s: float) -> None:
        self.attempts = self.attempts + 1 if seal == self.tried else 1
        self.tried, self.again = seal, time.monotonic() + every_s * min(2**self.attempts, _LONGEST_PAUSE)

    def waits_for(self) -> float:
        return self.again - time.monotonic()


def _seal(model: ServedModel) -> bytes:
    """What changes with every bundle; empty while one is being exchanged."""
    try:
        return (model.folder / SEAL).read_bytes()
    except OSError:
        return b""

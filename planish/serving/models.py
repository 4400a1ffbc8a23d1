"""The models of a service: routing by name and version, and hot reload while requests run."""

from __future__ import annotations

import asyncio
import logging
import math
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
_LONGEST_PAUSE = 64  # multiple of the usual pause between attempts to open a bundle that fails to open


@dataclass(frozen=True)
class Entry:
    """A model with its batcher and health. A request keeps its entry even if the model is replaced in the meantime."""

    model: ServedModel
    batcher: Batcher
    health: Health


class Models:
    """The served models by name and version.

    A request without a version goes to the first version of its name, except for the shares of canary versions.

    Args:
        models: at least one model.
        start: makes the entry of a model: its batcher and health.
        shares: share of the requests without a version that a version answers, by name and version (canary releases).

    Raises:
        BundleError: a share is for a model that is not served, or the shares of one name add up to more than 1.
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
            if (given := math.fsum(share for (of, _), share in shares.items() if of == name)) > 1:
                raise BundleError(f"the shares of {name} add up to {given:g}", "they are at most 1 together")

    def put(self, model: ServedModel) -> None:
        """Serve a model from now on; it replaces the one with the same name and version."""
        self._entries.setdefault(model.name, {})[model.version] = self._start(model)

    def __iter__(self) -> Iterator[Entry]:
        return (entry for versions in self._entries.values() for entry in versions.values())

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model; empty if there is no such model."""
        return list(self._entries.get(name, ()))

    def find(self, name: str | None, version: str | None = None) -> Entry | None:
        """Return the entry that answers a request; without a name, from the first model. None if there is no such model."""
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
        """Wait until all accepted requests are answered."""
        await asyncio.gather(*(entry.batcher.close() for entry in self))

    async def reload(self, every_s: float, failed: Callable[[ServedModel], None]) -> None:
        """Check the bundle folders forever, and replace a model when its folder contains another bundle than before.

        A bundle that fails to open or does not reproduce its golden outputs is logged and tried again after increasing pauses; the old
        model keeps serving.

        Args:
            every_s: seconds between checks.
            failed: called with the old model after each failed attempt.
        """
        watched = {entry.model.key: _Watched(entry.model.seal.encode()) for entry in self}
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
                    except Exception as error:  # whatever the error, requests continue, and the folder may be repaired later
                        folder.failed(seal, every_s)
                        failed(old)
                        _LOG.error("%s: the new bundle is not served: %s: %s", old.folder, type(error).__name__, str(error)[:1000])
                    else:
                        watched[old.key] = _Watched(new.seal.encode())
                        _LOG.info("%s version %s: exchanged for a newer bundle", old.name, old.version)


@dataclass
class _Watched:
    """The state of a bundle folder that a model is served from."""

    served: bytes  # seal of the served bundle
    tried: bytes = b""  # seal of the bundle that failed to load
    attempts: int = 0
    again: float = 0.0  # time of the next attempt

    def failed(self, seal: bytes, every_s: float) -> None:
        self.attempts = self.attempts + 1 if seal == self.tried else 1
        self.tried, self.again = seal, time.monotonic() + every_s * min(2**self.attempts, _LONGEST_PAUSE)

    def waits_for(self) -> float:
        return self.again - time.monotonic()


def _seal(model: ServedModel) -> bytes:
    """Return the bundle's seal, which identifies its contents; empty while the bundle is being replaced."""
    try:
        return (model.folder / SEAL).read_bytes()
    except OSError:
        return b""

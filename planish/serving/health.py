"""Health of a served model: consecutive failures, and regular checks with a golden sample."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from planish.serving.http.errors import BusyError, InferenceError

if TYPE_CHECKING:
    from planish.serving.batching import Batcher
    from planish.serving.model import ServedModel
    from planish.serving.models import Entry

_LOG = logging.getLogger("planish.serving")
_ALLOWED = 2  # consecutive failures; with the next one the model is not ready
CHECK_S, RECHECK_S = 30.0, 2.0  # seconds between checks if all models are ready, and if one is not
_TRACEBACK_S, _TRACEBACK_LENGTH = 60.0, 4000  # seconds between logged tracebacks; their maximum length in characters
_QUOTED = 500  # maximum length of an error message, in characters


class Health:
    """Counts and logs a model's failures, and decides whether it is ready.

    A model is ready after its golden samples gave the expected outputs. After three consecutive failures, of any requests, it is not
    ready, and a golden sample is run at once: if only the requests were at fault, the model becomes ready again.

    Args:
        model: the model.
        count: called with the reason of each failure.
    """

    def __init__(self, model: ServedModel, count: Callable[[str], None]) -> None:
        self._model, self._count = model, count
        self._in_a_row, self._traced = 0, -_TRACEBACK_S
        self._passed, self.fault = not model.fault, model.fault  # whether the golden samples passed; why the model is not ready
        self.doubted = asyncio.Event()  # set if the model should be checked now

    @property
    def ready(self) -> bool:
        """Whether the model can take requests."""
        return self._passed and self._in_a_row <= _ALLOWED

    def succeeded(self) -> None:
        """Record a request that was answered."""
        self._in_a_row = 0

    def failed(self, reason: str, error: Exception | str) -> None:
        """Record that the model raised an exception or returned invalid outputs.

        Args:
            reason: label of the metric: ``runtime``, ``not_finite``, ``wrong_answer`` or ``no_answer``.
            error: exception or message for the log.
        """
        self.report(reason, error)
        self._in_a_row += 1
        if self._in_a_row > _ALLOWED:
            if self._passed:
                self.fault = f"{self._in_a_row} failures in a row: {str(error)[:_QUOTED]}"
            self.doubted.set()

    def report(self, reason: str, error: Exception | str) -> None:
        """Count and log a failure without affecting readiness."""
        self._count(reason)
        text = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else error
        line = {"time": time.time(), "model": self._model.name, "version": self._model.version, "failure": reason, "error": text[:_QUOTED]}
        now = time.monotonic()
        if isinstance(error, Exception) and now - self._traced >= _TRACEBACK_S:
            self._traced = now
            line["traceback"] = "".join(traceback.format_exception(error))[-_TRACEBACK_LENGTH:]
        _LOG.error(json.dumps(line))

    async def check(self, batcher: Batcher, timeout_s: float) -> None:
        """Run a golden sample through the batcher, behind the requests that are waiting."""
        self.doubted.clear()
        done = batcher.batches
        try:
            async with asyncio.timeout(timeout_s):
                outputs = await batcher(self._model.sample)
        except BusyError:  # the queue is full, so the model is running
            return
        except InferenceError:  # the batcher has counted it
            self._passed = False
            self.fault = "the model fails on its golden sample"
            return
        except TimeoutError:
            if batcher.batches == done:
                self._passed = False
                self.fault = f"the model answered nothing for {timeout_s:g} s"
                self.report("no_answer", self.fault)
            return
        wrong = self._model.wrong_answer(outputs)
        if wrong:
            self._passed = False
            self.fault = wrong
            self.report("wrong_answer", wrong)
        else:
            self._passed, self._in_a_row = True, 0


async def keep_checking(entries: Callable[[], Iterable[Entry]], timeout_s: float) -> None:
    """Check all models forever: at regular intervals, and a model with repeated failures at once.

    Args:
        entries: returns the models that are served.
        timeout_s: seconds within which a model must answer.
    """
    while True:
        current = list(entries())
        pause = CHECK_S if all(entry.health.ready for entry in current) else RECHECK_S
        doubts = [asyncio.ensure_future(entry.health.doubted.wait()) for entry in current]
        try:
            doubted, _ = await asyncio.wait(doubts, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for doubt in doubts:
                doubt.cancel()
        for entry in entries():
            if not doubted or entry.health.doubted.is_set():
                await entry.health.check(entry.batcher, timeout_s)
        if doubted:
            await asyncio.sleep(RECHECK_S / 4)  # a client whose requests fail must not keep the service busy with checks

"""Requests that arrive while the model is busy are run together, as one batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planish.serving.http.errors import BusyError, InferenceError

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


@dataclass(frozen=True)
class _Waiting:
    images: Pixels
    answer: asyncio.Future[Outputs]


class Batcher:
    """Runs a model for many requests, one batch after the other.

    A request that finds the model idle starts at once; those that come meanwhile wait for that batch, and are the next one. So nobody
    waits for a batch to fill, and the busier the service is the larger batches are.

    Args:
        run: one batch of pixels ``(N, H, W, C)`` to outputs by name; called in a thread of its own, never twice at a time.
        max_batch: largest batch size.
        max_queue: images that may wait; beyond that requests are refused.
        watch: called with the images and seconds of each batch.
        failed: called with the error of each batch that failed.
    """

    def __init__(
        self,
        run: Callable[[Pixels], Outputs],
        *,
        max_batch: int,
        max_queue: int,
        watch: Callable[[int, float], None] = lambda n, s: None,
        failed: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._run, self._max_batch, self._max_queue, self._watch, self._failed = run, max_batch, max_queue, watch, failed
        self.batches = 0  # that are done, failed ones included
        self._queue: deque[_Waiting] = deque()
        self._seconds_an_image = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="planish-model")
        self._worker: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Images that wait."""
        return sum(len(waiting.images) for waiting in self._queue)

    def busy(self) -> BusyError:
        """To raise where no more can be taken on."""
        return BusyError(max(0.1, self.queued * self._seconds_an_image))

    async def __call__(self, images: Pixels) -> Outputs:
        """Outputs of these images, first axis as they are given.

        Raises:
            BusyError: too many images wait already.
            InferenceError: the model raised an exception, which was passed to ``failed``.
        """
        queued = self.queued
        if queued and queued + len(images) > self._max_queue:
            raise self.busy()
        waiting = _Waiting(images, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await waiting.answer

    async def close(self) -> None:
        """Wait until all that was accepted is answered."""
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = self._next()
            if not batch:
                continue
            begun = time.perf_counter()
            images = np.concatenate([waiting.images for waiting in batch])
            try:
                outputs = await loop.run_in_executor(self._thread, self._run_all, images)
            except Exception as error:  # a runtime's own kinds
                self.batches += 1
                self._failed(error)
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(InferenceError("the model failed on this batch; that is counted and logged"))
                continue
            self.batches += 1
            seconds = time.perf_counter() - begun
            self._seconds_an_image = seconds / len(images)
            self._watch(len(images), seconds)
            start = 0
            for waiting in batch:
                end = start + len(waiting.images)
                if not waiting.answer.done():  # its client may have gone
                    waiting.answer.set_result({name: values[start:end] for name, values in outputs.items()})
                start = end

    def _next(self) -> list[_Waiting]:
        """The oldest requests that fit into one batch, without those that nobody waits for any more."""
        batch: list[_Waiting] = []
        count = 0
        while self._queue and (not batch or count + len(self._queue[0].images) <= self._max_batch):
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
                count += len(waiting.images)
        return batch

    def _run_all(self, images: Pixels) -> Outputs:
        """In pieces of at most ``max_batch``: one request may bring more."""
        pieces = [self._run(images[i : i + self._max_batch]) for i in range(0, len(images), self._max_batch)]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

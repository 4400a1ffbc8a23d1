"""Dynamic batching: requests that arrive while the model is busy are run together as one batch."""

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
    """A request in the queue."""

    images: Pixels
    answer: asyncio.Future[Outputs]


class Batcher:
    """Runs a model for many requests, one batch after the other.

    A request that finds the model idle starts at once. Requests that arrive in the meantime wait for that batch to finish and form the
    next one. So no request waits for a batch to fill, and batches grow with the load.

    Args:
        run: maps a batch of pixels ``(N, H, W, C)`` to outputs by name; called in a separate thread, never concurrently.
        max_batch: largest batch size.
        max_queue: maximum number of waiting images; further requests are refused.
        watch: called with the number of images and the seconds of each batch.
        failed: called with the exception of each batch that failed.
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
        self.batches = 0  # batches that finished, including failed ones
        self._queue: deque[_Waiting] = deque()
        self._seconds_an_image = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="planish-model")
        self._worker: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Number of waiting images."""
        return sum(len(waiting.images) for waiting in self._queue)

    def busy(self) -> BusyError:
        """Return the error to raise when the queue is full."""
        return BusyError(max(0.1, self.queued * self._seconds_an_image))

    async def __call__(self, images: Pixels) -> Outputs:
        """Queue images and return their outputs, first axis N in the order of the images.

        Raises:
            BusyError: too many images are waiting already.
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
        """Wait until all accepted requests are answered."""
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
            except Exception as error:  # runtimes raise exceptions of their own types
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
                if not waiting.answer.done():  # the client may have disconnected
                    waiting.answer.set_result({name: values[start:end] for name, values in outputs.items()})
                start = end

    def _next(self) -> list[_Waiting]:
        """Take the oldest requests that fit into one batch off the queue, and drop requests that were cancelled."""
        batch: list[_Waiting] = []
        count = 0
        while self._queue and (not batch or count + len(self._queue[0].images) <= self._max_batch):
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
                count += len(waiting.images)
        return batch

    def _run_all(self, images: Pixels) -> Outputs:
        """Run the model in batches of at most ``max_batch``; a single request may have more images."""
        pieces = [self._run(images[i : i + self._max_batch]) for i in range(0, len(images), self._max_batch)]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

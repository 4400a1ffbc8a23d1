"""Every request gets its own answer, whatever it was batched with; none waits without need; none is taken on beyond the limit."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from planish.serving.batching import Batcher
from planish.serving.http.errors import BusyError, InferenceError


def images(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


class Doubles:
    """A model that takes its time and keeps what it was given."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds, self.batches = seconds, list[list[int]]()

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(self.seconds)
        self.batches.append(batch.ravel().tolist())
        if 255 in batch:
            raise RuntimeError("white")
        return {"logits": 2.0 * batch.reshape(len(batch), 1)}


def test_each_gets_its_own_answer_and_those_that_wait_share_a_batch() -> None:
    model = Doubles()

    async def work() -> list[dict[str, np.ndarray]]:
        batcher = Batcher(model, max_batch=4, max_queue=100)
        found = await asyncio.gather(*(batcher(images(i, i + 100)) for i in range(7)))
        await batcher.close()
        return found

    for i, found in enumerate(asyncio.run(work())):
        assert found["logits"].ravel().tolist() == [2.0 * i, 2.0 * (i + 100)]
    assert [len(batch) for batch in model.batches] == [4, 4, 4, 2]


def test_a_request_larger_than_a_batch_is_cut() -> None:
    model = Doubles(0)

    async def work() -> dict[str, np.ndarray]:
        return await Batcher(model, max_batch=3, max_queue=2)(images(*range(8)))

    assert asyncio.run(work())["logits"].ravel().tolist() == [2.0 * i for i in range(8)]
    assert [len(batch) for batch in model.batches] == [3, 3, 2]


def test_an_idle_model_is_not_waited_for() -> None:
    """It is run at once, with what there is; nothing is put off to see whether more comes."""

    async def work() -> list[float]:
        loop, delays = asyncio.get_running_loop(), list[float]()
        plain_later, plain_at = loop.call_later, loop.call_at
        loop.call_later = lambda delay, *a, **k: (delays.append(delay), plain_later(delay, *a, **k))[1]  # type: ignore[method-assign]
        loop.call_at = lambda when, *a, **k: (delays.append(when - loop.time()), plain_at(when, *a, **k))[1]  # type: ignore[method-assign]
        batcher = Batcher(Doubles(0), max_batch=64, max_queue=64)
        for _ in range(2):
            await batcher(images(1))
        return delays

    assert asyncio.run(work()) == []


def test_what_is_too_much_is_refused_and_the_rest_is_answered() -> None:
    async def work() -> list[object]:
        batcher = Batcher(Doubles(), max_batch=1, max_queue=3)
        return list(await asyncio.gather(*(batcher(images(i)) for i in range(10)), return_exceptions=True))

    found = asyncio.run(work())
    refused = [answer for answer in found if isinstance(answer, BusyError)]
    assert len(refused) == 7, "three wait"
    assert all(answer.retry_after_s > 0 for answer in refused)


def test_a_failing_batch_fails_alone() -> None:
    async def work() -> list[object]:
        batcher = Batcher(Doubles(), max_batch=1, max_queue=9)
        return list(await asyncio.gather(*(batcher(images(i)) for i in (1, 255, 3)), return_exceptions=True))

    first, second, third = asyncio.run(work())
    assert isinstance(second, InferenceError)
    assert (first["logits"].item(), third["logits"].item()) == (2.0, 6.0)  # type: ignore[index]


def test_nobody_computes_for_a_client_that_went() -> None:
    model, started, going = Doubles(0), threading.Event(), threading.Event()

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        started.set()
        going.wait()
        return model(batch)

    async def work() -> None:
        batcher = Batcher(run, max_batch=1, max_queue=9)
        tasks = [asyncio.create_task(batcher(images(i))) for i in range(3)]
        await asyncio.to_thread(started.wait)
        tasks[1].cancel()
        going.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(work())
    assert model.batches == [[0], [2]]


def test_the_model_is_never_run_twice_at_a_time() -> None:
    busy = threading.Lock()

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        assert busy.acquire(blocking=False)
        time.sleep(0.001)
        busy.release()
        return {"logits": batch.reshape(-1, 1)}

    async def work() -> None:
        batcher = Batcher(run, max_batch=2, max_queue=1000)
        for _ in range(5):
            await asyncio.gather(*(batcher(images(i)) for i in range(20)))

    asyncio.run(work())


@pytest.mark.parametrize("clients", [1, 8])
def test_closing_answers_what_was_accepted(clients: int) -> None:
    async def work() -> list[dict[str, np.ndarray]]:
        batcher = Batcher(Doubles(), max_batch=2, max_queue=100)
        tasks = [asyncio.create_task(batcher(images(i))) for i in range(clients)]
        await asyncio.sleep(0)
        await batcher.close()
        return await asyncio.gather(*tasks)

    assert len(asyncio.run(work())) == clients

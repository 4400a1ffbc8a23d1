"""Carries a search out, killed at random moments as often as is asked for; a script, run by ``test_resume``.

It imports everything once and forks a process for each sitting, so that a kill costs no start. Of each sitting it keeps which steps it
asked for, and which it carried out (``sittings.jsonl`` beside the run).

With ``"clock": "fake"`` time is a function of the step: two searches of one job then take the same decisions unless being killed makes the
difference, and all that they come to must be equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import planish.search.optimize  # noqa: F401 for sys.modules
from planish import deadline, invocation
from planish.commands import optimize
from planish.compression.pruning import sensitivity
from planish.devices import layer_latency
from planish.evaluation.latency import LatencyReport, LatencySettings
from planish.measurement import Measurement
from planish.runs import runner, store
from planish.search import time_estimates
from planish.training import input_speed, precision
from planish.training.schedules import schedule

_FIT = sys.modules["planish.training.fit"]


def number_of(text: str) -> float:
    """From 0 to 1, a multiple of 1/64, so that sums are exact."""
    return hashlib.sha256(text.encode()).digest()[0] // 4 / 64


def measured(subjects: Any, baseline: str, settings: LatencySettings) -> LatencyReport:
    """A latency that follows from the file."""
    ms = {}
    for name, subject in subjects.items():
        files = b"".join(Path(file).read_bytes() for file in subject.arguments["files"])
        ms[name] = (1 + 0.1 * number_of(subject.runtime)) * (1 + len(files) / 50_000) * (1 + 0.02 * number_of(name))

    def one(name: str, unit: str, value: float, higher: bool) -> Measurement:
        return Measurement(name, value, unit, 4, higher, 0.99 * value, 1.01 * value)

    measurements = {
        name: {
            "latency_ms": one("latency_ms", "ms", x, False),
            "latency_p95_ms": one("latency_p95_ms", "ms", 1.1 * x, False),
            "latency_ratio": one("latency_ratio", "ratio", ms[baseline] / x, True),
            "peak_memory_bytes": one("peak_memory_bytes", "bytes", 1e6, False),
        }
        for name, x in ms.items()
    }
    rounds = {name: [[x * (1 + 0.001 * i) for i in range(5)] for _ in range(4)] for name, x in ms.items()}
    floor = one("noise_floor", "%", 0.5, False)
    return LatencyReport(
        baseline=baseline, measurements=measurements, verdicts=dict.fromkeys(ms, "faster"), noise_floor=floor,
        samples={name: [x] for name, x in ms.items()}, round_medians=rounds, copy_medians=rounds[baseline], launches=4, rounds=20,
        threads=settings.threads, batch=settings.batch, seconds=1.0,
    )  # fmt: skip


class FakeTime:
    """A run's clock stands while it works and jumps by what a step is said to take; a training's goes on by its steps."""

    def __init__(self) -> None:
        self.run = self.training = self.estimates = 0.0
        for module in (store, deadline, invocation, sys.modules["planish.search.optimize"]):
            module.monotonic = lambda: self.run
        for module in (schedule, _FIT):
            module.monotonic = lambda: self.training
        time_estimates.perf_counter = sensitivity.perf_counter = self._estimate
        runner.measure_latency = measured
        sys.modules["planish.search.optimize"].process_seconds = lambda *_, **__: 0.5
        layer_latency._timed = lambda variants, *_: [1e-6 * layer_latency.multiplications(v) + 0.001 for v in variants]
        precision._step_seconds = lambda *_: (1.0, 2.0)
        input_speed._WORTH_TELLING = 2.0
        real = _FIT._Loss.__call__

        def timed(loss: Any, *batch: Any) -> Any:
            self.training += 1 / 4
            return real(loss, *batch)

        _FIT._Loss.__call__ = timed

    def _estimate(self) -> float:
        self.estimates += 1 / 1024
        return self.estimates

    def took(self, key: str) -> None:
        self.run += 1 + 2 * number_of(key)


def watch_steps(log: Path, clock: FakeTime | None) -> None:
    file = log.open("a", buffering=1)
    once, do = store.Store.once, store.Store._do

    depth = 0

    def tell(what: str, key: str, *more: Any) -> None:
        file.write(json.dumps([os.getpid(), what, key, *more]) + "\n")

    def watched_do(self: store.Store, key: str, stage: str, work: Any) -> Any:
        def timed() -> Any:
            found = work()
            if clock is not None:
                clock.took(key)
            return found

        tell("begun", key)
        step = do(self, key, stage, timed)
        tell("finished", key)
        return step

    def watched_once(self: store.Store, key: str, stage: str, work: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            found = once(self, key, stage, work)
        finally:
            depth -= 1
        if not depth:
            tell("known", key, self.elapsed, hashlib.sha256(json.dumps(found).encode()).hexdigest())
        return found

    store.Store._do, store.Store.once = watched_do, watched_once


def main(job: dict[str, Any]) -> None:
    """``job``: ``options`` of ``optimize``, ``clock``, and ``kills``: how many steps are finished and how many seconds pass until each."""
    run = Path(job["options"]["out"])
    log, kills = run.with_name("sittings.jsonl"), list(job["kills"])
    log.touch()
    while True:
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            try:
                watch_steps(log, FakeTime() if job["clock"] == "fake" else None)
                optimize(**job["options"], resume=(run / store.STORE_FILE).exists())
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        steps, seconds = kills[0] if kills else (sys.maxsize, 0.0)
        reached = None
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                print(json.dumps({"kills": len(job["kills"]) - len(kills)}))
                sys.exit(os.waitstatus_to_exitcode(status))
            if reached is None and log.read_text().count('"finished"') >= steps:
                reached = time.monotonic()
            if reached is not None and time.monotonic() > reached + seconds:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills.pop(0)
                break
            time.sleep(0.01)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

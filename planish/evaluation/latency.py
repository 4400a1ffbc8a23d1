"""Reliable latency measurements: every subject runs in a process of its own, interleaved with the baseline, over several launches.

The speed of a machine drifts (other tenants, heat), so subjects take turns within each round and only ratios within a round are compared.
Random effects of a process's start (memory layout) persist for its lifetime, so all processes are restarted a few times, and the interval
is over launches. A second copy of the baseline is always timed as well: the difference between the two copies is the noise floor.

T. Kalibera and R. Jones, Rigorous benchmarking in reasonable time, ISMM 2013.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from time import monotonic, sleep
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from planish.devices.device import current_device
from planish.devices.latency_process import WorkerProcess
from planish.devices.machine import cpu_model
from planish.devices.remote.reconnection import reconnecting
from planish.devices.remote.state import note_changes
from planish.errors import GoalError
from planish.evaluation.statistics.intervals import Interval, bootstrap_mean, over_launches, paired_ratio
from planish.measurement import Measurement
from planish.progress import Stage, note

Verdict = Literal["faster", "slower", "no difference"]

SMALLEST_DIFFERENCE = 3.0
"""In %: no smaller difference is called one. Two copies of one file, timed as here beside a neighbour that burns a core, stay within it."""

LEAST_LAUNCHES = 2
"""Fewer would leave an interval that knows nothing of the differences between launches."""

_COPY = "second copy of the baseline"
_TURN_MS = 12.0  # long compared to a process switch, short compared to the drift of the machine
_MIN_CALLS = 3
_ROUNDS = 5
_BUSY_MACHINE = 10.0  # in %: with a noise floor whose interval reaches this, relevant differences go undetected
_MAX_CALLS = 2000
_KEPT_SAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class LatencySettings:
    """How latency is measured.

    Args:
        threads: number of threads of each process.
        batch: batch size.
        seconds: timing per subject, summed over all launches, not counting the start of processes.
        launches: how often all processes are started, at least ``LEAST_LAUNCHES``; fewer launches give wider intervals.
        rounds: minimum number of rounds per launch, however long they take.
        at_most: seconds for the whole measurement, including the start of processes: after ``LEAST_LAUNCHES``, no further launch starts
            that is expected to end later.
        seed: seed of the order within rounds.
        timeout: maximum seconds of loading, warming up or one turn.

    Raises:
        GoalError: there are fewer than ``LEAST_LAUNCHES`` launches.
    """

    threads: int = 1
    batch: int = 1
    seconds: float = 2.5
    launches: int = 5
    rounds: int = _ROUNDS
    at_most: float = math.inf
    seed: int = 0
    timeout: float = 180.0

    def __post_init__(self) -> None:
        if self.launches < LEAST_LAUNCHES:
            raise GoalError(
                f"launches={self.launches}", f"latency is measured in at least {LEAST_LAUNCHES} launches, as they differ from each other"
            )


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to be timed.

    Args:
        loader: function that loads the model and returns a ``Predictor``, ``package.module:function``; called in the subject's own process.
        arguments: keyword arguments of the loader, JSON values only.
        images: sample input, uint8 ``(N, H, W, C)``; batches are taken from it in order.
        runtime: name of the runtime, for the measurements.
        imports: modules of the runtime, imported before the memory of the empty process is measured.
    """

    loader: str
    arguments: Mapping[str, Any]
    images: npt.NDArray[np.uint8]
    runtime: str = ""
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LatencyReport:
    """The outcome of a latency measurement.

    Args:
        baseline: name of the subject that the others are compared with.
        measurements: by subject, then by name: ``latency_ms`` (median), ``latency_p95_ms``, ``latency_ratio`` (baseline / subject, above
            1 is faster), ``peak_memory_bytes`` (peak beyond the empty runtime).
        verdicts: by subject, compared with the baseline.
        noise_floor: deviation from 1 of the ratio of two copies of the baseline, in %; ``high`` is the largest deviation in its interval.
        samples: by subject, latencies of single calls in ms in the order in which they ran; evenly thinned to at most 2,000.
        round_medians: by subject, the median latency of each round in ms, one list per launch; ratios are computed from these.
        copy_medians: the same for the second copy of the baseline; the noise floor is computed from these.
        launches: how often all processes were started.
        rounds: number of rounds over all launches.
        threads: number of threads per process.
        batch: batch size.
        seconds: duration of the whole measurement.
    """

    baseline: str
    measurements: dict[str, dict[str, Measurement]]
    verdicts: dict[str, Verdict]
    noise_floor: Measurement
    samples: dict[str, list[float]]
    round_medians: dict[str, list[list[float]]]
    copy_medians: list[list[float]]
    launches: int
    rounds: int
    threads: int
    batch: int
    seconds: float

    def ratio(self, baseline: str, subject: str) -> Measurement:
        """Return the latency ratio of any two subjects, ``baseline`` / ``subject``, round by round; above 1 if ``subject`` is faster."""
        found = paired_ratio(self.round_medians[baseline], self.round_medians[subject])
        known = self.measurements[subject]["latency_ratio"]
        return dataclasses.replace(known, value=found.value, low=found.low, high=found.high)


def smallest_difference(noise_floor: Measurement) -> float:
    """Return the smallest latency difference, in %, that counts as one.

    It is the maximum of the noise floor, two thirds of the upper end of its interval, and 3%.
    """
    return max(noise_floor.value, (noise_floor.high or 0.0) * 2 / 3, SMALLEST_DIFFERENCE)


def verdict(ratio: Measurement, noise_floor: Measurement) -> Verdict:
    """Classify a latency ratio: it is a difference if its interval excludes 1 and it exceeds ``smallest_difference``.

    (Simulated with five launches that differ by 0.5% to 8%: identical models are called different in at most 1.6% of measurements; a
    difference of 10% is missed in 6% of them if launches differ by 3%.)
    """
    floor = 1 + smallest_difference(noise_floor) / 100
    if ratio.low is not None and ratio.low > 1 and ratio.value > floor:
        return "faster"
    if ratio.high is not None and ratio.high < 1 and ratio.value < 1 / floor:
        return "slower"
    return "no difference"


def measure_latency(subjects: Mapping[str, Subject], baseline: str, settings: LatencySettings) -> LatencyReport:
    """Time the subjects against the baseline on the current device (``planish.devices.device``), where nothing else should run meanwhile.

    Files are sent to another device once. A launch is repeated if the connection to it is lost.

    Args:
        subjects: models by name.
        baseline: name of the subject that ratios are relative to.
        settings: threads, batch size and time.

    Raises:
        ModelError: a subject does not load, fails, crashes or hangs; the message names it.
        DeviceError: the device cannot be reached, or the connection is lost again and again.
    """
    if baseline not in subjects:
        raise ValueError(f"the baseline {baseline!r} is not among the subjects {', '.join(subjects)}")
    for name, subject in subjects.items():
        if subject.images.ndim != 4 or subject.images.dtype != np.uint8 or not len(subject.images):
            raise ValueError(
                f"{name!r}: images are {subject.images.dtype} {subject.images.shape}, they must be uint8 (N, H, W, C), N at least 1"
            )
    device = current_device()
    where = device.name
    subjects = {name: _placed(subject) for name, subject in subjects.items()}
    everyone = {**subjects, _COPY: subjects[baseline]}
    order = random.Random(settings.seed)
    launches, seconds = settings.launches, settings.seconds / settings.launches * len(everyone)
    calls: dict[str, list[list[npt.NDArray[np.float64]]]] = {name: [] for name in everyone}  # subject, launch, round: calls
    memory: dict[str, list[float]] = {name: [] for name in everyone}
    begun, before = monotonic(), device.state()
    with Stage("measuring latency", launches) as stage:
        for launch in range(launches):
            if launch >= LEAST_LAUNCHES and (monotonic() - begun) * (launch + 1) / launch > settings.at_most:
                note(f"latency was measured in {launch} launches instead of {launches}, for lack of time: its intervals are wider")
                launches = stage.total = launch
                break
            for name, (rounds, peak) in reconnecting(lambda: _launch(everyone, settings, seconds, order), "this launch").items():
                calls[name].append(rounds)
                memory[name].append(peak)
            stage.advance()
    note_changes(before, device.state())
    floor = noise_floor_of(_medians(calls[baseline]), _medians(calls[_COPY]), subjects[baseline].runtime, settings.seed, where)
    if floor.high is not None and floor.high > _BUSY_MACHINE:
        note(f"two copies of {baseline!r} may differ by {floor.high:.0f}% just now: end other programs, or give it more seconds")
    measured = {
        n: _measurements(calls[n], calls[baseline], memory[n], s.runtime, where, settings.seed, n == baseline) for n, s in subjects.items()
    }
    return LatencyReport(
        baseline=baseline,
        measurements=measured,
        verdicts={name: verdict(m["latency_ratio"], floor) for name, m in measured.items()},
        noise_floor=floor,
        round_medians={name: _rounded(calls[name]) for name in subjects},
        copy_medians=_rounded(calls[_COPY]),
        samples={name: _thin(np.concatenate([r for launch in calls[name] for r in launch])) for name in subjects},
        launches=launches,
        rounds=sum(len(launch) for launch in calls[baseline]),
        threads=settings.threads,
        batch=settings.batch,
        seconds=monotonic() - begun,
    )


def _launch(
    everyone: Mapping[str, Subject], settings: LatencySettings, seconds: float, order: random.Random
) -> dict[str, tuple[list[npt.NDArray[np.float64]], float]]:
    """Start all processes and time them in turn; return, by subject, the latencies of each round in ms and the peak memory in bytes."""
    with ExitStack() as stack:
        workers = _start(everyone, settings, stack)
        turn = {n: _calls_a_turn(w.ask("warm_up")[0]["call_ms"]) for n, w in workers.items()}
        calls: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in everyone}
        start, done = monotonic(), 0
        while done < settings.rounds or monotonic() - start < seconds:
            names = list(workers)
            order.shuffle(names)
            for name in names:
                _, (times,) = workers[name].ask("run", calls=turn[name])
                calls[name].append(times)
                if settings.threads > 1:
                    sleep(0.005)  # thread pools spin for a while after a call, which would slow down the next subject
            done += 1
        return {name: (calls[name], float(worker.ask("memory")[0]["peak_memory_bytes"])) for name, worker in workers.items()}


def _placed(subject: Subject) -> Subject:
    """Return the subject as it is loaded on the current device."""
    loader, arguments = current_device().placed(subject.loader, subject.arguments)
    return dataclasses.replace(subject, loader=loader, arguments=arguments)


def process_seconds(subject: Subject, settings: LatencySettings) -> float:
    """Return the seconds of one process in one launch of ``measure_latency``: start, load the file, warm up, and run the timed calls.

    Raises:
        ModelError: the file does not load or fails.
    """
    begun = monotonic()
    with ExitStack() as stack:
        worker = _start({"the model": _placed(subject)}, settings, stack)["the model"]
        calls = _calls_a_turn(worker.ask("warm_up")[0]["call_ms"])
        for _ in range(_ROUNDS):
            worker.ask("run", calls=calls)
    return monotonic() - begun


def _start(subjects: Mapping[str, Subject], settings: LatencySettings, stack: ExitStack) -> dict[str, WorkerProcess]:
    """Start all processes on the current device and load all models, in parallel since loading is not timed."""
    workers = {}
    for name, subject in subjects.items():
        workers[name] = current_device().worker(name, settings.threads, settings.timeout)
        stack.callback(workers[name].close)
        workers[name].start_loading(subject.loader, subject.arguments, subject.imports, settings.batch, subject.images)
    for worker in workers.values():
        worker.wait()
    return workers


def _calls_a_turn(call_ms: float) -> int:
    return min(_MAX_CALLS, max(_MIN_CALLS, math.ceil(_TURN_MS / max(call_ms, 1e-3))))


def _medians(launches: list[list[npt.NDArray[np.float64]]]) -> list[npt.NDArray[np.float64]]:
    """Return the median latency of each round, one array ``(rounds,)`` per launch."""
    return [np.array([np.median(times) for times in launch]) for launch in launches]


def _rounded(launches: list[list[npt.NDArray[np.float64]]]) -> list[list[float]]:
    return [[round(float(x), 6) for x in launch] for launch in _medians(launches)]


def _ratio(baseline: list[list[npt.NDArray[np.float64]]], other: list[list[npt.NDArray[np.float64]]], seed: int) -> Interval:
    return paired_ratio(_medians(baseline), _medians(other), seed)


def noise_floor_of(
    baseline: Sequence[npt.ArrayLike], copy: Sequence[npt.ArrayLike], runtime: str = "", seed: int = 0, device: str = ""
) -> Measurement:  # fmt: skip
    """Return the noise floor: the deviation from 1 of the latency ratio of two copies of one file, in %.

    Args:
        baseline: median latency of each round, one array ``(rounds,)`` per launch.
        copy: the same for the second copy.
        runtime: runtime of both.
        seed: seed of the bootstrap, see ``paired_ratio``.
        device: name of the processor; empty for that of this machine.
    """
    ratio = paired_ratio(baseline, copy, seed)
    apart = [abs(math.log(r)) for r in ratio]
    nearest = 0.0 if ratio.low <= 1 <= ratio.high else min(apart[1:])
    value, low, high = (100 * math.expm1(x) for x in (apart[0], nearest, max(apart[1:])))
    return Measurement("noise_floor", value, "%", len(baseline), False, low, high, device or cpu_model(), runtime)


def _measurements(
    calls: list[list[npt.NDArray[np.float64]]],
    baseline: list[list[npt.NDArray[np.float64]]],
    memory: list[float],
    runtime: str,
    device: str,
    seed: int,
    is_baseline: bool,
) -> dict[str, Measurement]:
    rounds = sum(len(launch) for launch in calls)
    p95 = over_launches([np.concatenate(launch) for launch in calls], lambda x, axis=None: np.percentile(x, 95, axis=axis), seed)
    ratio = Interval(1.0, 1.0, 1.0) if is_baseline else _ratio(baseline, calls, seed)
    found = {
        "latency_ms": ("ms", rounds, False, over_launches(_medians(calls), seed=seed)),
        "latency_p95_ms": ("ms", sum(len(times) for launch in calls for times in launch), False, p95),
        "latency_ratio": ("ratio", rounds, True, ratio),
        "peak_memory_bytes": ("bytes", len(memory), False, bootstrap_mean(memory, seed)),
    }
    return {
        name: Measurement(name, interval.value, unit, n, higher, interval.low, interval.high, device, runtime)
        for name, (unit, n, higher, interval) in found.items()
    }


def _thin(samples: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(x), 5) for x in samples[:: -(-len(samples) // _KEPT_SAMPLES)]]

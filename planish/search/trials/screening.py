"""Screening of many levels of compression: the latency of each exported file, and its accuracy before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from planish.compression import LatencyPruning
from planish.deadline import deadline
from planish.errors import DeviceError, PlanishError
from planish.evaluation.latency import smallest_difference
from planish.measurement import Measurement
from planish.plan import Plan
from planish.progress import note
from planish.search.choice import format_drop
from planish.search.state import DeployedCandidate, Search
from planish.search.time_estimates import deploy_seconds, finish_seconds, least_finish_seconds, seconds_to_come
from planish.search.trials.forecast import Forecast
from planish.search.trials.proposals import FIRST_LEVELS, Level, Trial, fitted, time_trials

_ORIGINAL = Plan()
_LARGE_PIXELS = 64
_RANKS_SECONDS = 150.0  # screening time above which it is tested whether layers should also be split into low-rank factors
_RANKS_GAIN_POINTS = 1.0
_MOST_LEVELS = 18
_LOOK_SHARE = 0.5  # maximum share of the time left for screening and training that one level may take
_SESSION_SHARE = 0.3


@dataclass(frozen=True)
class Screening:
    """The outcome of a screening.

    Args:
        trials: the timed trials, including those that do not pay.
        pruning: settings of latency pruning, for further levels.
        refused: levels of which no plan applies.
    """

    trials: tuple[Trial, ...]
    pruning: LatencyPruning
    refused: tuple[Level, ...] = ()


def screen(search: Search, seconds: float) -> Screening:
    """Screen several levels of compression: compress the network without training, export it, and measure its latency.

    The first levels are fixed and spread over all directions. From what they cost and bring, the others are chosen: those from which the
    training that follows is expected to gain most. Trials that are not faster than the uncompressed network in the same precision are
    stopped.

    Args:
        search: state of the search.
        seconds: approximate time to spend, which determines how many levels are screened.
    """
    runner, cost = search.runner, 1 + deploy_seconds(search)
    low_rank = seconds > _RANKS_SECONDS and runner.store.once("ranks", "searching", partial(_ranks_pay, search, Level(2.5)))
    pruning = _pruning(search, low_rank)
    count = runner.store.once("levels", "searching", lambda: max(1, min(_MOST_LEVELS, int(seconds / cost))))
    trials, refused = list[Trial](), list[Level]()
    last = cost

    def looked(levels: Sequence[Level], known: int = 0) -> list[Trial]:
        """Screen the levels for which there is time; keep enough of it to measure them and to train one."""
        nonlocal last
        found: list[Trial] = []
        for level in levels:
            if search.seconds_left - seconds_to_come(search, known + len(found) + 1) <= 3 * last:
                break
            before = search.seconds_left
            new = screen_level(search, pruning, level)
            found += new
            refused.extend([] if new else [level])
            last = max(cost, before - search.seconds_left)
        return found

    first = FIRST_LEVELS[:count]
    trials = looked((*first, *_students(search)))
    if not trials:
        note("no pruned network was found, or there is no time to train one")
        return Screening((), pruning, tuple(refused))
    trials = measure(search, "first look", trials)
    more = _next_levels(Forecast(search, trials, (), refused), count - len(first))
    if more and (found := looked(more, len(trials))):
        trials += measure(search, "second look", found)
    _note_prediction(trials)
    return Screening(tuple(trials), pruning, tuple(refused))


def _next_levels(forecast: Forecast, count: int) -> list[Level]:
    """Return up to ``count`` more levels to screen, the most promising first."""

    search = forecast.search

    def proposed() -> list[dict[str, Any]]:
        seconds = search.seconds_left - finish_seconds(search, len(forecast.screened))
        if count < 1 or seconds <= 0:
            return []
        return [asdict(level) for level, _ in forecast.promising_levels(seconds, count)]

    return [Level(**fields) for fields in search.runner.store.once("proposed levels", "searching", proposed)]


def _students(search: Search) -> list[Level]:
    """Return the levels of the students: each architecture at the full input size and, if images are large, at half of it."""
    spec = search.runner.original.input_spec
    scales = (1.0, 0.5) if min(spec.height, spec.width) >= _LARGE_PIXELS else (1.0,)
    return [Level(student=name, resolution=scale) for name in search.students for scale in scales]


def _ranks_pay(search: Search, level: Level) -> bool:
    """Whether allowing low-rank factorization gives a smaller drop before training at the same speed-up of the layers."""
    drops, unit = list[float](), ""
    for low_rank in (False, True):
        plan = level.plans(_pruning(search, low_rank))[0]
        try:
            lost = search.runner.drop(plan, "torch", (_ORIGINAL, "torch"), "validation")
        except DeviceError:
            raise
        except PlanishError:
            return False
        drops.append(lost.value)
        unit = lost.unit
    whole, split = format_drop(drops[0], unit), format_drop(drops[1], unit)
    note(f"layers made {level.speedup:g}x as fast cost {whole} before training, with some of them split {split}")
    return drops[1] < drops[0] - _RANKS_GAIN_POINTS * search.goal.point


def _pruning(search: Search, low_rank: bool) -> LatencyPruning:
    variant = search.deployment
    return LatencyPruning(
        speedup=2, runtime=variant.runtime, precision=variant.precision, threads=search.threads, batch_size=search.batch, low_rank=low_rank,
        mixed_precision=search.mixed_precision,
    )  # fmt: skip


def _note_prediction(trials: Sequence[Trial]) -> None:
    """Report how well the sum of the layers' latencies, calibrated with the measured files, predicts the latency of a file."""
    pruned = time_trials(trials)
    if len(pruned) > 2 and (line := fitted(pruned)) is not None:
        off = [abs(line[0] * t.level.share + line[1] - t.latency_ms) / t.latency_ms for t in pruned]
        note(f"latency predicted from timed layers is off by {100 * float(np.median(off)):.0f} % (median of {len(pruned)} files)")


def screen_level(search: Search, pruning: LatencyPruning, level: Level) -> list[Trial]:
    """Compress and export the network at a level; return a list with the trial, or an empty list if none of its plans applies.

    Args:
        search: state of the search.
        pruning: settings of latency pruning.
        level: how strongly to compress.
    """
    runner, deployment = search.runner, replace(search.deployment, for_timing=True)
    for plan in level.plans(pruning):
        trial = Trial(level, plan)

        def drop(plan: Plan = plan) -> Measurement:
            runner.artifact(DeployedCandidate(plan, deployment).plan)
            return runner.drop(plan, "torch", (_ORIGINAL, "torch"), "validation")

        allowed = max(0.0, _LOOK_SHARE * (search.seconds_left - seconds_to_come(search, 1)))
        search.journal.planned["searching"] += allowed
        with deadline(allowed):
            why = runner.store.attempt(f"look:{plan.key}", "searching", drop)
        if why:
            note(f"{trial.name} does not apply: {why}")
            continue
        runner.release()
        return [search.show_trial(replace(trial, measurements={"drop_untrained": replace(drop(), name="drop_untrained")}))]
    return []


def measure(search: Search, name: str, trials: Sequence[Trial]) -> list[Trial]:
    """Measure latency and size of the trials' files side by side, and return the updated trials.

    Trials that are not faster than the uncompressed network in the same precision are marked as stopped.

    Args:
        search: state of the search.
        name: name of the timing session.
        trials: the trials to measure.
    """
    deployment = replace(search.deployment, for_timing=True)
    subjects = {t.name: DeployedCandidate(t.plan, deployment) for t in trials}
    uncompressed, baseline = "uncompressed", "baseline"
    subjects |= {uncompressed: DeployedCandidate(_ORIGINAL, search.deployment), baseline: DeployedCandidate(_ORIGINAL, search.fp32[0])}
    at_most = _SESSION_SHARE * max(0.0, search.seconds_left - least_finish_seconds(search, 1))
    report = search.latency(name, subjects, baseline, seconds=0.6, launches=3, at_most=at_most)
    found, floor = report.measurements, report.noise_floor
    timed = []
    for trial in trials:
        size = search.runner.size(subjects[trial.name].plan, deployment.runtime)
        measurements = {**trial.measurements, **found[trial.name], "size_bytes": size}
        gain = found[uncompressed]["latency_ms"].value / measurements["latency_ms"].value
        pays = gain >= 1 + smallest_difference(floor) / 100
        stopped = "" if pays else f"does not pay: {gain:.2f}x as fast as the uncompressed network in the same precision"
        timed.append(search.show_trial(replace(trial, measurements=measurements, gain=gain, stopped=stopped or trial.stopped)))
    return timed

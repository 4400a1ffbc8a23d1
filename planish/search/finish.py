"""The end of a run: the finalists measured side by side, one chosen, and test read once for it and the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from planish.errors import PlanishError
from planish.evaluation.machine import describe_machine
from planish.evaluation.size import macs
from planish.export.bundle import write_bundle
from planish.measurement import Measurement, in_words
from planish.plan import Plan
from planish.progress import note
from planish.search.choose import choose, describe_miss, frontier, misses, nearest_miss
from planish.search.evidence import errors, per_class, write_evidence
from planish.search.pace import FINALISTS
from planish.search.proposals import Trial, expected_drop, promise
from planish.search.result import CandidateResult, Goal, Result
from planish.search.state import Search, Shipped
from planish.training.prepare import Job

_ORIGINAL = Plan()


def finish(search: Search, job: Job, trials: Sequence[Trial], *, folder: Path, model: str, command: str, notes: list[str]) -> Result:
    """Measure, choose, read test, and write the run's files.

    Args:
        search: what is known so far.
        job: the images and the model.
        trials: trained levels.
        folder: of the run; gets ``bundle/``, ``result.json``, and what ``write_evidence`` writes.
        model: what the user called the model.
        command: the command line.
        notes: what was decided on the user's behalf.
    """
    runner = search.runner
    subjects = _finalists(search, trials)
    baselines = {way.runtime: Shipped(_ORIGINAL, way).key for way in search.fp32}
    baseline = baselines[search.fp32[0].runtime]
    seconds = min(4.0, max(1.0, 0.3 * search.seconds_left / (len(subjects) + 1)))
    report = search.latency("final", subjects, baseline, seconds=seconds, launches=4)
    measured = {key: _candidate(search, subjects, key, baseline, report.measurements[key]) for key in subjects}

    others = [c for key, c in measured.items() if key not in baselines.values()]
    fallback = next(way for way in search.fp32 if way.runtime in search.allowed)
    chosen = choose(others, measured[baselines[fallback.runtime]], search.goal)
    ships = subjects[chosen.key]
    tested = {name: runner.outputs(s.plan, s.runtime, "test") for name, s in (("baseline", subjects[baseline]), ("chosen", ships))}
    before, after = (_with_test(search, c, subjects[c.key]) for c in (measured[baseline], chosen))
    drop = runner.drop(ships.plan, ships.runtime, (subjects[baseline].plan, subjects[baseline].runtime), "test")
    ratios = {runtime: report.ratio(key, chosen.key) for runtime, key in baselines.items()}
    size_ratio = before.measurements["size_bytes"].value / after.measurements["size_bytes"].value
    headline = min(ratios.values(), key=lambda m: m.value)
    shortfall = _shortfall(chosen, others, search.goal, drop)
    candidates = [*_unmeasured(search, measured), *(after if c.key == after.key else _why(c, chosen, search.goal) for c in others)]
    result = Result(
        name=folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        model=model,
        verdict=verdict(headline, size_ratio, drop, job.task.primary_metric),
        goal=search.goal,
        goal_met=not shortfall,
        shortfall=shortfall,
        baseline=before,
        baselines={runtime: before if key == before.key else measured[key] for runtime, key in baselines.items()},
        chosen=after,
        frontier=frontier([*others, before]),
        candidates=candidates,
        latency_ratio=headline,
        latency_ratios=ratios,
        size_ratio=Measurement("size_ratio", size_ratio, "ratio", 1, True),
        drop=drop,
        per_class=per_class(job.task, tested),
        errors=errors(job.task, tested),
        noise_floor=report.noise_floor,
        machine=describe_machine() | {"threads": search.threads, "batch": search.batch},
        data=job.data.report.model_dump(mode="json"),
        seconds={stage: round(s, 1) for stage, s in runner.store.seconds().items()},
        notes=notes,
        metric=job.task.primary_metric,
        class_names=job.task.class_names,
    )
    write_evidence(folder, job.task, job.artifact.input_spec, job.artifact.preprocessing, tested, report)
    write_bundle(
        runner.artifact(ships.plan),
        job.task,
        folder / "bundle",
        runtime=after.runtime,
        measurements=after.measurements | {"drop": drop, "latency_ratio": headline},
        threads=search.threads,
        batch=search.batch,
        assignment=job.data.assignment,
    )
    result.save(folder / "result.json")
    return result


def _finalists(search: Search, trials: Sequence[Trial]) -> dict[str, Shipped]:
    """What is measured, by key: the originals, the uncompressed network as deployed, the best trials."""
    ranked = sorted(trials, key=lambda t: promise(t, expected_drop(t, trials), search.goal), reverse=True)[:FINALISTS]
    everything = [Shipped(_ORIGINAL, way) for way in (*search.fp32, search.deployment)]
    best = [Shipped(t.plan, search.deployment) for t in ranked]
    everything += best
    without_rounding = next((shipped.network for shipped in best if not shipped.learned_rounding), None)
    if search.deployment.precision == "int8" and without_rounding is not None:
        everything.append(Shipped(without_rounding, replace(search.deployment, precision="fp32")))
    subjects: dict[str, Shipped] = {}
    for shipped in everything:
        if (
            len(subjects) > len(search.fp32)
            and search.seconds_left < 30
            and search.runner.store.get(f"artifact:{shipped.plan.key}") is None
        ):
            note(f"no time is left to measure {shipped.plan}")
            continue
        try:
            search.runner.outputs(shipped.plan, shipped.runtime, "validation")
        except PlanishError as error:
            if shipped.network == _ORIGINAL and shipped.way in search.fp32:
                raise
            note(f"{shipped.plan} is left out: {error}")
            continue
        search.runner.release()
        subjects[shipped.key] = shipped
    return subjects


def _candidate(
    search: Search, subjects: Mapping[str, Shipped], key: str, baseline: str, measurements: dict[str, Measurement]
) -> CandidateResult:
    runner, shipped, reference = search.runner, subjects[key], subjects[baseline]
    metric = runner.metrics(shipped.plan, shipped.runtime, "validation")[runner.task.primary_metric]
    drop = runner.drop(shipped.plan, shipped.runtime, (reference.plan, reference.runtime), "validation")
    network = runner.artifact(shipped.network)
    everything = measurements | {
        "size_bytes": runner.size(shipped.plan, shipped.runtime),
        "metric_validation": _named(metric, "metric_validation"),
        "drop_validation": _named(drop, "drop_validation"),
    }
    if network.module is not None:
        everything["macs"] = macs(network.module, network.input_spec)
    original = shipped.network == _ORIGINAL and shipped.way in search.fp32
    candidate = search.show(key, shipped, "baseline" if original else "measured", everything)
    return replace(candidate, meets_goal=not misses(candidate, search.goal))


def _with_test(search: Search, candidate: CandidateResult, shipped: Shipped) -> CandidateResult:
    metrics = search.runner.metrics(shipped.plan, shipped.runtime, "test")
    return replace(candidate, measurements=metrics | candidate.measurements)


def _named(measurement: Measurement, name: str) -> Measurement:
    return replace(measurement, name=name)


def _unmeasured(search: Search, measured: Mapping[str, CandidateResult]) -> list[CandidateResult]:
    """Candidates that were stopped on the way, the measured ones left out."""
    return [c for c in search.candidates.values() if c.key not in measured and c.stage in ("glanced", "trained")]


def _why(candidate: CandidateResult, chosen: CandidateResult, goal: Goal) -> CandidateResult:
    if candidate.key == chosen.key:
        return replace(candidate, why="")
    miss = describe_miss(candidate, goal)
    if miss:
        return replace(candidate, why=miss)
    faster = candidate.measurements["latency_ms"].value < chosen.measurements["latency_ms"].value
    return replace(candidate, why="too close to the limit of what may be lost to be safe" if faster else "the chosen one is faster")


def verdict(ratio: Measurement, size_ratio: float, drop: Measurement, metric: str) -> str:
    """One sentence with the numbers; ``metric`` is what is lost, by name."""
    assert drop.low is not None
    assert drop.high is not None
    change = f"{'loses' if drop.value >= 0 else 'gains'} {abs(drop.value):.2f} points of {in_words(metric)} on test"
    ends = sorted((drop.low, drop.high)) if drop.value >= 0 else sorted((-drop.low, -drop.high))
    nothing = ", which is no difference" if drop.low <= 0 <= drop.high else ""
    return (
        f"The chosen model is {ratio.value:.1f}x [{ratio.low:.1f}, {ratio.high:.1f}] as fast as the fp32 original, "
        f"{size_ratio:.1f}x smaller, and {change} [{ends[0]:.2f}, {ends[1]:.2f}]{nothing}."
    )


def _shortfall(chosen: CandidateResult, others: Sequence[CandidateResult], goal: Goal, drop: Measurement) -> str:
    if misses(chosen, goal):
        nearest = nearest_miss(others, goal) or chosen
        return (
            f"Nothing met every limit on validation. The nearest is {nearest.summary} in {nearest.runtime}: {describe_miss(nearest, goal)}."
        )
    over = drop.value - goal.max_drop_points
    return f"On validation it is within every limit, but on test it loses {over:.2f} points more than allowed." if over > 0 else ""

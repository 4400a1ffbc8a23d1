"""The end of a run: finalists are measured side by side, one is chosen and timed again, and it and the original are evaluated on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from planish.evaluation.latency import LatencyReport
from planish.evaluation.size import macs
from planish.export.bundle.folder import write_bundle
from planish.goal import Goal
from planish.measurement import Measurement
from planish.plan import Plan
from planish.progress import note
from planish.runs.precision import precision_name
from planish.runs.record import OpenRun
from planish.search.choice import choose_candidate, describe_doubt, describe_miss, drop_upper_bound, frontier, misses
from planish.search.device_agreement import check_on_device
from planish.search.evidence import divergence, errors, per_class, write_evidence
from planish.search.provenance import sources
from planish.search.result import CandidateResult, ClassResult, ErrorResult, Result
from planish.search.state import ORIGINAL_SESSION, DeployedCandidate, Search
from planish.search.time_estimates import (
    CHOSEN_LAUNCHES,
    FINAL_LAUNCHES,
    FINALISTS,
    budget_use,
    deploy_seconds,
    least_finish_seconds,
    session_seconds,
    test_seconds,
    writing_seconds,
)
from planish.search.trials.proposals import Trial, priority
from planish.search.verdict import reasons, shortfall, verdict
from planish.settings import DeploymentTarget
from planish.task import metric_of
from planish.training.prepare import Job

if TYPE_CHECKING:
    from planish.artifact import Outputs

_ORIGINAL = Plan()


def finish(search: Search, job: Job, trials: Sequence[Trial], record: OpenRun, model: str) -> Result:
    """Measure the finalists, choose one, evaluate on test, and write the run's files.

    Args:
        search: state of the search.
        job: the images and the model.
        trials: trained trials.
        record: the open run; ``bundle/``, ``result.json`` and the files of ``write_evidence`` are written to its folder.
        model: name of the model as given by the user.
    """
    folder = record.path
    runner = search.runner
    subjects = _finalists(search, trials)
    baselines = {original.runtime: original.key for original in search.originals}
    baseline = baselines[search.fp32[0].runtime]
    found = _timed_to_choose(search, subjects, baseline, len(baselines) + 1)
    measured = {key: _candidate(search, subjects, key, baseline, found[key]) for key in subjects}
    others = [c for key, c in measured.items() if key not in baselines.values()]
    key = choose_candidate(others, _best_original(search, measured), search.goal).key
    # Everything whose duration is fixed comes before the last timing session, which can be shortened.
    ships = subjects[key]
    check_on_device(search, ships)
    models = {"baseline": baseline, "chosen": key} | {variant.runtime: baselines[variant.runtime] for variant in search.defaults}
    search.journal.planned["evaluating on test"] = test_seconds(search)
    tested = {name: runner.outputs(subjects[k].plan, subjects[k].runtime, "test") for name, k in models.items()}
    judged = _judged_on_test(search, {name: subjects[each] for name, each in models.items()}, tested)
    report = time_chosen(search, {each: subjects[each] for each in dict.fromkeys((*baselines.values(), key))}, baseline)
    measured |= {each: _candidate(search, subjects, each, baseline, found) for each, found in report.measurements.items()}

    others = [c for each, c in measured.items() if each not in baselines.values()]
    measured |= {each: _with_test(search, measured[each], subjects[each]) for each in dict.fromkeys(models.values())}
    measured[key] = replace(measured[key], measurements=measured[key].measurements | divergence(job.task, tested))
    before, after = measured[baseline], measured[key]
    drop = runner.drop(ships.plan, ships.runtime, (subjects[baseline].plan, subjects[baseline].runtime), "test")
    ratios = {runtime: report.ratio(original, key) for runtime, original in baselines.items()}
    size_ratio = before.measurements["size_bytes"].value / after.measurements["size_bytes"].value
    headline = min(ratios.values(), key=lambda m: m.value)
    missed = shortfall(after, others, search.goal, drop)
    measured |= {c.key: _why(measured[c.key], after, search.goal) for c in others}
    used = budget_use(search)  # the last step: the seconds by stage that follow are the same in a resumed run
    others, after = [measured[c.key] for c in others], measured[key]
    result = Result(
        **record.record(threads=search.threads, batch=search.batch, training_precision=precision_name(search.recovery.mixed_precision)),
        model=model,
        verdict=verdict(headline, report.noise_floor, size_ratio, drop, metric_of(job.task)),
        goal=search.goal,
        goal_met=not missed,
        shortfall=missed,
        choice=reasons(after, others, search.goal),
        baseline=before,
        baselines={runtime: measured[original] for runtime, original in baselines.items()},
        chosen=after,
        pareto_frontier=frontier([*others, before]),
        candidates=[*_unmeasured(search, measured), *others],
        latency_ratio=headline,
        latency_ratios=ratios,
        size_ratio=Measurement("size_ratio", size_ratio, "ratio", 1, True),
        drop=drop,
        per_class=judged[0],
        errors=judged[1],
        noise_floor=report.noise_floor,
        data=job.data.report.model_dump(mode="json"),
        budget=used,
        metric=metric_of(job.task).name,
        class_names=job.task.class_names,
    )
    write_evidence(folder, job.task, job.artifact.input_spec, job.artifact.preprocessing, tested, sources(search, result), result)
    write_bundle(
        runner.artifact(ships.plan),
        job.task,
        folder / "bundle",
        target=DeploymentTarget(after.runtime, search.threads, search.batch),
        measurements=after.measurements | {"drop": drop, "latency_ratio": headline},
        assignment=job.data.assignment,
    )
    result.save(folder / "result.json")
    return result


def _finalists(search: Search, trials: Sequence[Trial]) -> dict[str, DeployedCandidate]:
    """Return what to measure, by key: the originals, the uncompressed network as candidates are deployed, and the best trials.

    If candidates are deployed in INT8, the best of these trials without quantization-aware training is also measured in fp32.
    """
    ranked = sorted(trials, key=lambda t: priority(t, drop_upper_bound(t.last_drop, search.goal), search.goal), reverse=True)[:FINALISTS]
    everything = [*search.originals, DeployedCandidate(_ORIGINAL, search.deployment)]
    best = [DeployedCandidate(t.plan, search.deployment) for t in ranked]
    everything += best
    without_rounding = next((shipped.network for shipped in best if not shipped.learned_rounding), None)
    if search.deployment.precision == "int8" and without_rounding is not None:
        everything.append(DeployedCandidate(without_rounding, replace(search.deployment, precision="fp32")))
    subjects: dict[str, DeployedCandidate] = {}
    cost = deploy_seconds(search)
    for shipped in everything:
        least = cost + session_seconds(search, len(subjects) + 1) + least_finish_seconds(search, 0)
        is_exported = search.runner.store.has(f"artifact:{shipped.plan.key}")
        if len(subjects) > len(search.originals) and search.seconds_left < least and not is_exported:
            note(f"no time is left to measure {shipped.plan}")
            continue
        before = search.seconds_left
        metrics = partial(search.runner.metrics, shipped.plan, shipped.runtime, "validation")
        if shipped in search.originals:
            metrics()
        elif why := search.runner.store.attempt(f"final:{shipped.key}", "searching", metrics):  # outputs may be NaN
            note(f"{shipped.plan} is left out: {why}")
            continue
        search.runner.release()
        subjects[shipped.key] = shipped
        cost = max(cost, before - search.seconds_left)
    return subjects


def _timed_to_choose(
    search: Search, subjects: Mapping[str, DeployedCandidate], baseline: str, timed_later: int
) -> Mapping[str, dict[str, Measurement]]:
    """Return the latencies that the choice is based on, by key.

    They are measured in a session of their own, or taken from the originals' session if every finalist was already timed there.

    Args:
        search: state of the search.
        subjects: finalists by key.
        baseline: key of the subject that ratios are relative to.
        timed_later: number of files that the last session, with the chosen model, will time.
    """
    known = search.journal.sessions[ORIGINAL_SESSION].rounds
    if subjects.keys() <= known.keys():
        of_name = {c.key: c.measurements for c in search.journal.candidates.values()}
        return {key: of_name[key] for key in subjects}
    at_ease = CHOSEN_LAUNCHES * session_seconds(search, timed_later, 1)
    time = search.seconds_left - test_seconds(search) - writing_seconds(search.journal.process_seconds)
    at_most = max(0.0, time - min(at_ease, time / 2))
    return search.latency("final", subjects, baseline, seconds=4.0, launches=FINAL_LAUNCHES, at_most=at_most).measurements


def time_chosen(search: Search, subjects: Mapping[str, DeployedCandidate], baseline: str) -> LatencyReport:
    """Time the chosen model and the originals again, in a session of their own; the run reports these latencies.

    The latencies of the session that the choice was based on are biased in favour of the chosen model (selection bias): among six equally
    fast models the chosen one appears 1.3 % faster than it is, and the 95 % interval of the ratio has a coverage of 92 %.

    Args:
        search: state of the search.
        subjects: the chosen model and the originals by key.
        baseline: key of the subject that ratios are relative to.
    """
    at_most = max(0.0, search.seconds_left - writing_seconds(search.journal.process_seconds))
    return search.latency("chosen", subjects, baseline, seconds=4.0, launches=CHOSEN_LAUNCHES, at_most=at_most)


def _candidate(
    search: Search, subjects: Mapping[str, DeployedCandidate], key: str, baseline: str, measurements: dict[str, Measurement]
) -> CandidateResult:
    runner, shipped, reference = search.runner, subjects[key], subjects[baseline]
    metric = runner.metrics(shipped.plan, shipped.runtime, "validation")[metric_of(runner.task).name]
    drop = search.drop(shipped, reference)
    network = runner.artifact(shipped.network)
    everything = measurements | {
        "size_bytes": runner.size(shipped.plan, shipped.runtime),
        "metric_validation": _named(metric, "metric_validation"),
        "drop_validation": _named(drop, "drop_validation"),
    }
    if shipped not in search.originals:
        everything["drop_risk"] = search.drop_risk(shipped, reference)
    if network.module is not None:
        everything["macs"] = macs(network.module, network.input_spec)
    candidate = search.show(key, shipped, "baseline" if shipped in search.originals else "measured", everything)
    return replace(candidate, meets_goal=not misses(candidate, search.goal))


def _best_original(search: Search, measured: Mapping[str, CandidateResult]) -> CandidateResult:
    """Return the fastest original within the accuracy limit among the allowed runtimes; it ships if no candidate meets the goal."""
    originals = [measured[original.key] for original in search.originals if original.runtime in search.allowed]
    return min(originals, key=lambda c: ("accuracy" in misses(c, search.goal), c.measurements["latency_ms"].value))


def _with_test(search: Search, candidate: CandidateResult, shipped: DeployedCandidate) -> CandidateResult:
    return replace(candidate, measurements=search.runner.metrics(shipped.plan, shipped.runtime, "test") | candidate.measurements)


def _judged_on_test(
    search: Search, models: Mapping[str, DeployedCandidate], tested: Mapping[str, Outputs]
) -> tuple[list[ClassResult], list[ErrorResult]]:
    """Return the results by class and by kind of error on test.

    Computing them and the metrics may take long, so it is a step of the run, whose time is recorded.
    """
    runner, found = search.runner, []

    def judge() -> bool:
        for shipped in models.values():
            runner.metrics(shipped.plan, shipped.runtime, "test")
        found.append((per_class(runner.task, tested), errors(runner.task, tested)))
        return True

    runner.store.once("judging test", "evaluating on test", judge)
    if not found:
        judge()
    return found[0]


def _named(measurement: Measurement, name: str) -> Measurement:
    return replace(measurement, name=name)


def _unmeasured(search: Search, measured: Mapping[str, CandidateResult]) -> list[CandidateResult]:
    """Return the candidates that were stopped before the final measurement."""
    return [c for c in search.journal.candidates.values() if c.key not in measured and c.stage in ("screened", "trained")]


def _why(candidate: CandidateResult, chosen: CandidateResult, goal: Goal) -> CandidateResult:
    if candidate.key == chosen.key:
        return replace(candidate, reason="")
    miss = describe_miss(candidate, goal)
    if miss:
        return replace(candidate, reason=miss)
    faster = candidate.measurements["latency_ms"].value < chosen.measurements["latency_ms"].value
    doubt = describe_doubt(candidate, goal) if faster else ""
    return replace(candidate, reason=doubt or "the chosen one is faster" + " by the session that the choice was based on" * faster)

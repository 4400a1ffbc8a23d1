"""Compare each number of ``result.json`` that a page shows with its source: predictions, timings, files, or the run's record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from planish.evaluation.latency import noise_floor_of
from planish.evaluation.metrics.classification import kl_divergence
from planish.evaluation.statistics.drop_risk import drop_risk
from planish.evaluation.statistics.intervals import over_launches, paired_difference, paired_ratio
from planish.files.reading import DAMAGED, read_json
from planish.measurement import Measurement
from planish.report.formatting import number, show, title
from planish.report.recomputation.classifier import classifier
from planish.report.recomputation.run_folder import RunFolder, Scores, class_names
from planish.search.evidence import RECORDED, Session
from planish.search.result import CandidateResult, Result
from planish.search.verdict import reasons, shortfall, verdict

Path = tuple[str, ...]

_ENDS = ("value", "low", "high", "n")
_ROUNDED = 1e-3  # relative tolerance of latencies, since stored times are rounded
_EXACT = 1e-6
_SCORE_POINTS = 0.005  # tolerance of a metric in percent against the mean of its scores, which only differs by rounding
_TIMINGS, _PREDICTIONS, _FILES, _RECORD = "the stored timings", "the stored predictions", "the files", "the run's record"


@dataclass(frozen=True)
class NumberSource:
    """The expected value of a number.

    Args:
        what: the measurement, in words.
        source: where the expected value comes from, in words.
        values: accepted values.
        relative: relative tolerance.
        absolute: absolute tolerance, in the number's unit.
    """

    what: str
    source: str
    values: tuple[float, ...]
    relative: float = _EXACT
    absolute: float = _EXACT

    def admits(self, value: float) -> bool:
        return any(abs(value - each) <= self.absolute + self.relative * abs(each) for each in self.values)


def shown_numbers(result: Result) -> Iterator[tuple[Path, float]]:
    """Yield the path and value of every number that a page shows; a candidate's path starts with its key, as it may occur several times."""
    dumped = TypeAdapter(Result).dump_python(result, mode="json")
    groups: list[tuple[Path, Any]]
    for name, value in dumped.items():
        if name in ("candidates", "pareto_frontier"):
            groups = [(("candidate", each["key"]), each["measurements"]) for each in value]
        elif name in ("baseline", "chosen"):
            groups = [(("candidate", value["key"]), value["measurements"])]
        elif name == "baselines":
            groups = [(("candidate", each["key"]), each["measurements"]) for each in value.values()]
        else:
            groups = [((name,), value)]
        for start, inner in groups:
            yield from (leaf for leaf in _leaves(inner, start) if _is_shown(leaf[0], result.metric))


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name)))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(place)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def _is_shown(path: Path, metric: str) -> bool:
    if path[0] != "candidate":
        return path[0] != "schema_version" and not (path[0] == "size_ratio" and path[-1] == "n")
    name, leaf = path[2], path[3]
    if name == "drop_risk":
        return leaf in ("value", "n")
    if name in ("latency_ms", "latency_ratio", "drop_validation"):
        return True
    return name in ("size_bytes", "metric_validation", "kl_divergence", metric) and leaf == "value"


def expected(
    run: RunFolder, found: Mapping[str, Measurement], per_class: list[tuple[Measurement, Measurement]] | None
) -> dict[Path, NumberSource]:
    """Return the expected value of each shown number that can be derived from the run's folder.

    Args:
        run: the folder's contents.
        found: metrics recomputed from predictions on test: ``before``, ``after``, ``drop``.
        per_class: recomputed metrics of each class, baseline and chosen; None if they cannot be derived from the predictions.
    """
    result, sources = run.result, dict[Path, NumberSource]()
    last, metric = run.sessions[-1], title(result.metric)
    everyone = {c.key: c for c in (*result.candidates, *result.pareto_frontier, *result.baselines.values(), result.baseline, result.chosen)}
    for name in RECORDED:
        for path, value in _leaves(run.evidence[name], (name,)):
            sources[path] = NumberSource(" ".join(path).replace("_", " "), _RECORD, (value,))
    near = _tolerances(run)
    for key, which, of in ((result.baseline.key, "before", "the original"), (result.chosen.key, "after", "the chosen model")):
        path = ("candidate", key, result.metric, "value")
        sources[path] = NumberSource(f"{metric} of {of} on test", _PREDICTIONS, (found[which].value,), *near)
    for runtime, measured in _further(run).items():
        path = ("candidate", result.baselines[runtime].key, result.metric, "value")
        sources[path] = NumberSource(f"{metric} of the original in {runtime} on test", _PREDICTIONS, (measured,), *near)
    if "kl_divergence" in result.chosen.measurements and not isinstance(run.predictions, Scores):
        of_probabilities = kl_divergence(run.predictions.baseline, run.predictions.chosen).value
        path = ("candidate", result.chosen.key, "kl_divergence", "value")
        sources[path] = NumberSource("KL divergence on test", _PREDICTIONS, (of_probabilities,))
    _add(sources, ("drop",), f"Drop of {result.metric} on test", _PREDICTIONS, [found["drop"]])
    for place, (named, seen) in enumerate(zip(result.per_class, per_class or (), strict=False)):
        for which, measured_class in zip(("baseline", "chosen"), seen, strict=True):
            for end in ("value", "n"):
                model = "original" if which == "baseline" else "chosen model"
                what = f"{title(getattr(named, which).name)} on {named.name}, {model}"
                sources["per_class", str(place), which, end] = NumberSource(what, _PREDICTIONS, (getattr(measured_class, end),))
    for key, candidate in everyone.items():
        sessions = [last] if key in last.rounds else [s for s in run.sessions if key in s.rounds]
        timed = [s for s in sessions if key in s.rounds]
        _add(sources, ("candidate", key, "latency_ms"), f"Latency of {key}", _TIMINGS, [_latency(s, key) for s in timed], _ROUNDED)
        ratios = [_ratio(s, s.baseline, key) for s in timed]
        _add(sources, ("candidate", key, "latency_ratio"), f"Latency ratio of {key}", _TIMINGS, ratios, _ROUNDED)
        if (size := size_on_disk(run, candidate)) is not None:
            sources["candidate", key, "size_bytes", "value"] = NumberSource(f"Size of {candidate.summary}, {key}", _FILES, (size,), 0, 0.5)
    _add_validation(sources, run, everyone)
    for runtime, baseline in result.baselines.items():
        ratio = _ratio(last, baseline.key, result.chosen.key)
        _add(sources, ("latency_ratios", runtime), f"Latency ratio against {runtime}", _TIMINGS, [ratio], _ROUNDED)
    smallest = min((_ratio(last, b.key, result.chosen.key) for b in result.baselines.values()), key=lambda m: m.value)
    _add(sources, ("latency_ratio",), "The headline speed-up, which is the smallest of the ratios", _TIMINGS, [smallest], _ROUNDED)
    floor = noise_floor_of(last.rounds[last.baseline], last.copy)
    _add(sources, ("noise_floor",), "Noise floor", _TIMINGS, [floor], _ROUNDED, 0.01)
    before, after = (size_on_disk(run, c) for c in (result.baseline, result.chosen))
    if before and after:
        sources["size_ratio", "value"] = NumberSource("Size ratio", _FILES, (before / after,))
    return sources


def disagreements(result: Result, sources: Mapping[Path, NumberSource]) -> list[str]:
    """Return the discrepancies between the result and the sources of its numbers, one sentence per measurement."""
    found: dict[str, str] = {}
    for path, value in shown_numbers(result):
        source = sources.get(path)
        if source is not None and not source.admits(value):
            end = {"low": " (lower end of its interval)", "high": " (upper end of its interval)", "n": " (how many)"}.get(path[-1], "")
            from_result, seen = _words(path, value), " or ".join(dict.fromkeys(_words(path, each) for each in source.values))
            found.setdefault(source.what, f"{source.what}{end}: the result says {from_result}, {source.source} give {seen}.")
    return [*found.values(), *_sentences(result)]


def unchecked(result: Result, sources: Mapping[Path, NumberSource]) -> list[Path]:
    """Return the shown numbers that cannot be derived from the folder, such as the sizes of deleted files."""
    return [path for path, _ in shown_numbers(result) if path not in sources]


def size_on_disk(run: RunFolder, candidate: CandidateResult) -> float | None:
    """Return the size of a candidate's model files in bytes (for the chosen one, those in the bundle); None if they no longer exist."""
    if candidate.key == run.result.chosen.key:
        folder, description = run.path / "bundle", "bundle.json"
    else:
        folder, description = run.path / "work" / str(run.evidence["files"].get(candidate.key, candidate.key)), "artifact.json"
    try:
        names = read_json(folder / description)["files"]
        return float(sum((folder / str(name)).stat().st_size for name in names))
    except DAMAGED:
        return None


def _sentences(result: Result) -> Iterator[str]:
    """Yield a sentence if the verdict, and one if the goal's outcome, does not follow from the numbers of the result."""
    recomputed_verdict = verdict(result.latency_ratio, result.noise_floor, result.size_ratio.value, result.drop, result.primary_metric)
    if result.verdict != recomputed_verdict:
        yield f"The verdict is not what its numbers say: {recomputed_verdict}"
    measured = [c for c in result.candidates if c.stage == "measured"]
    if result.choice != (recomputed := reasons(result.chosen, measured, result.goal)):
        yield f"The reason for the choice is not what the numbers say: {recomputed or 'there is none.'}"
    missed = shortfall(result.chosen, measured, result.goal, result.drop)
    if result.shortfall != missed or result.goal_met != (not missed):
        yield f"Whether the goal is met is not what the numbers say: {missed or 'it is met.'}"


def _add(
    sources: dict[Path, NumberSource],
    start: Path,
    what: str,
    source: str,
    measured: list[Measurement],
    relative: float = _EXACT,
    absolute: float = _EXACT,
) -> None:
    for end in _ENDS:
        values = tuple(float(v) for m in measured if (v := getattr(m, end)) is not None)
        if values:
            sources[(*start, end)] = NumberSource(what, source, values, relative, absolute)


def _add_validation(sources: dict[Path, NumberSource], run: RunFolder, everyone: Mapping[str, CandidateResult]) -> None:
    stored, of = run.validation, run.result.primary_metric
    images = None if np.isnan(stored.images) else float(stored.images)
    for key, own, reference in zip(stored.candidates, stored.own, stored.reference, strict=True):
        mine, theirs = stored.scores[own], stored.scores[reference]
        drop = of.drop(paired_difference(theirs, mine, images=images), len(mine), "drop_validation")
        _add(sources, ("candidate", str(key), "drop_validation"), f"Drop on validation of {key}", _PREDICTIONS, [drop])
        if str(key) in everyone:
            risk = drop_risk(theirs, mine, run.result.goal.max_drop_points, of, images)
            _add(sources, ("candidate", str(key), "drop_risk"), f"Risk of {key}", _PREDICTIONS, [risk])
            what, value = f"{title(of.name)} on validation of {key}", of.scale * float(mine.mean())
            metric = NumberSource(what, _PREDICTIONS, (value,), *_tolerances(run))
            sources["candidate", str(key), "metric_validation", "value"] = metric


def _tolerances(run: RunFolder) -> tuple[float, float]:
    """Return the relative and absolute tolerance of a metric against its recomputed value; a mean of scores only differs by rounding."""
    if not isinstance(run.predictions, Scores):
        return 0, _EXACT
    return (0, _SCORE_POINTS) if run.result.primary_metric.unit == "%" else (_ROUNDED, 0)


def _further(run: RunFolder) -> dict[str, float]:
    """Return the original's metric on test in the other runtimes, by runtime."""
    stored = run.predictions
    more = {name: values for name, values in stored.more.items() if name in run.result.baselines}
    scale = run.result.primary_metric.scale
    if isinstance(stored, Scores):
        return {name: scale * float(values.mean()) for name, values in more.items()}
    task = classifier(run.result.metric, class_names(run.result))
    return {name: scale * float(task.scores({"logits": values}, stored.targets).mean()) for name, values in more.items()}


def _latency(session: Session, key: str) -> Measurement:
    rounds = session.rounds[key]
    return Measurement("latency_ms", *_parts(over_launches(rounds), "ms", rounds, False))


def _ratio(session: Session, baseline: str, key: str) -> Measurement:
    rounds = session.rounds[key]
    return Measurement("latency_ratio", *_parts(paired_ratio(session.rounds[baseline], rounds), "ratio", rounds, True))


def _parts(interval: Any, unit: str, rounds: list[list[float]], higher: bool) -> tuple[Any, ...]:
    return interval.value, unit, sum(map(len, rounds)), higher, interval.low, interval.high


def _words(path: Path, value: float) -> str:
    name = path[2] if path[0] == "candidate" else path[0]
    units = {"latency_ms": "ms", "size_bytes": "bytes", "latency_ratio": "ratio", "latency_ratios": "ratio", "size_ratio": "ratio"}
    if path[-1] == "n":
        return number(value, 0)
    if name in units:
        return show(Measurement(name, value, units[name], 1, True))
    return number(value, 2)

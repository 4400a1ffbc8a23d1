"""``report.html``: the report of a run, one file that works offline, made only from the run folder.

Plots are inline SVG, a few kB each. The alternative was Plotly, whose script alone is 4.8 MB; its plots do not follow the page's theme and
are not accessible to screen readers.
"""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from planish.evaluation.drawing import LEAST_SCORE
from planish.evaluation.latency import smallest_difference, verdict
from planish.report import formatting as words
from planish.report.pages import error_table as errors
from planish.report.pages.html import HERE, filled, write_page
from planish.report.plots import pictures, thumbnails
from planish.report.plots import run as plots
from planish.report.plots.confusion import FEW_CLASSES, shades
from planish.report.recomputation.recompute import ClassChange, Recomputed, recompute
from planish.report.recomputation.run_folder import RunFolder, Scores, class_names, read_run
from planish.search.choice import limit as limit_of
from planish.search.choice import upper_end
from planish.search.result import Result
from planish.tasks import AGREEMENT

_OF_LABELS = (
    ("Correct only after", "The chosen model is correct, the original is not."),
    ("Correct only before", "The original is correct, the chosen model is not."),
    ("Both wrong, differently", "Neither is right, and they do not say the same."),
)
_OF_AGREEMENT = (
    (
        "Rounding of the original's file",
        "The chosen model gives the answer of the original network, the original's exported file does not.",
    ),
    ("Answers changed", "The chosen model gives another answer than the original, whose answer is the heading of the image."),
    ("Both differ from the original network", "The original's exported file and the chosen model both give another answer."),
)


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder.

    Args:
        run: folder with ``result.json``, ``latency.json``, ``evidence.json``, ``predictions.npz`` and ``validation.npz``;
            ``disagreements.npz``, ``mistakes.npz``, ``pictures.npz``, ``history.json``, ``augmented.png`` and ``bundle/`` are shown if
            they exist.

    Returns:
        Path of the page.

    Raises:
        BundleError: a file is missing, unreadable or inconsistent with the others.
    """
    return write_page(run / "report.html", render(read_run(run)))


def render(run: RunFolder) -> str:
    """Render the page of a run."""
    script = (HERE / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    again = recompute(run)
    result, names = run.result, class_names(run.result)
    everyone = words.everyone(result)
    plotted = plots.plotted(everyone)
    return filled(
        "page.html.jinja",
        result=result,
        again=again,
        shades=shades,
        script=Markup(script),
        script_hash=digest,
        goals=_goals(result),
        headline=_headline(result),
        smallest=smallest_difference(result.noise_floor),
        defaults=[runtime for runtime in result.baselines if runtime.endswith("-default")],
        everyone=everyone,
        frontier_keys={c.key for c in result.pareto_frontier},
        runtimes=plots.runtimes(plotted),
        frontier=[plots.frontier(result, plotted, narrow) for narrow in (False, True)] if plotted else [],
        latencies=[plots.latencies(_latency_rows(run), narrow) for narrow in (False, True)],
        timings=[(name, again.timings[key]) for key, name in _timed(result).items()],
        classes=_classes(again),
        names=names,
        errors=errors.of_both(result.errors),
        errors_changed=errors.error_changes(errors.of_both(result.errors)),
        errors_metric=errors.counted_in(result.metric, result.chosen.measurements),
        agreement=result.metric == AGREEMENT,
        unlabelled="counts" in result.data and not any(result.data["counts"].values()),
        matrices=again.confusion is not None and len(names) <= FEW_CLASSES,
        thumbnails=_thumbnails(run, again),
        mistakes=_mistakes(run),
        least_score=LEAST_SCORE,
        pictures=pictures.shown(run.pictures, run.predictions.keys, result.primary_metric),
        sheet=thumbnails.sheet_uri(run.path / "augmented.png"),
        training=plots.training(run.history, result.primary_metric),
        bundle=run.bundle,
        machine=facts(result.machine),
        device=facts(result.device),
        data=facts(result.data),
        commands=_commands(run),
    )


def _goals(result: Result) -> list[tuple[str, str, bool]]:
    """Return one row per limit of the goal: the limit, the result, and whether the limit is met."""
    goal, m = result.goal, result.chosen.measurements
    rows = []
    drop = m.get("drop_validation")
    if drop:
        test = result.drop
        got = f"{words.change_in_unit(drop)} on validation ({words.change_interval(drop)})"
        got += f", {words.change(test)} on test ({words.change_interval(test)})"
        rows.append((_accuracy_limit(result), got, max(drop.value, test.value) <= goal.max_drop_points))
    if goal.max_latency_ms and "latency_ms" in m:
        took, within = m["latency_ms"], upper_end(m["latency_ms"]) <= goal.max_latency_ms
        got = words.show(took) + (f" ({words.interval(took)})" if words.interval(took) else "")
        unsure = "" if within or took.value > goal.max_latency_ms else "; the interval goes beyond the limit, so that is not shown"
        rows.append((f"at most {goal.max_latency_ms:g} ms", got + unsure, within))
    if goal.max_size_bytes and "size_bytes" in m:
        rows.append(
            (f"at most {words.size(goal.max_size_bytes)}", words.show(m["size_bytes"]), m["size_bytes"].value <= goal.max_size_bytes)
        )
    return rows


def _accuracy_limit(result: Result) -> str:
    limit = limit_of(result.goal, result.drop.unit)
    if result.metric == AGREEMENT:
        return f"at most {result.goal.max_drop_points:g} % of answers change"
    return f"lose at most {limit}" if result.drop.unit == "points" else f"at most {limit} worse"


def _headline(result: Result) -> dict[str, Any]:
    """Return the runtime with the smallest speed-up, its baseline, and the verdicts on the speed-ups."""
    runtime = min(result.latency_ratios, key=lambda r: result.latency_ratios[r].value, default=result.baseline.runtime)
    return {
        "runtime": runtime,
        "baseline": result.baselines.get(runtime, result.baseline),
        "verdict": verdict(result.latency_ratio, result.noise_floor),
        "verdicts": {r: verdict(ratio, result.noise_floor) for r, ratio in result.latency_ratios.items()},
    }


def _timed(result: Result) -> dict[str, str]:
    """Return the names of the models whose latency distributions are plotted, by key."""
    named = {c.key: f"original, {words.runtime_name(c.runtime)}" for c in result.baselines.values()}
    if result.chosen.key not in named:
        named[result.chosen.key] = f"chosen, {words.runtime_name(result.chosen.runtime)}"
    return named


def _latency_rows(run: RunFolder) -> list[tuple[str, str, Any]]:
    chosen = run.result.chosen.key
    return [(name, "chosen" if key == chosen else "original", run.samples[key]) for key, name in _timed(run.result).items()]


def _classes(again: Recomputed) -> dict[str, Any]:
    """Return the classes in the data's order or, if there are many, those that changed most, followed by a short form of the rest."""
    all_of = again.per_class
    ends = [m.low for c in all_of for m in (c.before, c.after) if m.n and m.low is not None]
    floor = min(90.0, 10.0 * math.floor(min(ends, default=0.0) / 10))  # the intervals of perfect detections have no width
    shares = all(c.before.unit == "%" for c in all_of)  # other units have no fixed scale
    many = len(all_of) > FEW_CLASSES
    ranked = sorted(all_of, key=_weight, reverse=True) if many else all_of
    place = {"floor": floor, "scale": 100 / (100 - floor) if shares else 0.0, "strips": shares}
    return place | {
        "shown": ranked[:FEW_CLASSES],
        "rest": ranked[FEW_CLASSES:],
        "paired": all(c.drop.low is not None for c in all_of),
        "different": sum(_is_different(c) for c in all_of),
        "by_chance": max(1, round(len(all_of) / 20)),
    }


def _is_different(changed: ClassChange) -> bool:
    return changed.drop.low is not None and words.change_word(changed.drop) != "no difference"


def _weight(changed: ClassChange) -> tuple[bool, float]:
    return _is_different(changed), abs(changed.drop.value)


def _thumbnails(run: RunFolder, again: Recomputed) -> list[tuple[str, str, int, list[thumbnails.Thumbnail]]]:
    if run.disagreements is None:
        return []
    groups = thumbnails.group(run.disagreements, class_names(run.result))
    titles = _OF_AGREEMENT if run.result.metric == AGREEMENT else _OF_LABELS
    return [(*title, total, members) for title, total, members in zip(titles, again.differing, groups, strict=True) if total]


def _mistakes(run: RunFolder) -> list[thumbnails.Mistake]:
    stored, names = run.predictions, class_names(run.result)
    if run.mistakes is None or isinstance(stored, Scores):
        return []
    return thumbnails.mistakes(
        run.mistakes.pixels,
        run.mistakes.rows.tolist(),
        stored.chosen,
        stored.targets,
        stored.keys,
        names,
    )


def facts(values: Mapping[str, Any]) -> list[tuple[str, str | list[str]]]:
    """Format names and values for reading; unknown values are omitted, an empty list or mapping becomes "none"."""
    return [(_label(key), _value(key, value)) for key, value in values.items() if value is not None and value != ""]


def _label(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ")


def _value(key: str, value: Any) -> str | list[str]:
    if isinstance(value, Mapping):
        return [f"{_label(str(k))}: {_flat(str(k), v)}" for k, v in value.items()] or "none"
    if isinstance(value, list | tuple) and len(value) > 3:
        return [_flat(key, v) for v in value[:20]] + ([f"and {len(value) - 20:,} more"] if len(value) > 20 else [])
    return _flat(key, value)


def _flat(key: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int | float) and key.endswith("_bytes"):
        return words.size(value)
    if isinstance(value, int | float):
        # no thousands separator below 10,000, since the number may be a year, a version or a seed
        return f"{value:,}" if abs(value) >= 10_000 else f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{_label(str(k))} {_flat(str(k), v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_flat(key, v) for v in value) or "none"
    return str(value)


def _commands(run: RunFolder) -> list[tuple[str, str]]:
    try:
        folder = run.path.resolve().relative_to(Path.cwd())
    except ValueError:
        folder = run.path
    bundle = shlex.quote(str(folder / "bundle"))
    return [
        ("Make this run again", run.result.command),
        ("Check the bundle on any machine", f"planish verify {bundle}"),
        ("Serve it from your own code: a few lines of plain Python", f"cat {bundle}/README.md"),
        ("Make this page again", f"planish report {shlex.quote(str(folder))}"),
    ]

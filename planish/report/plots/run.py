"""The plots of a run's page, as inline SVG: no library to load, selectable text, colours that follow the page's theme."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from planish.measurement import Metric
from planish.report.formatting import (
    MINUS,
    change,
    change_heading,
    change_in_unit,
    change_interval,
    metric,
    milliseconds,
    runtime_name,
    show,
    title,
)
from planish.report.plots.svg import Scale, drawing, el, log_ticks, plain, shape, ticks
from planish.report.recomputation.run_folder import EpochRow
from planish.search.choice import limit
from planish.search.result import CandidateResult, Result

_BINS = 160


def plotted(candidates: Sequence[CandidateResult]) -> list[CandidateResult]:
    """Return the candidates to plot: those with a measured latency and drop, and measured baselines."""
    return [c for c in candidates if "latency_ms" in c.measurements and (c.stage == "baseline" or "drop_validation" in c.measurements)]


def runtimes(candidates: Sequence[CandidateResult]) -> list[str]:
    """Return the candidates' runtimes in order of appearance, which determines their markers."""
    return list(dict.fromkeys(c.runtime for c in candidates))


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto-optimal points (latency, change of the metric), by latency."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def tip(candidate: CandidateResult, kind: str, of: str) -> str:
    """Return a point's tooltip.

    Args:
        candidate: that the point shows.
        kind: prefix, such as ``Chosen: ``, or empty.
        of: name of the metric.
    """
    m = candidate.measurements
    lines = [f"{kind}{candidate.summary}", runtime_name(candidate.runtime), f"latency {show(m['latency_ms'])}"]
    drop = m.get("drop_validation")
    if drop and candidate.stage != "baseline":
        lines.append(f"{metric(of)} {change_in_unit(drop)} ({change_interval(drop)})")
    if "size_bytes" in m:
        lines.append(f"size {show(m['size_bytes'])}")
    return "\n".join(lines)


def _change(candidate: CandidateResult) -> float:
    drop = candidate.measurements.get("drop_validation")
    return -drop.value if drop else 0.0


def frontier(result: Result, candidates: Sequence[CandidateResult], narrow: bool = False) -> Markup:
    """Plot latency against the metric's change on validation; a marker's area is the file size, its shape the runtime.

    Args:
        result: of the run.
        candidates: as returned by ``plotted``.
        narrow: draw for a narrow screen: the same plot in fewer pixels, so that its text remains readable.
    """
    width, height, left, bottom = (380.0, 400.0, 44.0, 46.0) if narrow else (960.0, 480.0, 60.0, 52.0)
    goal = result.goal
    xs = [c.measurements["latency_ms"].value for c in candidates] + ([goal.max_latency_ms] if goal.max_latency_ms else [])
    lowest = max(min(map(_change, candidates)), -max(8.0 * goal.point, 6 * goal.max_drop_points))
    lowest, highest = min(lowest, -goal.max_drop_points, -0.5 * goal.point), max(*map(_change, candidates), 0.0, 0.2 * goal.point)
    pad = (highest - lowest) * 0.12
    x = Scale(min(xs) / 1.25, max(xs) * 1.25, left, width - 14, log=True)
    y = Scale(lowest - pad, highest + pad, height - bottom, 18)
    parts = [_limits(result, x, y, narrow), _axes(x, y, log_ticks(x.low, x.high, 5 if narrow else 9), ticks(y.low, y.high, 6))]
    parts.append(el("text", "latency, ms (log scale): faster to the left", x=(x.start + x.end) / 2, y=height - 8, cls="axis middle"))
    parts.append(el("text", _axis(result), x=left, y=11, cls="axis"))
    line = [(x(a), y(max(b, lowest))) for a, b in pareto([(c.measurements["latency_ms"].value, _change(c)) for c in candidates])]
    path = f"M{line[0][0]:.1f},{line[0][1]:.1f}" + "".join(f"H{a:.1f}V{b:.1f}" for a, b in line[1:])
    parts.append(el("path", d=path, cls="frontier-line"))
    kinds = runtimes(candidates)
    on_frontier = {c.key for c in result.pareto_frontier}
    largest = max((c.measurements["size_bytes"].value for c in candidates if "size_bytes" in c.measurements), default=1.0)
    originals = [c for c in candidates if c.stage == "baseline"]
    labels = []
    below: list[float] = []  # x positions of labels for candidates below the plot
    # Draw large markers first, so that they hide no small ones, and the chosen candidate last, on top of all.
    for c in sorted(candidates, key=lambda c: (c.key == result.chosen.key, -_size(c))):
        cx, cy = x(c.measurements["latency_ms"].value), y(max(_change(c), lowest))
        radius = max(5.0 if narrow else 5.5, (13.0 if narrow else 20.0) * math.sqrt(_size(c) / largest))
        chosen, original = c.key == result.chosen.key, c.stage == "baseline"
        cls = "chosen" if chosen else "original" if original else "best" if c.key in on_frontier else "other"
        kind = "Chosen: " if chosen else ""
        marks = [_whisker(c, cx, y, lowest) if chosen or c.key in on_frontier else Markup()]
        marks.append(shape(kinds.index(c.runtime), cx, cy, radius))
        if _change(c) < lowest and all(abs(cx - other) > 60 for other in below):
            below.append(cx)
            marks.append(el("text", f"{change(c.measurements['drop_validation'])} ↓", x=cx, y=cy - radius - 4, cls="tick middle"))
        text = tip(c, kind, result.metric)
        parts.append(el("g", *marks, cls=f"point {cls}", tabindex="0", role="img", aria_label=text.replace("\n", ", "), data_tip=text))
        if chosen or original:
            above, further = (True, 0) if chosen else (originals.index(c) % 2 == 0, 18 * (originals.index(c) // 2))
            anchor = "start" if cx < left + (width - left) * 0.3 else "end" if cx > left + (width - left) * 0.7 else "middle"
            nudge = {"start": -radius, "end": radius, "middle": 0.0}[anchor]
            if chosen and cx > left + 70:  # the space to its left is always free of the frontier's line
                labels.append(el("text", "chosen", x=cx - radius - 8, y=cy + 5, cls="label chosen end"))
            else:
                word = (
                    "chosen"
                    if chosen
                    else f"original, {runtime_name(c.runtime)}"
                    if not narrow
                    else "original"
                    if c is originals[0]
                    else ""
                )
                height_of_label = cy - radius - 7 - further if above else cy + radius + 16 + further
                labels.append(el("text", word, x=cx + nudge, y=height_of_label, cls=f"label {cls} {anchor}"))
    return drawing(
        f"Latency against {metric(result.metric)} change of every measured candidate",
        width,
        height,
        *parts,
        *labels,
        cls=_shown(narrow),
        role="group",
    )


def _axis(result: Result) -> str:
    """Return the title of the vertical axis: the change of the metric in points, or the improvement in another unit."""
    if result.drop.unit == "points":
        return f"{metric(result.metric)} change, points"
    return change_heading(result.drop.unit, f"{metric(result.metric)}, better by")


def _size(candidate: CandidateResult) -> float:
    size = candidate.measurements.get("size_bytes")
    return size.value if size else 0.0


def _shown(narrow: bool) -> str:
    return "only-narrow" if narrow else "only-wide"


def _whisker(candidate: CandidateResult, cx: float, y: Scale, lowest: float) -> Markup:
    drop = candidate.measurements.get("drop_validation")
    if drop is None or drop.low is None or drop.high is None:
        return Markup()
    top, foot = (y(min(max(-end, y.low), y.high)) for end in (drop.low, drop.high))
    return el("line", x1=cx, x2=cx, y1=top, y2=foot, cls="whisker")


def _limits(result: Result, x: Scale, y: Scale, narrow: bool) -> Markup:
    """Shade the regions outside the goal, and label their borders."""
    goal, top, foot = result.goal, min(y.start, y.end), max(y.start, y.end)
    edge = y(-goal.max_drop_points)
    text = f"limit {MINUS if goal.max_drop_points else ''}{limit(goal, result.drop.unit)}"
    parts = [
        el("rect", x=x.start, y=edge, width=x.end - x.start, height=foot - edge, cls="outside"),
        el("line", x1=x.start, x2=x.end, y1=edge, y2=edge, cls="limit"),
        el("text", text, x=x.end - 6, y=edge + 14, cls="limit-label end"),
    ]
    if goal.max_latency_ms:
        side = x(goal.max_latency_ms)
        ends = side > x.start + (x.end - x.start) * 0.7
        parts += [
            el("rect", x=side, y=top, width=x.end - side, height=edge - top, cls="outside"),
            el("line", x1=side, x2=side, y1=top, y2=foot, cls="limit"),
            el(
                "text",
                f"limit {plain(goal.max_latency_ms)} ms",
                x=side + (-6 if ends else 6),
                y=foot - 8,
                cls=f"limit-label {'end' if ends else ''}",
            ),
        ]
    return Markup().join(parts)


def _axes(x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Markup:
    parts = []
    for value in y_ticks:
        parts.append(el("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), cls="grid zero" if value == 0 else "grid"))
        parts.append(el("text", plain(value), x=x.start - 8, y=y(value) + 4, cls="tick end"))
    parts += [el("text", plain(value), x=x(value), y=y.start + 18, cls="tick middle") for value in x_ticks]
    parts += [el("line", x1=x(value), x2=x(value), y1=y.start, y2=y.start + 5, cls="grid") for value in x_ticks]
    return Markup().join(parts)


def latencies(rows: Sequence[tuple[str, str, npt.NDArray[np.float64]]], narrow: bool = False) -> Markup:
    """Plot the latency distributions of single calls, one density per row, on a common log axis.

    Args:
        rows: name, CSS class and latencies in milliseconds ``(N,)`` of each model.
        narrow: draw for a narrow screen.
    """
    width, left, row, top = (380.0, 6.0, 78.0, 6.0) if narrow else (960.0, 6.0, 88.0, 6.0)
    low = min(float(np.percentile(ms, 0.5)) for _, _, ms in rows) / 1.1
    high = max(float(np.percentile(ms, 99)) for _, _, ms in rows) * 1.1
    height = top + row * len(rows) + 46
    x = Scale(low, high, left, width - 8, log=True)
    base = top + row * len(rows)
    parts = [el("line", x1=x(v), x2=x(v), y1=top, y2=base + 5, cls="grid") for v in log_ticks(low, high, 5 if narrow else 9)]
    parts += [el("text", plain(v), x=x(v), y=base + 20, cls="tick middle") for v in log_ticks(low, high, 5 if narrow else 9)]
    parts.append(el("text", "milliseconds a call (log scale)", x=width / 2, y=height - 6, cls="axis middle"))
    for index, (name, cls, ms) in enumerate(rows):
        foot, median = top + row * (index + 1) - 4, float(np.median(ms))
        tall = (row - 40) * _density(ms, low, high)
        steps = np.linspace(x.start, x.end, _BINS)
        seen = tall > 0.2
        seen[1:-1] |= seen[2:] | seen[:-2]
        outline = "".join(f"L{a:.1f},{foot - b:.1f}" for a, b in zip(steps[seen], tall[seen], strict=True))
        start, end = steps[seen][0], steps[seen][-1]
        parts.append(el("path", d=f"M{start:.1f},{foot:.1f}{outline}L{end:.1f},{foot:.1f}Z", cls=f"density {cls}"))
        parts.append(el("line", x1=x.start, x2=x.end, y1=foot, y2=foot, cls="grid zero"))
        parts.append(el("line", x1=x(median), x2=x(median), y1=foot - (row - 38), y2=foot + 4, cls=f"median {cls}"))
        anchor = "end" if x(median) > width * 0.6 else ""
        text = f"{name}: {milliseconds(median)} ms"
        parts.append(el("text", text, x=x(median) + (5 if anchor else -5), y=foot - (row - 38) - 6, cls=f"label {cls} {anchor}"))
    title = "Latency of single calls: " + "; ".join(f"{name}, median {milliseconds(float(np.median(ms)))} ms" for name, _, ms in rows)
    return drawing(title, width, height, *parts, cls=_shown(narrow))


def _density(ms: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
    """Return a histogram on the log axis ``(bins,)``, smoothed by one bin and scaled to a peak of 1."""
    counts, _ = np.histogram(np.log(ms), bins=_BINS, range=(math.log(low), math.log(high)))
    smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
    return smooth / max(float(smooth.max()), 1e-9)


def training(history: Sequence[EpochRow], of: str | Metric) -> list[tuple[str, Markup]]:
    """Plot the validation score and the training loss over the epochs; returns pairs of title and plot, none for fewer than two epochs.

    Args:
        history: one row per epoch.
        of: metric of the score; a name if it is in percent.
    """
    if len(history) < 2:
        return []
    scored = Metric.named(of)
    titles = (change_heading(scored.unit, f"{title(scored.name)} on validation"), "Loss on train")
    columns = ([e.validation_score for e in history], [e.train_loss for e in history])
    epochs = [e.epoch for e in history]
    return [(name, _over_epochs(name, epochs, values)) for name, values in zip(titles, columns, strict=True)]


def _over_epochs(name: str, epochs: Sequence[int], values: Sequence[float]) -> Markup:
    width, height = 460.0, 240.0
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    pad = max((max(finite) - min(finite)) * 0.08, 1e-3)
    x = Scale(min(epochs), max(max(epochs), min(epochs) + 1), 48, width - 44)
    y = Scale(min(finite) - pad, max(finite) + pad, height - 44, 16)
    whole = sorted({round(t) for t in ticks(x.low, x.high, 6)})
    parts = [_axes(x, y, whole, ticks(y.low, y.high, 5)), el("text", "epoch", x=(x.start + x.end) / 2, y=height - 6, cls="axis middle")]
    points = [(x(e), y(v)) for e, v in zip(epochs, values, strict=True) if math.isfinite(v)]
    if points:
        parts.append(el("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in points), cls="curve"))
        parts.append(el("circle", cx=points[-1][0], cy=points[-1][1], r=3.5, cls="curve-end"))
        parts.append(el("text", plain(round(finite[-1], 2)), x=points[-1][0] + 7, y=points[-1][1] + 4, cls="label chosen"))
    return drawing(f"{name}: {plain(round(finite[0], 2))} at first, {plain(round(finite[-1], 2))} at the end", width, height, *parts)

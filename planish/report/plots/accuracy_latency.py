"""A plot of the accuracy of networks over the latency of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from planish.measurement import Measurement
from planish.report import formatting as words
from planish.report.plots.arms import arm_style, mark
from planish.report.plots.svg import Scale, drawing, el, log_ticks, plain, ticks

_LABEL_LEFT = 0.8  # share of the plot's width beyond which labels are on the left of their marker
_FULL, _HOLLOW = 0, 8  # arm styles with filled and with hollow markers


@dataclass(frozen=True)
class LatencyPoint:
    """A network in the plot.

    Args:
        label: short name beside the marker; empty for none.
        title: name and latency, shown under the pointer.
        latency_ms: latency in ms.
        accuracy: accuracy with its interval.
        hollow: whether the marker is hollow.
        how: how the accuracy was measured, appended to the title.
    """

    label: str
    title: str
    latency_ms: float
    accuracy: Measurement
    hollow: bool = False
    how: str = ""


def accuracy_over_latency(points: Sequence[LatencyPoint], max_latency_ms: float | None) -> Markup:
    """Plot accuracy over latency, for wide and for narrow screens; empty if there are no points.

    Args:
        points: the networks.
        max_latency_ms: limit that is drawn as a line; None for none.
    """
    return _plot(points, max_latency_ms, narrow=False) + _plot(points, max_latency_ms, narrow=True) if points else Markup("")


def _plot(points: Sequence[LatencyPoint], max_latency_ms: float | None, narrow: bool) -> Markup:
    width, height, left = (380.0, 340.0, 40.0) if narrow else (960.0, 420.0, 60.0)
    times, ends = [one.latency_ms for one in points], [end for one in points for end in _ends(one.accuracy)]
    longest = max(*times, max_latency_ms or 0.0)
    x = Scale(min(times) / 1.3, longest * 1.3, left, width - 14, log=True)
    pad = max(0.05 * (max(ends) - min(ends)), 1.0)
    y = Scale(max(0.0, min(ends) - pad), min(100.0, max(ends) + pad), height - 52, 24)
    parts = []
    for value in ticks(y.low, y.high, 6):
        parts.append(el("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), cls="grid"))
        parts.append(el("text", plain(value), x=x.start - 8, y=y(value) + 4, cls="tick end"))
    times = log_ticks(x.low, x.high, 4 if narrow else 8)
    parts += [el("text", plain(value), x=x(value), y=y.start + 20, cls="tick middle") for value in times]
    parts.append(el("text", "latency, ms (log scale)", x=(x.start + x.end) / 2, y=height - 6, cls="axis middle"))
    parts.append(el("text", "accuracy on validation, %", x=x.start, y=12, cls="axis"))
    if max_latency_ms is not None:
        parts.append(el("line", x1=x(max_latency_ms), x2=x(max_latency_ms), y1=y.start, y2=y.end, cls="grid zero"))
    for one in points:
        kind, (low, high), at, up = _HOLLOW if one.hollow else _FULL, _ends(one.accuracy), x(one.latency_ms), y(one.accuracy.value)
        text = f"{one.title}: {words.show(one.accuracy)} [{low:.1f}, {high:.1f}]{one.how}"
        whisker = el("line", x1=at, x2=at, y1=y(low), y2=y(high), cls=f"{arm_style(_FULL)} whisker")
        parts.append(el("g", whisker, mark(kind, at, up), el("title", text), tabindex="0", role="img", aria_label=text))
        if not narrow and one.label:
            on_left = at > _LABEL_LEFT * width
            parts.append(el("text", one.label, x=at + (-9 if on_left else 9), y=up + 4, cls="tick end" if on_left else "tick"))
    return drawing("Accuracy over latency", width, height, *parts, cls="only-narrow" if narrow else "only-wide", role="group")


def _ends(m: Measurement) -> tuple[float, float]:
    return m.value if m.low is None else m.low, m.value if m.high is None else m.high

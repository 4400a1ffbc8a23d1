"""Plots of an evaluation: reliability diagram, and precision over coverage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from planish.evaluation.metrics.calibration import ReliabilityBin
from planish.report.plots.svg import Scale, drawing, el, plain, ticks
from planish.runs.evaluation import Threshold

_MOST_POINTS = 400  # of a curve


def reliability_diagram(bins: Sequence[ReliabilityBin], title: str) -> Markup:
    """Plot accuracy over confidence, with confidence intervals; below, the number of images in each bin.

    Args:
        bins: from ``planish.evaluation.metrics.calibration.reliability``.
        title: label for screen readers.
    """
    width, height, foot = 460.0, 430.0, 330.0
    x, y = Scale(0, 100, 46, width - 14), Scale(0, 100, foot, 14)
    parts = []
    for value in (0, 25, 50, 75, 100):
        parts.append(el("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), cls="grid"))
        parts.append(el("text", plain(value), x=x.start - 8, y=y(value) + 4, cls="tick end"))
        parts.append(el("text", plain(value), x=x(value), y=foot + 18, cls="tick middle"))
    parts.append(el("line", x1=x(0), y1=y(0), x2=x(100), y2=y(100), cls="ideal"))
    parts.append(el("text", "accuracy, %", x=x.start + 6, y=y.end + 12, cls="axis"))
    parts.append(el("text", "confidence, %", x=(x.start + x.end) / 2, y=foot + 36, cls="axis middle"))
    parts.append(el("text", "images", x=x.start + 6, y=foot + 58, cls="axis"))
    most = max(b.n for b in bins)
    for b in bins:
        confidence, accuracy, low, high = (100 * v for v in (b.confidence, *b.accuracy))
        text = f"{b.n} images, mean confidence {confidence:.1f} %: accuracy {accuracy:.1f} % ({low:.1f} to {high:.1f})"
        tall = 44 * b.n / most
        parts.append(el("rect", x=x(confidence) - 5, y=height - 2 - tall, width=10, height=tall, cls="count"))
        whisker = el("line", x1=x(confidence), x2=x(confidence), y1=y(low), y2=y(high), cls="whisker")
        dot = el("circle", cx=x(confidence), cy=y(accuracy), r=4.5)
        parts.append(el("g", whisker, dot, el("title", text), cls="point chosen", tabindex="0", role="img", aria_label=text))
    return drawing(title, width, height, *parts, role="group")


def coverage_curve(
    coverage: npt.NDArray[np.float64], precision: npt.NDArray[np.float64], thresholds: Sequence[Threshold], narrow: bool = False
) -> Markup:
    """Plot precision over coverage: the accuracy on the images whose confidence is above a threshold, over the share of such images.

    Args:
        coverage: share of images above the threshold ``(N,)``, ascending.
        precision: share of these that are classified correctly ``(N,)``.
        thresholds: thresholds for target precisions, marked on the curve; those without a value are omitted.
        narrow: draw for a narrow screen.
    """
    width, height, left = (380.0, 300.0, 44.0) if narrow else (960.0, 380.0, 60.0)
    shown = coverage >= 0.05  # below, the precision is that of too few images
    rows = np.flatnonzero(shown)[np.unique(np.linspace(0, shown.sum() - 1, min(_MOST_POINTS, shown.sum())).astype(int))]
    marked = [t for t in thresholds if t.threshold is not None]
    lowest = min([100 * float(precision[rows].min()), *(t.measurements["precision"].value for t in marked)])
    x, y = Scale(0, 100, left, width - 14), Scale(max(0.0, lowest - 0.06 * (101 - lowest)), 100, height - 50, 20)
    parts = []
    for value in ticks(y.low, y.high, 5):
        parts.append(el("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), cls="grid"))
        parts.append(el("text", plain(value), x=x.start - 8, y=y(value) + 4, cls="tick end"))
    parts += [el("text", plain(value), x=x(value), y=y.start + 20, cls="tick middle") for value in (0, 25, 50, 75, 100)]
    parts.append(el("text", "images that it answers, %", x=(x.start + x.end) / 2, y=height - 6, cls="axis middle"))
    parts.append(el("text", "right among these, %", x=x.start, y=11, cls="axis"))
    points = " ".join(f"{x(100 * float(coverage[i])):.1f},{y(100 * float(precision[i])):.1f}" for i in rows)
    parts.append(el("polyline", points=points, cls="curve"))
    for number, least in enumerate(dict.fromkeys(t.threshold for t in marked)):  # one threshold may reach several target precisions
        kept = [t for t in marked if t.threshold == least]
        promise = f"{', '.join(plain(t.target_precision) for t in kept)} %"
        answers, right = (kept[0].measurements[name].value for name in ("coverage", "precision"))
        text = f"{promise}: coverage {answers:.1f} % of the images, precision {right:.1f} %"
        dot = el("circle", cx=x(answers), cy=y(right), r=5.5)
        parts.append(el("g", dot, el("title", text), cls="point best", tabindex="0", role="img", aria_label=text))
        anchor, nudge = ("middle", 0) if answers < 94 else ("end", 6)
        below = 22 if number % 2 else -11
        parts.append(el("text", promise, x=x(answers) + nudge, y=y(right) + below, cls=f"label {anchor}"))
    cls = "only-narrow" if narrow else "only-wide"
    return drawing("Share of right answers over share of images answered", width, height, *parts, cls=cls, role="group")

"""Report of a learning curve: the terminal table and conclusion, and ``learning_curve.html``, one file that works offline."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup
from rich import box
from rich.table import Table

from planish.datacentric.learning_curve import LearningCurve
from planish.measurement import Measurement
from planish.report import formatting as words
from planish.report.pages.experiment import difference
from planish.report.pages.html import filled, write_page
from planish.report.plots.arms import arm_style, mark
from planish.report.plots.svg import Scale, drawing, el, plain, ticks

_FITTED, _FORECAST = 0, 8  # arm styles with filled and with hollow markers


def learning_curve_table(found: LearningCurve) -> Table:
    """Build a table with one row per size of the training set."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("images", "epochs", "accuracy", "95% interval"):
        table.add_column(heading, justify="right")
    for point in found.points:
        table.add_row(f"{point.images:,}", str(point.epochs), words.show(point.accuracy), words.interval(point.accuracy))
    return table


def answer(found: LearningCurve) -> str:
    """Return a sentence on whether more training images would help."""
    gain, most = found.gain, found.points[-1].images
    text = f"{difference(gain)} points"
    if (gain.low or 0) > 0:
        return f"Twice the images would help: with {2 * most:,} instead of {most:,} to train on, {text} are to be expected."
    if words.too_wide(gain):
        return f"Too few images to tell what twice as many would bring: {text} with {2 * most:,} instead of {most:,} to train on."
    return f"Twice the images would make no difference: {text} with {2 * most:,} instead of {most:,} to train on."


def write_learning_curve(folder: Path) -> Path:
    """Write ``learning_curve.html`` next to ``learning_curve.json`` and return its path."""
    found = LearningCurve.load(folder / "learning_curve.json")
    page = filled(
        "learning_curve.html.jinja",
        found=found,
        answer=answer(found),
        plot=_plot(found, narrow=False) + _plot(found, narrow=True),
    )
    return write_page(folder / "learning_curve.html", page)


def _plot(found: LearningCurve, narrow: bool) -> Markup:
    """Plot accuracy over training images on a log axis: the measurements, the fitted power law, and its forecast for twice the images."""
    width, height, left = (380.0, 320.0, 40.0) if narrow else (960.0, 420.0, 60.0)
    sizes, most = [point.images for point in found.points], found.points[-1].images
    marks = [(_FITTED, p.images, p.accuracy.value, *_ends(p.accuracy)) for p in found.points]
    expected, gain = _law(found, 2 * most), found.gain
    low, high = (min(max(expected + end - gain.value, 0.0), 100.0) for end in _ends(gain))
    marks.append((_FORECAST, 2 * most, expected, low, high))
    values = [value for _, _, *three in marks for value in three]
    pad = max(0.05 * (max(values) - min(values)), 1.0)
    x = Scale(sizes[0] / 1.15, 2 * most * 1.15, left, width - 14, log=True)
    y = Scale(max(0.0, min(values) - pad), min(100.0, max(values) + pad), height - 52, 24)
    parts = []
    for value in ticks(y.low, y.high, 6):
        parts.append(el("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), cls="grid"))
        parts.append(el("text", plain(value), x=x.start - 8, y=y(value) + 4, cls="tick end"))
    parts += [el("text", f"{size:,}", x=x(size), y=y.start + 20, cls="tick middle") for size in (*sizes, 2 * most)]
    parts.append(el("text", "images to train on (log scale)", x=(x.start + x.end) / 2, y=height - 6, cls="axis middle"))
    parts.append(el("text", "accuracy, %", x=x.start, y=12, cls="axis"))
    for kind, first, end in ((_FITTED, sizes[0], most), (_FORECAST, most, 2 * most)):
        steps = [first * (end / first) ** (i / 30) for i in range(31)]
        line = " ".join(f"{x(n):.1f},{y(min(max(_law(found, n), y.low), y.high)):.1f}" for n in steps)
        parts.append(el("polyline", points=line, cls=arm_style(kind)))
    for kind, images, value, low, high in marks:
        text = f"{images:,} images: {value:.1f} % [{low:.1f}, {high:.1f}]" + (", expected" if kind == _FORECAST else "")
        whisker = el("line", x1=x(images), x2=x(images), y1=y(low), y2=y(high), cls=f"{arm_style(_FITTED)} whisker")
        parts.append(el("g", whisker, mark(kind, x(images), y(value)), el("title", text), tabindex="0", role="img", aria_label=text))
    return drawing("Accuracy over training images", width, height, *parts, cls="only-narrow" if narrow else "only-wide", role="group")


def _ends(m: Measurement) -> tuple[float, float]:
    return m.value if m.low is None else m.low, m.value if m.high is None else m.high


def _law(found: LearningCurve, images: float) -> float:
    """Return the accuracy in percent that the fitted power law predicts."""
    law = found.power_law
    return 100 * (1 - law["a"] - law["b"] * float(images ** -law["c"]))

"""Report of a comparison of backbones: the terminal table and conclusion, and ``backbones.html``, one file that works offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich import box
from rich.table import Table

from planish.datacentric.backbones import BackboneResult, Backbones, limits_in_words
from planish.measurement import Measurement
from planish.report import formatting as words
from planish.report.pages.html import filled, write_page
from planish.report.plots.arms import arm_style, mark
from planish.report.plots.svg import Scale, drawing, el, log_ticks, plain, ticks

_LABEL_LEFT = 0.8  # share of the plot's width beyond which labels are on the left of their marker
_TUNED, _PROBED = 0, 8  # arm styles with filled and with hollow markers


def backbones_table(found: Sequence[BackboneResult]) -> Table:
    """Build a table with one row per network, the recommended one first."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("network", "fp32 ms", "INT8 ms", "INT8 size", "linear probe", "fine-tuned", "95% interval", "left out"):
        table.add_column(heading, justify="left" if heading in ("network", "left out") else "right", overflow="fold")
    for one in found:
        table.add_row(*row(one))
    return table


def row(one: BackboneResult) -> tuple[str, ...]:
    """Return the cells of a network's row in the tables of terminal and page."""
    latency = [words.show(one.latency[p]).removesuffix(" ms") if p in one.latency else "" for p in ("fp32", "int8")]
    size = words.show(one.size["int8"]) if "int8" in one.size else ""
    probe, accuracy = ("" if m is None else words.show(m) for m in (one.probe, one.accuracy))
    return one.name, *latency, size, probe, accuracy, "" if one.accuracy is None else words.interval(one.accuracy), one.left_out


def recommendation(found: Backbones) -> str:
    """Return a sentence on which network to start from."""
    best = found.backbones[0]
    limits = limits_in_words(found.max_latency_ms, found.max_size_bytes)
    within = f" within {limits}" if limits else ""
    if best.left_out:
        nearest = min(found.backbones, key=lambda one: one.latency_ms)
        fastest = f"; the fastest is {_timed(nearest)}" if nearest.latency else ""
        return f"No network is{within}{fastest}. Fewer pixels (--image-size) or planish optimize make one faster."
    if best.accuracy is None and best.probe is None:
        return f"Without pretrained weights networks are ranked by latency alone: the fastest{within} is {_timed(best)}."
    measured = best.accuracy or best.probe
    assert measured is not None
    how = "fine-tuned" if best.accuracy is not None else "with a linear classifier on its features"
    text = f"Start from {_timed(best)}: {words.show(measured)} on validation, {how}."
    faster = [one for one in found.backbones if one.name in found.as_good and one.latency_ms < best.latency_ms]
    if faster:
        milliseconds = words.milliseconds(faster[0].latency_ms)
        text += f" {faster[0].name} is faster ({milliseconds} ms), and its accuracy is no difference on these images."
    short = [one.name for one in found.backbones if one.accuracy and one.probe and one.accuracy.value < one.probe.value]
    if short:
        text += f" Fine-tuning was too short for {' and '.join(short)}, below the linear classifier: a longer --budget ranks more reliably."
    return text


def _timed(one: BackboneResult) -> str:
    precision = {"fp32": "fp32", "int8": "INT8"}[one.fastest]
    return f"{one.name}, {words.milliseconds(one.latency_ms)} ms in {precision}"


def write_backbones(folder: Path) -> Path:
    """Write ``backbones.html`` next to ``backbones.json`` and return its path."""
    found = Backbones.load(folder / "backbones.json")
    page = filled(
        "backbones.html.jinja",
        found=found,
        recommendation=recommendation(found),
        row=row,
        plot=_plot(found, narrow=False) + _plot(found, narrow=True),
    )
    return write_page(folder / "backbones.html", page)


def _plot(found: Backbones, narrow: bool) -> Markup:
    """Plot accuracy over latency, fine-tuned networks filled and probed ones hollow; empty if no accuracy was measured."""
    shown = [one for one in found.backbones if one.latency and (one.accuracy or one.probe)]
    if not shown:
        return Markup("")
    width, height, left = (380.0, 340.0, 40.0) if narrow else (960.0, 420.0, 60.0)
    times, ends = [one.latency_ms for one in shown], [end for one in shown for end in _ends(_accuracy(one))]
    longest = max(*times, found.max_latency_ms or 0.0)
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
    if found.max_latency_ms is not None:
        parts.append(el("line", x1=x(found.max_latency_ms), x2=x(found.max_latency_ms), y1=y.start, y2=y.end, cls="grid zero"))
    for one in shown:
        kind, accuracy = _PROBED if one.accuracy is None else _TUNED, _accuracy(one)
        low, high = _ends(accuracy)
        text = f"{_timed(one)}: {words.show(accuracy)} [{low:.1f}, {high:.1f}]" + (", linear probe" if kind == _PROBED else "")
        whisker = el("line", x1=x(one.latency_ms), x2=x(one.latency_ms), y1=y(low), y2=y(high), cls=f"{arm_style(_TUNED)} whisker")
        point = mark(kind, x(one.latency_ms), y(accuracy.value))
        parts.append(el("g", whisker, point, el("title", text), tabindex="0", role="img", aria_label=text))
        if not narrow:
            on_left = x(one.latency_ms) > _LABEL_LEFT * width
            place = x(one.latency_ms) + (-9 if on_left else 9)
            parts.append(el("text", one.name.rpartition(":")[2], x=place, y=y(accuracy.value) + 4, cls="tick end" if on_left else "tick"))
    return drawing("Accuracy over latency", width, height, *parts, cls="only-narrow" if narrow else "only-wide", role="group")


def _accuracy(one: BackboneResult) -> Measurement:
    found = one.accuracy or one.probe
    assert found is not None
    return found


def _ends(m: Measurement) -> tuple[float, float]:
    return m.value if m.low is None else m.low, m.value if m.high is None else m.high

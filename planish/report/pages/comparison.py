"""Report of a comparison: the terminal table, and ``comparison.html``, one file that works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planish.evaluation.latency import verdict
from planish.experiments.compression import Comparison, Row
from planish.measurement import Measurement
from planish.report import formatting as words
from planish.report.pages.html import filled, write_page
from planish.report.plots.arms import arm_style, key, mark
from planish.report.plots.svg import Scale, drawing, el, ratio_frame

ONE_SEED = "Intervals count images and timings: every arm was trained once, and another seed may turn small differences round."
_WIDE = 100  # terminal columns from which each interval has its own column


def comparison_table(rows: Sequence[Row], noise_floor: Measurement | None = None, width: int = _WIDE) -> Table:
    """Build a table of strategy, level, size ratio, and the measured speed-up and accuracy change with their intervals.

    Args:
        rows: the arms.
        noise_floor: of the machine's latency measurements, in %; None while it is unknown.
        width: of the terminal in columns; on a narrow one, levels are below strategies and intervals below values.
    """
    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=ONE_SEED, caption_justify="left")
    for heading in ("strategy", "level") if wide else ("strategy",):
        table.add_column(heading, overflow="fold")
    for heading in ("smaller", "speed-up", "interval", "points", "interval") if wide else ("smaller", "speed-up", "points"):
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        cells = _cells(row, noise_floor)
        level = Text("\n").join(Text(line, style) for line, style in ((row.level, ""), (cells["refused"], "dim")) if line)
        if wide:
            table.add_row(Text(row.strategy), level, *(cells[name] for name in ("smaller", "speed", "speed_range", "points", "range")))
        else:
            who = Group(Text(row.strategy), Padding(level, (0, 0, 0, 2)))
            table.add_row(who, cells["smaller"], f"{cells['speed']}\n{cells['speed_range']}", f"{cells['points']}\n{cells['range']}")
    return table


def _cells(row: Row, noise_floor: Measurement | None) -> dict[str, str]:
    m = row.measurements
    drop, speed = m.get("drop"), m.get("latency_ratio")
    same = speed is not None and noise_floor is not None and verdict(speed, noise_floor) == "no difference"
    return {
        "smaller": _smaller(m["size_ratio"].value) if "size_ratio" in m else "",
        "speed": "" if speed is None else "no difference" if same else words.show(speed),
        "speed_range": words.interval(speed) if speed is not None else "",
        "points": words.change(drop) if drop else "",
        "range": words.change_interval(drop) if drop else "",
        "refused": f"refused: {row.reason}" if row.reason else "",
    }


def _smaller(ratio: float) -> str:
    """Format a size ratio for the column ``smaller``: ``3.90×``, or ``1.25× larger``, or ``of the same size``."""
    factor, word = words.size_ratio(ratio)
    return factor if word == "smaller" else f"{factor} {word}".strip()


def write_comparison(folder: Path) -> Path:
    """Write ``comparison.html`` next to ``comparison.json`` and return its path."""
    found = Comparison.load(folder / "comparison.json")
    strategies = {name: i for i, name in enumerate(dict.fromkeys(row.strategy for row in found.rows))}
    page = filled(
        "comparison.html.jinja",
        found=found,
        unit=_unit(found),
        measured={row.strategy for row in found.rows if not row.reason},
        keys={name: key(i) for name, i in strategies.items()},
        rows=[(row, _cells(row, found.noise_floor)) for row in found.rows],
        plots=[
            _plot(found, name, title, strategies, narrow=False) + _plot(found, name, title, strategies, narrow=True)
            for name, title in (("latency_ratio", "speed-up, measured"), ("size_ratio", "times smaller on disk"))
        ],
    )
    return write_page(folder / "comparison.html", page)


def _metric(found: Comparison) -> str:
    primary = words.primary(found.original.measurements)
    return words.metric(primary.name if primary else "accuracy")


def _unit(found: Comparison) -> str:
    return next((row.measurements["drop"].unit for row in found.rows if "drop" in row.measurements), "points")


def _plot(found: Comparison, name: str, title: str, strategies: Mapping[str, int], narrow: bool) -> Markup:
    """Plot the change of the metric over a ratio, one line per strategy through its levels; whiskers are 95 % confidence intervals."""
    metric = _metric(found)
    width, height, left = (380.0, 400.0, 36.0) if narrow else (960.0, 460.0, 60.0)
    rows = [row for row in found.rows if name in row.measurements]
    if not rows:
        return Markup()
    xs = [row.measurements[name].value for row in rows] + [1.0]
    ys = [-row.measurements["drop"].value for row in rows] + [0.0]
    lowest = max(min(ys), -15.0)  # an arm that fails completely would compress the scale for the others
    pad = max((max(ys) - lowest) * 0.1, 0.3)
    x = Scale(min(xs) / 1.1, max(xs) * 1.1, left, width - 14, log=True)
    y = Scale(lowest - pad, max(ys) + pad, height - 52, 22)
    parts = ratio_frame(x, y, narrow)
    parts.append(el("text", f"{title} (log scale)", x=(x.start + x.end) / 2, y=height - 8, cls="axis middle"))
    parts.append(el("text", words.change_heading(_unit(found), f"{metric} change on test"), x=x.start, y=11, cls="axis"))
    marks = [_original(x(1.0), y(0.0))]
    for strategy, index in strategies.items():
        mine = sorted((row for row in rows if row.strategy == strategy), key=lambda row: row.measurements[name].value)
        places = [(x(row.measurements[name].value), y(max(-row.measurements["drop"].value, lowest))) for row in mine]
        if len(places) > 1:
            parts.append(el("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in places), cls=arm_style(index)))
        for row, (cx, cy) in zip(mine, places, strict=True):
            drop = row.measurements["drop"]
            if drop.low is not None and drop.high is not None:
                top, foot = (y(min(max(-end, y.low), y.high)) for end in (drop.low, drop.high))
                parts.append(el("line", x1=cx, x2=cx, y1=top, y2=foot, cls=f"{arm_style(index)} whisker"))
            who = ", ".join(filter(None, (row.strategy, row.level)))
            text = f"{who}: {words.show(row.measurements[name])}, {words.change_in_unit(drop)}"
            marks.append(el("g", mark(index, cx, cy), el("title", text), tabindex="0", role="img", aria_label=text))
    shown = "only-narrow" if narrow else "only-wide"
    return drawing(f"{metric} change over {title}", width, height, *parts, *marks, cls=shown, role="group")


def _original(x: float, y: float) -> Markup:
    label = el("text", "original", x=x + 10, y=y - 8, cls="label")
    return el("g", el("circle", cx=x, cy=y, r=5.5), label, cls="original")

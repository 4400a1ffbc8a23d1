"""A comparison for people: the table on the terminal, and ``comparison.html``, one file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from planish.evaluation.latency import verdict
from planish.measurement import Measurement
from planish.report import words
from planish.report.svg import Scale, drawing, el, log_ticks, plain, ticks
from planish.search.compare import Comparison, Row

_HERE = Path(__file__).parent
_COLOURS = 8  # classes s0 to s7 of the page's style


def comparison_table(rows: Sequence[Row], noise_floor: Measurement | None = None) -> Table:
    """Strategy, level, compression, measured speed-up and change of accuracy, each with its interval."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("strategy", overflow="fold", ratio=2)
    table.add_column("level", overflow="fold", ratio=1)
    for heading in ("smaller", "speed-up", "interval", "points", "interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = _cells(row, noise_floor)
        if row.why:
            table.add_row(Text(row.strategy), Text(row.level), Text(f"refused: {row.why}", style="dim"), "", "", "", "")
        else:
            table.add_row(Text(row.strategy), Text(row.level), *(cells[k] for k in ("smaller", "speed", "speed_range", "points", "range")))
    return table


def _cells(row: Row, noise_floor: Measurement | None) -> dict[str, str]:
    m = row.measurements
    drop, speed = m.get("accuracy_drop"), m.get("latency_ratio")
    same = speed is not None and noise_floor is not None and verdict(speed, noise_floor) == "no difference"
    return {
        "smaller": words.show(m["size_ratio"]) if "size_ratio" in m else "",
        "speed": "" if speed is None else "no difference" if same else words.show(speed),
        "speed_range": words.interval(speed) if speed is not None else "",
        "points": words.change(drop) if drop else "",
        "range": words.change_interval(drop) if drop else "",
    }


def write_comparison(folder: Path) -> Path:
    """Write ``comparison.html`` beside ``comparison.json``; returns its path."""
    found = Comparison.load(folder / "comparison.json")
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    strategies = {name: i % _COLOURS for i, name in enumerate(dict.fromkeys(row.strategy for row in found.rows))}
    page = environment.get_template("comparison.html.jinja").render(
        found=found,
        css=Markup((_HERE / "page.css").read_text()),
        words=words,
        strategies=strategies,
        rows=[(row, _cells(row, found.noise_floor)) for row in found.rows],
        plots=[
            _plot(found, "latency_ratio", "speed-up, measured", strategies),
            _plot(found, "size_ratio", "times smaller on disk", strategies),
        ],
    )
    partial = folder / "comparison.html.partial"
    partial.write_text(page, encoding="utf-8")
    return partial.replace(folder / "comparison.html")


def _plot(found: Comparison, name: str, title: str, strategies: Mapping[str, int]) -> Markup:
    """Change of accuracy over a ratio, one line a strategy through its levels; whiskers are 95 % intervals."""
    width, height = 960.0, 420.0
    rows = [row for row in found.rows if name in row.measurements]
    if not rows:
        return Markup()
    xs = [row.measurements[name].value for row in rows] + [1.0]
    ys = [-row.measurements["accuracy_drop"].value for row in rows] + [0.0]
    lowest = max(min(ys), -15.0)  # what fails altogether would squeeze the rest
    pad = max((max(ys) - lowest) * 0.1, 0.3)
    x = Scale(min(xs) / 1.1, max(xs) * 1.1, 60, width - 14, log=True)
    y = Scale(lowest - pad, max(ys) + pad, height - 52, 18)
    parts = []
    for value in ticks(y.low, y.high, 6):
        parts.append(el("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), cls="grid zero" if value == 0 else "grid"))
        parts.append(el("text", plain(value), x=x.start - 8, y=y(value) + 4, cls="tick end"))
    parts += [el("text", f"{plain(value)}×", x=x(value), y=y.start + 18, cls="tick middle") for value in log_ticks(x.low, x.high, 9)]
    parts.append(el("text", f"{title} (log scale)", x=(x.start + x.end) / 2, y=height - 8, cls="axis middle"))
    parts.append(el("text", "accuracy change on test, points", x=60.0, y=11, cls="axis"))
    for strategy, colour in strategies.items():
        mine = sorted((row for row in rows if row.strategy == strategy), key=lambda row: row.measurements[name].value)
        places = [(x(row.measurements[name].value), y(max(-row.measurements["accuracy_drop"].value, lowest))) for row in mine]
        if len(places) > 1:
            parts.append(el("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in places), cls=f"arm s{colour}"))
        for row, (cx, cy) in zip(mine, places, strict=True):
            drop = row.measurements["accuracy_drop"]
            marks = []
            if drop.low is not None and drop.high is not None:
                top, foot = (y(min(max(-end, y.low), y.high)) for end in (drop.low, drop.high))
                marks.append(el("line", x1=cx, x2=cx, y1=top, y2=foot, cls=f"arm thin s{colour}"))
            text = f"{row.strategy}, {row.level}: {words.show(row.measurements[name])}, {words.change(drop)} points"
            marks += [el("circle", cx=cx, cy=cy, r=5.0, cls=f"arm dot s{colour}"), el("title", text)]
            parts.append(el("g", *marks, tabindex="0", role="img", aria_label=text))
    return drawing(f"Accuracy change over {title}", width, height, *parts, role="group")

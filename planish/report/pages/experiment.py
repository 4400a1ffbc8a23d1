"""Report of an experiment: the terminal table, and ``experiment.html``, one file that works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from planish.experiments.experiment import TOO_FEW, ArmResult, Experiment, short_key, short_value
from planish.measurement import Measurement
from planish.report import formatting as words
from planish.report.pages.html import filled, write_page
from planish.report.plots.arms import arm_style, key, mark
from planish.report.plots.svg import Scale, drawing, el, plain, ticks

_FARTHEST_POINTS = 15.0  # plots clip larger differences
_WIDE = 100  # terminal columns from which the full table fits


def experiment_table(arms: Sequence[ArmResult], width: int = _WIDE) -> Table:
    """Build a table with one row per arm: the metric on test, the difference from the reference with its interval, and the time per epoch.

    Args:
        arms: measured so far.
        width: of the terminal in columns; on a narrow one, each factor has its own line and the time is omitted.
    """
    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", overflow="fold")
    for heading in ("seeds", metric_of(arms), "difference, points", "verdict", *(["s an epoch"] if wide else [])):
        table.add_column(heading, justify="left" if heading == "verdict" else "right", overflow="fold")
    for arm in arms:
        m, primary = arm.measurements, words.primary(arm.measurements)
        label = arm.label if wide else arm.label.replace(", ", ",\n")
        cells: list[Text | str] = [
            Text("\n").join(Text(line, style) for line, style in ((label, ""), (arm.reason, "dim")) if line),
            str(sum(not training.error for training in arm.trainings)),
            words.show(primary) if primary else "",
            difference(m["difference"]).replace(" ", " " if wide else "\n", 1) if "difference" in m else "",
            arm.verdict,
        ]
        table.add_row(*cells, *([f"{m['seconds_per_epoch'].value:.1f}" if m else ""] if wide else []))
    return table


def metric_of(arms: Sequence[ArmResult]) -> str:
    """Return the name of the primary metric, in words."""
    known = (words.primary(arm.measurements) for arm in arms)
    return words.metric(next((m.name for m in known if m), "accuracy"))


def difference(measurement: Measurement) -> str:
    """Format a difference as ``+1.20 [0.40, 2.00]``, or ``+1.20, no interval`` if its interval is unbounded."""
    m = measurement
    if unbounded(m):
        return f"{words.number(m.value, 2, sign=True)}, no interval"
    low, high = (words.number(m.value if end is None else end, 2) for end in (m.low, m.high))
    return f"{words.number(m.value, 2, sign=True)} [{low}, {high}]"


def unbounded(measurement: Measurement) -> bool:
    """Whether the interval covers all possible differences in points, as with a single seed."""
    m = measurement
    return m.low is not None and m.high is not None and m.low <= -100 and m.high >= 100


def findings(found: Experiment) -> list[str]:
    """Return the conclusions in sentences: better arms, worse arms (each by decreasing difference), then those that are not different."""
    measured = [arm for arm in found.arms[1:] if arm.verdict]
    sentences = []
    for kind, word in (("better", "better than"), ("worse", "behind")):
        those = sorted((a for a in measured if a.verdict == kind), key=lambda a: -abs(a.measurements["difference"].value))
        sentences += [f"{a.label} is {abs(a.measurements['difference'].value):.1f} points {word} {found.arms[0].label}." for a in those]
    same = [arm.label for arm in measured if arm.verdict == "no difference"]
    if same:
        sentences.append(f"No difference to {found.arms[0].label} was found for {'; '.join(same)}.")
    unclear = [arm.label for arm in measured if arm.verdict == TOO_FEW]
    if unclear:
        one = all(unbounded(arm.measurements["difference"]) for arm in measured if arm.verdict == TOO_FEW)
        why = "one seed says nothing about other seeds" if one else "the intervals are wide"
        sentences.append(f"There are too few seeds, or images, to tell {'; '.join(unclear)} from {found.arms[0].label}: {why}.")
    return sentences


def write_experiment(folder: Path) -> Path:
    """Write ``experiment.html`` next to ``experiment.json`` and return its path."""
    found = Experiment.load(folder / "experiment.json")
    page = filled(
        "experiment.html.jinja",
        found=found,
        difference=difference,
        metric=metric_of(found.arms),
        findings=findings(found),
        factors={short_key(factor): [short_value(v) for v in values] for factor, values in found.factors.items()},
        effects=[(f"{short_key(e.key)}={short_value(e.value)}", f"{short_key(e.key)}={short_value(found.factors[e.key][0])}", e)
                 for e in found.effects],
        keys={arm.label: key(i) for i, arm in enumerate(found.arms) if arm.measurements},
        forest=forest(found.arms, narrow=False) + forest(found.arms, narrow=True),
        curves=_curves(found, narrow=False) + _curves(found, narrow=True),
    )  # fmt: skip
    return write_page(folder / "experiment.html", page)


class Compared(Protocol):
    """An arm that is compared with a reference."""

    @property
    def label(self) -> str: ...

    @property
    def measurements(self) -> Mapping[str, Measurement]: ...

    @property
    def verdict(self) -> str: ...


def forest(everyone: Sequence[Compared], narrow: bool) -> Markup:
    """Draw a forest plot: each arm's difference from the first one, with its confidence interval."""
    arms = [(i, arm) for i, arm in enumerate(everyone) if "difference" in arm.measurements]
    if not arms:
        return Markup()
    width, left, row = (380.0, 146.0, 30.0) if narrow else (960.0, 300.0, 30.0)
    ends = [end for _, arm in arms for end in _ends(arm.measurements["difference"])]
    # an arm that fails completely, or has few seeds, would compress the scale for the others: it is drawn at the edge, with its value
    low, high = max(min(0.0, *ends), -_FARTHEST_POINTS), min(max(0.0, *ends), _FARTHEST_POINTS)
    pad = max(0.05 * (high - low), 0.2)
    height = 16 + row * len(arms) + 44
    x = Scale(low - pad, high + pad, left, width - 14)
    foot = 10 + row * len(arms)
    parts = []
    for value in ticks(x.low, x.high, 4 if narrow else 8):
        parts.append(el("line", x1=x(value), x2=x(value), y1=8, y2=foot + 4, cls="grid zero" if value == 0 else "grid"))
        parts.append(el("text", plain(value), x=x(value), y=foot + 20, cls="tick middle"))
    parts.append(el("text", f"points against {everyone[0].label}", x=(x.start + x.end) / 2, y=height - 4, cls="axis middle"))
    for place, (index, arm) in enumerate(arms):
        m = arm.measurements["difference"]
        y = 10 + row * place + row / 2
        text = f"{arm.label}: {difference(m)} points, {arm.verdict}"
        left_end, right_end = (x(min(max(end, low), high)) for end in _ends(m))
        marks = [
            el("line", x1=left_end, x2=right_end, y1=y, y2=y, cls=f"{arm_style(index)} whisker"),
            mark(index, x(min(max(m.value, low), high)), y),
            *([el("text", words.number(m.value, 0), x=x(low) + 10, y=y + 4, cls="tick")] if m.value < low else []),
            *([el("text", words.number(m.value, 0), x=x(high) - 10, y=y + 4, cls="tick end")] if m.value > high else []),
        ]
        name = arm.label if len(arm.label) < (18 if narrow else 40) else arm.label[: 16 if narrow else 39] + "…"
        parts.append(el("text", name, x=left - 10, y=y + 4, cls="label end"))
        parts.append(el("g", *marks, el("title", text), tabindex="0", role="img", aria_label=text))
    return drawing("Difference of every arm", width, height, *parts, cls="only-narrow" if narrow else "only-wide", role="group")


def _ends(m: Measurement) -> tuple[float, float]:
    """Return the ends of the confidence interval; the value itself twice if there is none to draw."""
    if m.low is None or m.high is None or unbounded(m):
        return m.value, m.value
    return m.low, m.high


def _curves(found: Experiment, narrow: bool) -> Markup:
    """Plot the validation score over the seconds of training, one line per trial."""
    curves = [(i, arm.label, trial.curve) for i, arm in enumerate(found.arms) for trial in arm.trainings if len(trial.curve) > 1]
    if not curves:
        return Markup()
    metric = metric_of(found.arms)
    width, height, left = (380.0, 320.0, 36.0) if narrow else (960.0, 400.0, 60.0)
    x = Scale(0.0, max(s for *_, curve in curves for s, _ in curve), left, width - 14)
    values = [v for *_, curve in curves for _, v in curve]
    y = Scale(min(values), max(max(values), min(values) + 1), height - 50, 22)
    parts = []
    for value in ticks(y.low, y.high, 6):
        parts.append(el("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), cls="grid"))
        parts.append(el("text", plain(value), x=x.start - 8, y=y(value) + 4, cls="tick end"))
    parts += [
        el("text", plain(value), x=x(value), y=y.start + 20, cls="tick middle") for value in ticks(x.low, x.high, 5 if narrow else 10)
    ]
    parts.append(el("text", "seconds of training", x=(x.start + x.end) / 2, y=height - 6, cls="axis middle"))
    parts.append(el("text", f"{metric} on validation, %", x=x.start, y=11, cls="axis"))
    for index, label, curve in curves:
        points = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in curve)
        parts.append(el("polyline", el("title", label), points=points, cls=arm_style(index)))
    return drawing(f"{metric} on validation of every trial", width, height, *parts, cls="only-narrow" if narrow else "only-wide")

"""Report of an ensemble study: the terminal table, and ``ensembles.html``, one file that works offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from planish.experiments.ensemble_measurements import EnsembleArm
from planish.experiments.ensembles import EnsembleStudy
from planish.experiments.experiment import TOO_FEW
from planish.measurement import Measurement
from planish.report import formatting as words
from planish.report.pages.experiment import difference, forest
from planish.report.pages.html import filled, write_page
from planish.report.plots.arms import arm_style, key, mark
from planish.report.plots.svg import Scale, drawing, el, ratio_frame

_WIDE = 100  # terminal columns from which the full table fits
_FARTHEST_POINTS = 5.0  # plots clip larger losses
_RATIOS = {"training": "training_seconds", "parameters": "parameters"}
_COSTS = {"call": "time of a call", "training": "seconds of training", "parameters": "parameters"}


def costs(arm: EnsembleArm, single: EnsembleArm) -> dict[str, float]:
    """Return an arm's costs relative to the single network: ``call`` (latency; 1 if no different), ``training``, ``parameters``."""
    m = arm.measurements
    found = {name: m[key].value / single.measurements[key].value for name, key in _RATIOS.items() if key in m}
    if "latency_ratio" in m:
        found["call"] = 1.0 if arm.latency_verdict == "no difference" else 1 / m["latency_ratio"].value
    return found


def ensemble_table(arms: Sequence[EnsembleArm], width: int = _WIDE) -> Table:
    """Build a table with one row per arm: accuracy on test, the difference from the single network, and its costs.

    Args:
        arms: measured so far.
        width: of the terminal in columns; on a narrow one, intervals are below their values and parameters are omitted.
    """
    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", overflow="fold")
    for heading in ("accuracy", "difference, points", "verdict", "call", "training", *(["parameters"] if wide else [])):
        table.add_column(heading, justify="left" if heading == "verdict" else "right", overflow="fold")
    for arm in arms:
        m, cost = arm.measurements, costs(arm, arms[0])
        shown = difference(m["difference"]) if "difference" in m else ""
        table.add_row(
            Text("\n").join(Text(line, style) for line, style in ((arm.label, ""), (arm.reason, "dim")) if line),
            words.show(m["accuracy"]) if m else "",
            shown if wide else shown.replace(" ", "\n", 1),
            arm.verdict,
            *(words.times(cost[name]) if name in cost else "" for name in (_COSTS if wide else list(_COSTS)[:2])),
        )
    return table


def findings(study: EnsembleStudy) -> list[str]:
    """Return the conclusions in sentences, largest gain first."""
    single, *others = study.arms
    measured = sorted((arm for arm in others if arm.verdict), key=lambda arm: -_gain(arm).value)
    better = [arm for arm in measured if arm.verdict == "better"]
    copied = next((f"; one fine-tuned copy gains {_gain(arm).value:.1f}" for arm in measured if arm.label == "fine-tuned copy"), "")
    sentences = [
        f"{_named(arm)} gains {_gain(arm).value:.1f} points over the single network, {_price(arm, single)}"
        f"{copied if arm.label.startswith('soup, ') else ''}."
        for arm in better
    ]
    free = [arm for arm in better if arm.latency_verdict == "no difference"]
    if better and better[0] not in free:
        sentences.append(f"Without a slower file, {free[0].label} gains most." if free else "Nothing gains without a slower file.")
    student = next((arm for arm in measured if arm.label == "student"), None)
    teacher = next((arm for arm in better if arm.label == f"ensemble of {study.seeds}"), None)
    if student and teacher:
        kept = max(0.0, _gain(student).value / _gain(teacher).value)
        sentences.append(f"The student keeps {kept:.0%} of what the {teacher.label} gains, in a file of a single network.")
    behind = [arm for arm in reversed(measured) if arm.verdict == "worse"]
    sentences += [f"{_named(arm)} is {-_gain(arm).value:.1f} points behind the single network." for arm in behind]
    same = [arm.label for arm in measured if arm.verdict == "no difference"]
    if same:
        sentences.append(f"No difference to the single network was found for {'; '.join(same)}.")
    unclear = [arm.label for arm in measured if arm.verdict == TOO_FEW]
    if unclear:
        sentences.append(f"There are too few seeds, or images, to tell of {'; '.join(unclear)}: the intervals are wide.")
    return sentences


def write_ensembles(folder: Path) -> Path:
    """Write ``ensembles.html`` next to ``ensembles.json`` and return its path."""
    study = EnsembleStudy.load(folder / "ensembles.json")
    page = filled(
        "ensembles.html.jinja",
        study=study,
        difference=difference,
        findings=findings(study),
        rows=[(arm, key(i), costs(arm, study.arms[0])) for i, arm in enumerate(study.arms)],
        forest=forest(study.arms, narrow=False) + forest(study.arms, narrow=True),
        plots=[_plot(study, name, narrow=False) + _plot(study, name, narrow=True) for name in ("call", "training")],
    )
    return write_page(folder / "ensembles.html", page)


def _gain(arm: EnsembleArm) -> Measurement:
    return arm.measurements["difference"]


def _named(arm: EnsembleArm) -> str:
    return arm.label[0].upper() + arm.label[1:]


def _price(arm: EnsembleArm, single: EnsembleArm) -> str:
    cost = costs(arm, single)
    call = cost.get("call")
    file = "a file that was not timed" if call is None else "as fast a file" if call == 1 else f"{call:.1f} times the time of a call"
    return f"for {file} and {cost['training']:.1f} times the training"


def _plot(study: EnsembleStudy, name: str, narrow: bool) -> Markup:
    """Plot points gained over the cost relative to the single network; whiskers are the confidence intervals of the differences."""
    single, *_ = study.arms
    found = [(i, arm, costs(arm, single)) for i, arm in enumerate(study.arms) if "difference" in arm.measurements]
    found = [(i, arm, cost) for i, arm, cost in found if name in cost]
    if not found:
        return Markup()
    width, height, left = (380.0, 360.0, 36.0) if narrow else (960.0, 400.0, 60.0)
    gains = [_gain(arm).value for _, arm, _ in found] + [0.0]
    lowest = max(min(gains), -_FARTHEST_POINTS)  # an arm that fails completely would compress the scale for the others
    pad = max((max(gains) - lowest) * 0.15, 0.3)
    x = Scale(0.9 * min(1.0, *(cost[name] for *_, cost in found)), 1.15 * max(cost[name] for *_, cost in found), left, width - 14, log=True)
    y = Scale(lowest - pad, max(gains) + pad, height - 52, 22)
    parts = ratio_frame(x, y, narrow)
    parts.append(el("text", f"{_COSTS[name]}, times the single network's", x=(x.start + x.end) / 2, y=height - 8, cls="axis middle"))
    parts.append(el("text", "accuracy on test, points gained", x=x.start, y=11, cls="axis"))
    marks = [el("g", el("circle", cx=x(1.0), cy=y(0.0), r=5.5), cls="original")]
    for index, arm, cost in found:
        m = _gain(arm)
        cx, cy = x(cost[name]), y(max(m.value, lowest))
        if m.low is not None and m.high is not None:
            ends = (y(min(max(end, y.low), y.high)) for end in (m.low, m.high))
            parts.append(el("line", x1=cx, x2=cx, y1=next(ends), y2=next(ends), cls=f"{arm_style(index)} whisker"))
        if m.value < lowest:
            parts.append(el("text", words.number(m.value, 0), x=cx + 10, y=cy + 4, cls="tick"))
        text = f"{arm.label}: {difference(m)} points, {words.times(cost[name])} the {_COSTS[name]}"
        marks.append(el("g", mark(index, cx, cy), el("title", text), tabindex="0", role="img", aria_label=text))
    shown = "only-narrow" if narrow else "only-wide"
    return drawing(f"Points gained over {_COSTS[name]}", width, height, *parts, *marks, cls=shown, role="group")

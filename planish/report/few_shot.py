"""The few-shot probe for people."""

from __future__ import annotations

from rich import box
from rich.table import Table

from planish.report import words
from planish.report.experiment import difference
from planish.training.probe import FewShot


def few_shot_table(found: FewShot) -> Table:
    """One row a number of images a class: accuracy, and what these images brought beyond those of the row before."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("images a class", "accuracy", "95% interval", "gain, points", "verdict"):
        table.add_column(heading, justify="left" if heading == "verdict" else "right", overflow="fold")
    for shot in found.shots:
        gain, verdict = "", ""
        if shot.gain is not None:
            gain = difference(shot.gain)
            verdict = "more accurate" if (shot.gain.low or 0) > 0 else "no difference"
            if verdict == "no difference" and words.too_wide(shot.gain):
                verdict = "too few images to tell"
        table.add_row(str(shot.per_class), words.show(shot.accuracy), words.interval(shot.accuracy), gain, verdict)
    return table

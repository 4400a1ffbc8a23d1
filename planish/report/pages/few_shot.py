"""Terminal table of the few-shot probe."""

from __future__ import annotations

from rich import box
from rich.table import Table

from planish.datacentric.few_shot import FewShot
from planish.measurement import Measurement
from planish.report import formatting as words
from planish.report.pages.experiment import difference

TOO_FEW_DRAWS = "too few draws to tell"


def few_shot_table(found: FewShot) -> Table:
    """Build a table with one row per number of images per class: accuracy, and the gain over the previous row."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("images per class", "accuracy", "95% interval", "gain, points", "verdict"):
        table.add_column(heading, justify="left" if heading == "verdict" else "right", overflow="fold")
    for shot in found.shots:
        gain = "" if shot.gain is None else difference(shot.gain)
        interval = words.interval(shot.accuracy) if found.draws > 1 else "no interval"
        table.add_row(str(shot.per_class), words.show(shot.accuracy), interval, gain, verdict(shot.gain, found.draws))
    return table


def verdict(gain: Measurement | None, draws: int) -> str:
    """Return the verdict on the gain over the previous row; a single draw of images is not enough for one."""
    if gain is None:
        return ""
    if draws < 2:
        return TOO_FEW_DRAWS
    if (gain.low or 0) > 0:
        return "more accurate"
    if (gain.high or 0) < 0:
        return "less accurate"
    return "too few images or draws to tell" if words.too_wide(gain) else "no difference"

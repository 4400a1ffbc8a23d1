"""Report of a cross-validation: the terminal table, and the conclusion in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from planish.datacentric.folds import Fold, Folds
from planish.report import formatting as words


def folds_table(trained: Sequence[Fold]) -> Table:
    """Build a table with one row per network: numbers of training and evaluation images, and accuracy."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("repeat", "fold", "trained on", "judged on", "accuracy", "95% interval", "seconds"):
        table.add_column(heading, justify="right")
    for fold in trained:
        table.add_row(
            str(fold.repeat + 1),
            str(fold.fold + 1),
            f"{fold.training_images:,}",
            f"{fold.accuracy.n:,}",
            words.show(fold.accuracy),
            words.interval(fold.accuracy),
            f"{fold.seconds:.1f}",
        )
    return table


def findings(found: Folds) -> list[str]:
    """Return sentences with the accuracy and its confidence interval, and with a warning if the interval is too wide."""
    m = found.accuracy
    how = f"{found.folds} folds" + (f", {found.repeats} times" if found.repeats > 1 else "")
    seen = f"{words.show(m)} [{words.interval(m)}] of {m.n:,} images that they had not seen"
    sentences = [f"Networks recognise {seen} ({how}; the interval counts images and networks)."]
    if words.too_wide(m):
        narrower = "more images narrow it" if found.repeats > 2 else "more images narrow it, and --repeats a little"
        sentences.append(f"Too few images to tell: the interval is {words.width(m):.0f} points wide; {narrower}.")
    return sentences

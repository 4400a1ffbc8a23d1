"""Report of label issues: the terminal table, and ``label_issues.html``, one file that works offline."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from planish.datacentric.label_issues import LabelIssues
from planish.files.atomic import read_arrays
from planish.report import formatting as words
from planish.report.pages.html import filled, write_page
from planish.report.plots.thumbnails import data_uri, is_small

_BUDGET = 1_000_000  # bytes of base64; keeps the page small enough for an e-mail


def label_issues_table(found: LabelIssues, most: int = 20) -> Table:
    """Build a table of the most suspicious images: the given label, the predicted class, and the probabilities of both.

    Args:
        found: the issues.
        most: maximum number of rows.
    """
    left_out = len(found.issues) - most
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption_justify="left")
    table.caption = f"and {left_out} more" if left_out > 0 else None
    table.add_column("image", overflow="fold")
    for heading in ("label", "probability", "predicted", "probability"):
        table.add_column(heading, justify="right" if heading == "probability" else "left")
    for s in found.issues[:most]:
        table.add_row(Text(s.key), Text(s.label), f"{s.label_probability:.0f} %", Text(s.predicted), f"{s.predicted_probability:.0f} %")
    return table


def findings(found: LabelIssues) -> list[str]:
    """Return sentences on the number of label issues and on how reliable they are."""
    count, m = len(found.issues), found.accuracy
    if not count:
        return [f"No label of {found.images:,} looks wrong."]
    return [
        f"{count:,} of {found.images:,} labels may be wrong ({100 * count / found.images:.1f} %). Look at them from the top: the further "
        "down, the more of them are right.",
        f"Networks judged them that had not seen them, and that recognise {words.show(m)} [{words.interval(m)}] of all images. What they "
        "confuse anyway is among them.",
    ]


def write_label_issues(folder: Path) -> Path:
    """Write ``label_issues.html`` next to ``label_issues.json`` and return its path."""
    found = LabelIssues.load(folder / "label_issues.json")
    pixels = read_arrays(folder / "label_issues.npz", ["pixels"])["pixels"]
    pictures: list[tuple[str, bool]] = []
    spent = 0
    for image in pixels:
        if spent > _BUDGET:
            break
        pictures.append((data_uri(image), is_small(image)))
        spent += len(pictures[-1][0])
    page = filled("label_issues.html.jinja", found=found, findings=findings(found), shown=list(zip(found.issues, pictures, strict=False)))
    return write_page(folder / "label_issues.html", page)

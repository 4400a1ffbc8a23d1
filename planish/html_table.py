"""Tables in HTML, which results show of themselves in notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """Return a table in which every text is escaped; numbers, in all columns but the first, are on the right.

    Args:
        headings: of the columns.
        rows: cells as text, or with a ``str``; None for an empty one.
        caption: sentence above the table.

    Example:
        >>> html_table(["metric", "value"], [["a<b", 1]])
        '<table><thead><tr><th>metric</th><th>value</th></tr></thead><tbody><tr><th>a&lt;b</th><td>1</td></tr></tbody></table>'
    """
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{_row(cells)}</tr>" for cells in rows)
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(cells: Sequence[object]) -> str:
    texts = ["" if cell is None else escape(str(cell)) for cell in cells]
    return f"<th>{texts[0]}</th>" + "".join(f"<td>{text}</td>" for text in texts[1:])

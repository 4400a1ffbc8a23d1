"""Make text safe to print, store and show: file names may not be valid UTF-8, JSON may contain lone surrogates, labels HTML."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from html import escape

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNPRINTABLE_IN_MESSAGES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """Replace control characters (except line breaks and tabs) and bytes that are not valid UTF-8 by ``%XX``.

    >>> printable(os.fsdecode(b"caf\\xe9.png"))
    'caf%E9.png'
    """
    return _UNPRINTABLE_IN_MESSAGES.sub(_escaped, text)


def printable_names(names: Iterable[str]) -> dict[str, str]:
    """Map names that cannot be printed on one line or stored as UTF-8 to printable names, distinct from all other names.

    >>> printable_names(["one", "t\\two", "t%09wo"])
    {'t\\two': 't%2509wo'}
    """
    unique = dict.fromkeys(names)
    taken = {name for name in unique if not _UNPRINTABLE.search(name)}
    found = {}
    for name in unique:
        if name in taken:
            continue
        shown = _UNPRINTABLE.sub(_escaped, name)
        while shown in taken:
            shown = shown.replace("%", "%25")
        taken.add(shown)
        found[name] = shown
    return found


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


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    raw = os.fsencode(character) if "\udc80" <= character <= "\udcff" else character.encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in raw)

"""Write text and tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_SPECIAL = re.compile(r"([\\`*_\[\]{}#|])")


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", text).replace("<", "&lt;")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table whose rows are stacked on phones; nothing if there are no rows. Cells are Markdown."""
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    if lines:
        yield from ('<div class="stacked" markdown>\n', f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines, "\n</div>\n")


def _cell(text: str) -> str:
    return re.sub(r"<(?=\w)", "&lt;", re.sub(r"(?<!\\)\|", r"\\|", text))

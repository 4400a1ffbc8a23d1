"""What a docstring in Google style says of each argument."""

from __future__ import annotations

import re


def documented_arguments(docstring: str) -> dict[str, str]:
    """The section ``Args`` of a docstring without indentation: the text of each argument, in a line."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    entries = re.split(r"^ {4}(?=\w+: )", section.group(1), flags=re.MULTILINE)[1:] if section else []
    return {name: in_a_line(about) for name, _, about in (entry.partition(": ") for entry in entries)}


def in_a_line(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())

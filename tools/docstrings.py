"""Parse the arguments that a Google-style docstring documents."""

from __future__ import annotations

import re


def documented_arguments(docstring: str) -> dict[str, str]:
    """Return the descriptions in the section ``Args`` of a dedented docstring, by argument, each as one line."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    entries = re.split(r"^ {4}(?=\w+: )", section.group(1), flags=re.MULTILINE)[1:] if section else []
    return {name: in_a_line(about) for name, _, about in (entry.partition(": ") for entry in entries)}


def in_a_line(text: str) -> str:
    """Collapse all whitespace, including line breaks, to single spaces."""
    return " ".join(text.split())

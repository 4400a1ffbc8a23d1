"""The commands and the code in the documentation, as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
CHINESE = DOCS / "zh"  # has the blocks of the English pages, which test_translations.py compares
GENERATED = [DOCS / "reference" / f"{name}.md" for name in ("commands", "errors", "files", "plans", "recipes")]
PAGES = sorted(
    page for page in DOCS.rglob("*.md") if page.parent.name != "decisions" and page not in GENERATED and not page.is_relative_to(CHINESE)
)
OTHERS = [
    PROJECT / name
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "SKILL.md", "deploy/README.md", "examples/regression_task/README.md")
]
TEXTS = [*PAGES, *(file for file in OTHERS if file.exists())]
NAMES = {str(page.relative_to(PROJECT)): page for page in TEXTS}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and the line that it begins in."""

    language: str
    text: str
    line: int


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page in these languages."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(one[1], one[2], text[: one.start()].count("\n") + 2) for one in found if one[1] in languages]


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block, without comments; lines that end in a backslash go on."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def inline_code(page: Path) -> list[str]:
    """Return what stands between backticks outside of fenced blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]

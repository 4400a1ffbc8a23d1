"""Decision records: one decision each, in one form, and all in the list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "decisions"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.name[:4])
def test_a_record_has_a_number_and_three_parts(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"# {file.name[:4]}: ")
    assert re.findall(r"^\*\*(Context|Decision|Consequences)\.\*\*", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    for number in re.findall(r"\b(0\d{3})\b", text):
        assert list(FOLDER.glob(f"{number}-*.md")), f"there is no record {number}"


def test_the_list_names_every_record() -> None:
    listed = re.findall(r"^- \[(\d{4})\]\(([^)]+)\): (.+)$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    titles = [file.read_text(encoding="utf-8").partition("\n")[0].removeprefix(f"# {file.name[:4]}: ") for file in RECORDS]
    assert listed == [(file.name[:4], file.name, title) for file, title in zip(RECORDS, titles, strict=True)]
    assert len({number for number, _, _ in listed}) == len(listed)

"""The paths in CONTRIBUTING.md are there, and hold the names that are to be found in them."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
TEXT = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| to add")]


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip() for row in ROWS])
def test_paths_of_what_can_be_added(row: str) -> None:
    paths = re.findall(r"`((?:planish|tests|examples)/[^`]*)`", row)
    assert len(paths) >= 3, "where to write, where to register, which test"
    assert [path for path in paths if not (PROJECT / path).exists()] == []
    for name, path in re.findall(r"`([A-Z][A-Za-z]+)` in `([^`]+)`", row):
        text = (PROJECT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(class {name}\b|{name}\b.*=)", text, re.MULTILINE), f"{path} lacks {name}"


def test_every_kind_is_named() -> None:
    kinds = ("importance", "runtime", "annotation format", "metric", "report section", "technique", "modification", "task", "command")
    for kind in kinds:
        assert any(kind in row.split("|")[1] for row in ROWS), kind


def test_entry_points_are_those_that_are_read() -> None:
    assert entry_points(group="planish.techniques")
    code = "\n".join(file.read_text(encoding="utf-8") for file in (PROJECT / "planish").rglob("*.py"))
    for group in set(re.findall(r"entry point `(planish\.\w+)`", TEXT)):
        assert f'"{group}"' in code, group


def test_make_targets_are_there() -> None:
    targets = re.findall(r"^(\w+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"make (\w+)", TEXT)) <= set(targets)

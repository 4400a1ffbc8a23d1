"""Atomic writing: what is replaced, and folders that cannot be synced."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from planish.files.atomic import write_json
from planish.files.workspace import replace_folder


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_folder_that_may_not_be_listed_or_cannot_be_synced(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(os, call)

    def refusing(what: Any, *rest: Any) -> Any:
        if os.path.isdir(what if call == "open" else f"/proc/self/fd/{what}"):
            raise PermissionError(13, "Permission denied")
        return real(what, *rest)

    monkeypatch.setattr(f"planish.files.workspace.os.{call}", refusing)
    write_json(tmp_path / "numbers.json", [1])
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "file").write_text("new")
    replace_folder(tmp_path / "folder", tmp_path / "whole")
    assert json.loads((tmp_path / "numbers.json").read_text()) == [1]
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["folder", "file", "numbers.json"]


def test_a_folder_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    for name in ("folder", "folder.old", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    replace_folder(tmp_path / "folder", tmp_path / "whole")
    assert {path.parent.name: path.read_text() for path in tmp_path.rglob("file")} == {"folder": "whole", "folder.old": "folder.old"}
    assert len([*tmp_path.iterdir()]) == 2

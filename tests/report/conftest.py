"""One run folder for all tests of the room; those that spoil it take a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fake_run import write_run

from planish.report import write_report


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "fashion-demo"
    write_run(folder)
    write_report(folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))

"""The wheel holds all that the package holds: code, templates, styles, recipes, images and their licence."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import planish

PACKAGE = Path(planish.__file__).parent
PROJECT = PACKAGE.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    if not (PROJECT / "pyproject.toml").exists():
        pytest.skip("planish is installed without its project")
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(PACKAGE, folder / "planish", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_it_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    here = {file.relative_to(PROJECT).as_posix() for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert {name for name in wheel.namelist() if name.startswith("planish/")} == here
    assert {Path(name).suffix for name in here} >= {".py", ".jinja", ".yaml", ".js", ".css", ".npz", ".typed"}


def test_what_it_says_of_itself(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA"))).decode()
    assert f"Version: {planish.__version__}" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "Classifier: Typing :: Typed" in metadata
    assert any(name.endswith("LICENSE") for name in wheel.namelist() if "dist-info" in name)

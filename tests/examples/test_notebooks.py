"""The notebooks in ``examples/notebooks/`` run from the first cell to the last, and results show themselves as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))
SLOW = ("photos_to_model",)
TABLES = {"photos_to_model": 1, "what_helps": 1, "your_network": 0}  # least number of tables


def test_all_are_tried_here_and_stored_without_outputs() -> None:
    assert {file.stem for file in NOTEBOOKS} == set(TABLES)
    for file in NOTEBOOKS:
        notebook = nbformat.read(file, as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells), f"{file.name} has outputs: clear them"


@pytest.mark.parametrize("file", [pytest.param(f, marks=pytest.mark.slow if f.stem in SLOW else (), id=f.stem) for f in NOTEBOOKS])
def test_it_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    notebook = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    tables = [output for output in outputs if "<table" in output.get("data", {}).get("text/html", "")]
    assert len(tables) >= TABLES[file.stem]

"""The scripts in ``examples/`` run, one after the other in an empty folder, and print what they are about."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SCRIPTS = {file.stem: file for file in (PROJECT / "examples").glob("*.py")}
VERDICT = r"as fast as the (fp32 )?original|the original"
# What the last lines of each must match.
PRINTED = {
    "optimize_folder": rf"({VERDICT})(.|\n)*the bundle passes its checks: True$",
    "own_network": VERDICT,
    "onnx_file": VERDICT,
    "plan_by_hand": r"accuracy .* → .*\n[2-9]\.\d times smaller$",
    "detector": r"map [\d.]+ .*%\nmap_50 [\d.]+ .*%$",
    "own_technique": r"accuracy .* → .* %$",
    "serve_and_monitor": r"bundle \d+ images: no drift$",
}
SLOW = ("optimize_folder", "own_network", "onnx_file", "detector")


def test_each_script_is_tried_here_and_short() -> None:
    assert SCRIPTS.keys() == PRINTED.keys()
    for file in SCRIPTS.values():
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 40, file.name


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PRINTED])
def test_it_runs(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, str(SCRIPTS[name])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(PRINTED[name], done.stdout.strip()), done.stdout
    for before, after in re.findall(r"accuracy ([\d.]+) .*→ ([\d.]+)", done.stdout):
        assert float(before) > 70, "three classes: guessing is right in a third"
        assert float(after) > 60

"""The GitHub Action runs ``planish verify`` with its inputs, and fails where it fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
ACTION = yaml.safe_load((PROJECT / "action" / "action.yml").read_text())


def step(name: str) -> dict[str, Any]:
    return next(each for each in ACTION["runs"]["steps"] if each.get("name") == name)


def run_verify(folder: Path, program: str, **inputs: str) -> tuple[int, Path]:
    """Run the step as a runner does: inputs reach it by its ``env``, and ``planish`` is whatever is on the path."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "planish").write_text(f"#!/bin/sh\n{program}\n")
    (folder / "bin" / "planish").chmod(0o755)
    given = {name: one["default"] for name, one in ACTION["inputs"].items() if "default" in one} | inputs
    own = {
        key: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: given[found[1]], value) for key, value in step("Verify")["env"].items()
    }
    environment = {
        **os.environ, **own, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT),
        "RUNNER_TEMP": str(folder), "GITHUB_OUTPUT": str(folder / "output"),
    }  # fmt: skip
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step("Verify")["run"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    report = Path(re.findall(r"^report=(.*)$", (folder / "output").read_text(), re.MULTILINE)[-1])
    return done.returncode, report


def test_inputs_become_options(tmp_path: Path) -> None:
    program = f'printf "%s\\n" "$@" > {tmp_path}/arguments; echo "{{}}"'
    code, report = run_verify(tmp_path, program, bundle="a b; rm -rf x", **{"max-latency": "20ms", "public-key": "key.pub"})
    assert code == 0
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments == ["verify", "a b; rm -rf x", "--max-latency", "20ms", "--public-key", "key.pub", "--json"]
    run_verify(tmp_path, program, bundle="bundle")
    assert (tmp_path / "arguments").read_text().splitlines() == ["verify", "bundle", "--json"]
    assert report.read_text() == "{}\n"


@pytest.mark.parametrize("code", [1, 2])
def test_it_fails_where_verify_fails(code: int, tmp_path: Path) -> None:
    assert run_verify(tmp_path, f"exit {code}", bundle="bundle")[0] == code


def test_it_passes_and_fails_on_a_real_bundle(bundle: Path, tmp_path: Path) -> None:
    program = f'exec {sys.executable} -m planish "$@"'
    code, report = run_verify(tmp_path, program, bundle=str(bundle))
    assert code == 0
    assert json.loads(report.read_text())["failures"] == []
    code, report = run_verify(tmp_path, program, bundle=str(bundle), **{"max-latency": "0.000001ms"})
    assert code == 1
    assert "at most 1e-06 ms" in json.loads(report.read_text())["failures"][0]


def test_no_input_is_pasted_into_a_script() -> None:
    for each in ACTION["runs"]["steps"]:
        assert "${{" not in each.get("run", ""), "an input could contain commands"


def test_what_it_installs_is_there() -> None:
    script = step("Install")["run"]
    for name in re.findall(r"\$root/([\w./-]+)", script):
        assert (PROJECT / name).exists(), name
    assert "deploy/requirements.txt" in script, "what verifying imports; test_deploy checks that nothing is missing"

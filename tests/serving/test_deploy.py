"""The files in deploy/ fit the service: its options, its paths, its port, and the packages that it imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from packaging.requirements import Requirement

from planish.cli.app import app
from planish.serving.app import service
from planish.serving.serve import open_models

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
_WITHOUT = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent)
from planish.cli.app import app
import uvicorn, planish.serving.app, planish.serving.serve
sys.argv = ["planish", "verify", sys.argv[1]]
app()
"""


def instruction(name: str) -> list[str]:
    found = re.findall(rf"^(?:HEALTHCHECK [^\[]*)?{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return list(json.loads(found[-1]))


def container() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "kserve.yaml").read_text())["spec"]["predictor"]["containers"][0])


@pytest.mark.parametrize("arguments", [instruction("CMD"), container()["args"]])
def test_the_command_line_is_one_that_planish_takes(arguments: list[str]) -> None:
    command, *given = [*instruction("ENTRYPOINT"), *arguments][1:]
    parsed = typer.main.get_command(app).commands[command].make_context(command, given)  # type: ignore[attr-defined]
    assert parsed.params["host"] == "0.0.0.0"
    ports = {
        parsed.params["port"],
        container()["ports"][0]["containerPort"],
        int(re.findall(r"^EXPOSE (\d+)", DOCKERFILE, re.MULTILINE)[0]),
    }
    assert ports == {8080}
    assert [re.fullmatch(r"\w+=/[\w/]+", bundle) is not None for bundle in parsed.params["bundles"]] == [True]


def test_probes_ask_paths_that_are_there(bundle: Path) -> None:
    paths = {route.path for route in service(open_models([bundle])).routes}  # type: ignore[attr-defined]
    probes = [container()[name]["httpGet"] for name in ("readinessProbe", "livenessProbe")]
    assert {probe["port"] for probe in probes} == {8080}
    asked = {probe["path"] for probe in probes} | set(re.findall(r"127\.0\.0\.1:8080([\w/]+)", DOCKERFILE))
    assert "/v2/health/ready" in asked
    assert asked <= paths


def test_the_requirements_are_all_that_serving_and_verifying_import(bundle: Path) -> None:
    listed = [line for line in (DEPLOY / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    needed, waiting = set[str](), listed
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in needed:
            needed.add(name)
            wanted = map(Requirement, distribution(name).requires or ())
            waiting += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    assert "torch" not in needed
    others = {
        module
        for module, owners in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & {*needed, "planish"}
    }
    done = subprocess.run([sys.executable, "-c", _WITHOUT.format(absent=others), str(bundle)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

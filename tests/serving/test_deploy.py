"""The files in deploy/ fit the service: its options, its paths, its port, and the packages that it imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from packaging.requirements import Requirement

from planish.cli.app import app
from planish.serving import healthcheck
from planish.serving.http.app import service
from planish.serving.monitoring.monitor import ALERT_RULES
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
import uvicorn, planish.serving.http.app, planish.serving.serve
sys.argv = ["planish", "verify", sys.argv[1]]
app()
"""


_WRITES = """
import json, sys, threading
written = []
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and any(flag in str(arguments[1] or "") for flag in "wax+"):
        written.append(arguments[0])
    elif event in ("os.mkdir", "os.rename", "os.remove"):
        written.append(str(arguments[0]))
sys.addaudithook(note)
import uvicorn
from planish.cli.app import app
def run(server, sockets):
    from fastapi.testclient import TestClient
    with TestClient(server.config.app) as client:
        image = open(sys.argv[-1] + "/golden/000.png", "rb").read()
        assert client.post("/predict", content=image).status_code == 200
uvicorn.Server.run = run
sys.argv = ["planish", "serve", "--port", "0", sys.argv[1]]
try:
    app()
except SystemExit as end:
    assert not end.code
print(json.dumps(written))
"""


def instruction(name: str, text: str = DOCKERFILE) -> list[str]:
    found = re.findall(rf"^(?:HEALTHCHECK [^\[]*)?{name} (\[.*\])$", text, re.MULTILINE)
    return list(json.loads(found[-1]))


def container() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "kserve.yaml").read_text())["spec"]["predictor"]["containers"][0])


@pytest.mark.parametrize("arguments", [instruction("CMD"), container()["args"]])
def test_the_command_line_is_one_that_planish_takes(arguments: list[str]) -> None:
    command, *given = [*instruction("ENTRYPOINT"), *arguments][1:]
    _, bound, _ = app.parse_args([command, *given])
    (bundles,), options = bound.args[:1], bound.kwargs
    assert options["host"] == "0.0.0.0"
    ports = {
        options["port"],
        container()["ports"][0]["containerPort"],
        int(re.findall(r"^EXPOSE (\d+)", DOCKERFILE, re.MULTILINE)[0]),
    }
    assert ports == {8080}
    assert [re.fullmatch(r"\w+=/[\w/]+", bundle) is not None for bundle in bundles] == [True]


def test_probes_ask_paths_that_are_there(bundle: Path) -> None:
    paths = {route.path for route in service(open_models([bundle])).routes}  # type: ignore[attr-defined]
    probes = [container()[name]["httpGet"] for name in ("readinessProbe", "livenessProbe")]
    assert {probe["port"] for probe in probes} == {8080}
    asked = {probe["path"] for probe in probes}
    assert "/v2/health/ready" in asked
    assert asked <= paths


def test_the_health_check_asks_where_the_service_wrote_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    *command, file = instruction("CMD", DOCKERFILE.replace('CMD ["model', ""))
    assert command == ["python", "-m", healthcheck.__name__]
    assert re.findall(r"PLANISH_ADDRESS_FILE=(\S+)", DOCKERFILE) == [file]
    monkeypatch.setenv("PLANISH_ADDRESS_FILE", "there")
    _, bound, _ = app.parse_args(["serve", "bundle"])
    assert bound.kwargs["address_file"] == "there"


def test_images_are_named_by_digest() -> None:
    assert re.findall(r"^ARG PYTHON_IMAGE(.*)$", DOCKERFILE, re.MULTILINE) == [""], "no default: a tag is no digest"
    assert {name.split()[0] for name in re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE)} == {"${PYTHON_IMAGE}"}
    assert "--build-arg PYTHON_IMAGE=python@sha256:" in (DEPLOY / "README.md").read_text()
    assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", container()["image"])


def test_the_image_for_gpus_has_all_of_planish() -> None:
    text = (DEPLOY / "Dockerfile.cuda").read_text()
    assert re.findall(r"^ARG PYTHON_IMAGE(.*)$", text, re.MULTILINE) == [""]
    assert re.findall(r"^FROM (.*)$", text, re.MULTILINE) == ["${PYTHON_IMAGE}"]
    sources = {name for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for name in line.split()[:-1]}
    allowed = (DEPLOY / "Dockerfile.cuda.dockerignore").read_text().splitlines()
    assert sources == {line.removeprefix("!") for line in allowed if line.startswith("!")}
    assert all((DEPLOY.parent / name).exists() for name in sources)
    extras = re.findall(r"\.\[([\w,]+)\]", text)[0].split(",")
    assert set(extras) <= set(tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    app.parse_args([*instruction("ENTRYPOINT", text)[1:], *instruction("CMD", text)])
    users = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    assert users == ["10001"], "not root"


def test_only_the_temporary_folder_is_written_to(bundle: Path, tmp_path: Path) -> None:
    """As the manifest has it: everything else is read-only."""
    assert container()["securityContext"]["readOnlyRootFilesystem"] is True
    predictor = yaml.safe_load((DEPLOY / "kserve.yaml").read_text())["spec"]["predictor"]
    assert [mount["mountPath"] for mount in container()["volumeMounts"]] == ["/tmp"]
    assert [volume["name"] for volume in predictor["volumes"]] == [mount["name"] for mount in container()["volumeMounts"]]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "PLANISH_ADDRESS_FILE": str(tmp_path / "address")}
    done = subprocess.run([sys.executable, "-c", _WRITES, str(bundle)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout.splitlines()[-1])
    assert str(tmp_path / "address") in written
    assert [path for path in written if not path.startswith((str(tmp_path), "/dev/"))] == []


def test_alerts_ask_for_what_the_service_shows(bundle: Path) -> None:
    rules = [rule for group in yaml.safe_load(ALERT_RULES.read_text())["groups"] for rule in group["rules"]]
    with TestClient(service(open_models([bundle]))) as client:
        for name in ("failures", "reload_failures"):  # an increase from nothing to 1 is none
            assert re.search(rf"^planish_{name}_total{{.*}} 0.0$", client.get("/metrics").text, re.MULTILINE)
        client.post("/predict", content=b"no image")
        shown = set(re.findall(r"^# TYPE (\S+)", client.get("/metrics").text, re.MULTILINE))
        shown |= {name.removesuffix("_bucket") + "_bucket" for name in shown}
    asked = {name for rule in rules for name in re.findall(r"planish_\w+", rule["expr"])}
    assert {"planish_failures_total", "planish_ready", "planish_reload_failures_total"} <= asked <= shown
    for rule in rules:
        labels = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert labels <= set(re.split(r",\s*", re.findall(r"by \(([\w, ]+)\)", rule["expr"])[0])), rule["alert"]


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

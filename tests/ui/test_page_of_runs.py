"""The local page: who may open it, which runs it shows, and what it starts, stops and resumes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from report.fake_run import write_run

import planish
from planish.errors import GoalError
from planish.progress import Stage, note
from planish.report import write_report
from planish.runs.live import telling
from planish.runs.lock import RunLock, holder
from planish.testing import write_shapes
from planish.ui import jobs
from planish.ui.app import ui_app
from planish.ui.runs import find_runs

TOKEN, HOST = "a-secret", "http://127.0.0.1:8500"
ORIGIN = {"Origin": HOST}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run, one that was stopped, one whose result is damaged, and folders that are no runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("shirts/first", "stopped", "damaged"):
        (folder / name / "work").mkdir(parents=True)
        (folder / name / "store.sqlite").touch()
    write_run(folder / "shirts" / "first")
    write_report(folder / "shirts" / "first")
    command = f"planish optimize shapes --out {folder / 'stopped'}"
    candidate = {
        "summary": "INT8",
        "runtime": "openvino",
        "stage": "screened",
        "reason": "",
        "measurements": {"latency_ratio": 2.5, "drop_untrained": 1.25},
    }
    (folder / "stopped" / "live.json").write_text(json.dumps({"command": command, "folder": str(folder), "candidates": [candidate]}))
    (folder / "damaged" / "result.json").write_text("{")
    (folder / "photos").mkdir()
    return folder


@pytest.fixture
def client(root: Path) -> Iterator[TestClient]:
    with TestClient(ui_app(root, TOKEN), base_url=HOST, follow_redirects=True) as opened:
        assert opened.get("/", params={"token": TOKEN}).status_code == 200
        yield opened


def test_nothing_is_answered_without_the_token(root: Path) -> None:
    stranger = TestClient(ui_app(root, TOKEN), base_url=HOST)
    for path in ("/", "/runs?id=stopped", "/new", "/static/ui.js", "/?token=wrong"):
        said = stranger.get(path)
        assert (said.status_code, "shirts" in said.text) == (403, False), path
    assert stranger.post("/runs/stop", data={"id": "stopped"}, headers=ORIGIN).status_code == 403


def test_other_hosts_and_forms_of_other_pages_are_refused(client: TestClient, root: Path) -> None:
    assert client.get("/", headers={"Host": "planish.example"}).status_code == 421
    for origin in ({}, {"Origin": "https://planish.example"}, {"Origin": "null"}):
        assert client.post("/new", data={"data": "photos", "out": "x"}, headers=origin).status_code == 403
    assert not (root / "x").exists()


def test_runs_are_listed_with_their_state(client: TestClient, root: Path) -> None:
    found = {run.id: run for run in find_runs(root)}
    assert {name: run.state for name, run in found.items()} == {"shirts/first": "finished", "stopped": "stopped", "damaged": "finished"}
    result = json.loads((root / "shirts" / "first" / "result.json").read_text())
    chosen = found["shirts/first"].chosen
    assert chosen is not None
    assert chosen.speed_up == result["chosen"]["measurements"]["latency_ratio"]["value"]
    assert chosen.drop == result["chosen"]["measurements"]["drop_validation"]["value"]
    page = client.get("/").text
    for name in found:
        assert f">{name}</a>" in page
    assert "damaged</span>" in page


def test_a_run_shows_its_verdict_its_report_and_its_candidates(client: TestClient, root: Path) -> None:
    page = client.get("/runs", params={"id": "shirts/first"}).text
    result = json.loads((root / "shirts" / "first" / "result.json").read_text())
    assert result["verdict"] in page
    assert page.count('class="dot run-0') == sum("drop_validation" in c["measurements"] or c["stage"] == "baseline" for c in {
        c["key"]: c for c in (*result["candidates"], result["baseline"], result["chosen"]) if "latency_ratio" in c["measurements"]
    }.values())  # fmt: skip
    assert client.get("/runs/report", params={"id": "shirts/first"}).text == (root / "shirts" / "first" / "report.html").read_text()
    assert "1.25" in client.get("/runs", params={"id": "stopped"}).text
    assert "cannot be read" in client.get("/runs", params={"id": "damaged"}).text


@pytest.mark.parametrize("name", ["../etc", "photos", "/etc/passwd", "shirts", "nothing", "<script>"])
def test_what_is_no_run_below_the_folder_is_not_shown(client: TestClient, name: str) -> None:
    for path in ("/runs", "/runs/now", "/runs/report", "/started"):
        said = client.get(path, params={"id": name})
        assert said.status_code == 404
        assert "<script>" not in said.text.replace('<script src="/static/ui.js" defer></script>', "")


def test_runs_are_compared_on_one_plot(client: TestClient) -> None:
    page = client.get("/compare", params={"id": ["shirts/first", "stopped"]}).text
    assert 'class="dot run-0' in page
    assert 'class="dot run-1' in page
    assert "Mark some runs first" in client.get("/compare").text


def test_the_form_says_what_a_folder_holds_and_which_command_does_the_same(client: TestClient, root: Path, tmp_path: Path) -> None:
    shapes = write_shapes(tmp_path / "shapes", per_class=5, size=24)
    (shapes / "disc" / "broken.png").write_bytes(b"no image")
    form = {"data": str(shapes), "model": "resnet8", "max_drop": "1", "budget": "5m", "out": "my run"}
    page = client.post("/new/look", data=form, headers=ORIGIN).text
    assert "16 images for classification" in page
    assert "disc 6" in page
    assert page.count("data:image/jpeg;base64,") >= 10
    assert f"planish optimize {shapes} --model resnet8 --max-drop 1 --budget 5m --out &#39;my run&#39;" in page
    assert "does not exist" in client.post("/new/look", data={**form, "data": "nowhere"}, headers=ORIGIN).text
    said = client.post("/new", data={**form, "data": "nowhere"}, headers=ORIGIN)
    assert said.status_code == 400
    assert "does not exist" in said.text
    said = client.post("/new", data={**form, "out": "stopped"}, headers=ORIGIN)
    assert "holds a run already" in said.text


@pytest.mark.parametrize("form", [{"data": "x"}, {"out": "x"}, {"data": "x", "out": "y", "model": "--help"}, {"data": "-x", "out": "y"}])
def test_forms_that_stand_for_no_command(form: dict[str, str]) -> None:
    with pytest.raises(GoalError):
        jobs.command(form)


def test_words_of_a_form_stay_words(tmp_path: Path) -> None:
    words = jobs.command({"data": "a; rm -rf x", "out": "$(id)", "weights": "", "max_drop": "1"})
    assert words == ["planish", "optimize", "a; rm -rf x", "--max-drop", "1", "--out", "$(id)"]
    assert shlex.split(jobs.shown(words)) == words


def test_a_run_is_started_stopped_and_resumed(client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is replaced by a program that holds the run's lock until Ctrl-C."""
    program = (
        "import sys, time, pathlib\n"
        "from planish.runs.lock import RunLock\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "(out / 'work').mkdir(parents=True, exist_ok=True); (out / 'store.sqlite').touch(); (out / 'live.json').write_text('{}')\n"
        "lock = RunLock(out); lock.keep_telling(lambda: 1.0)\n"
        "print('begun with', sys.argv[1:], flush=True)\n"
        "time.sleep(60)\n"
    )
    (root / "program.py").write_text(program)
    popen = subprocess.Popen
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(
        jobs.subprocess, "Popen", lambda words, **given: popen([sys.executable, str(root / "program.py"), *words[3:]], **given)
    )
    shapes = write_shapes(root / "shapes", per_class=3, size=24)
    form = {"data": str(shapes), "model": "resnet8", "out": "begun"}
    said = client.post("/new", data=form, headers=ORIGIN)
    assert said.status_code == 200
    for _ in range(100):
        if holder(root / "begun") is not None:
            break
        time.sleep(0.1)
    assert "running</span>" in client.get("/runs", params={"id": "begun"}).text
    assert "begun with" in client.get("/runs", params={"id": "begun"}).text, "its output is shown"
    client.post("/runs/stop", data={"id": "begun"}, headers=ORIGIN)
    for _ in range(100):
        if holder(root / "begun") is None:
            break
        time.sleep(0.1)
    assert "stopped</span>" in client.get("/runs", params={"id": "begun"}).text
    client.post("/runs/resume", data={"id": "stopped"}, headers=ORIGIN)
    for _ in range(100):
        if (pid := holder(root / "stopped")) is not None:
            break
        time.sleep(0.1)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    log = (root / "stopped.ui.log").read_text()
    assert f"'optimize', 'shapes', '--out', '{root / 'stopped'}', '--resume'" in log


def test_the_holder_of_a_lock_is_found_without_touching_it(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    lock = RunLock(tmp_path)
    lock.keep_telling(lambda: 0.0)
    assert holder(tmp_path) == os.getpid()
    lock.release()
    RunLock(tmp_path).release()
    (tmp_path / "run.lock").write_text(json.dumps({"pid": 2**22 + 1, "elapsed": 1.0}))
    assert holder(tmp_path) is None


def test_a_job_tells_its_stage_its_notes_and_its_candidates(tmp_path: Path) -> None:
    out, heard = tmp_path / "run", list[int]()
    with telling(out, lambda found: heard.append(len(found))) as watched:
        note("before there is a folder")
        out.mkdir()
        with Stage("training", 40) as stage:
            stage.advance(10, "loss 0.5")
            written = json.loads((out / "live.json").read_text())
        watched([])
    assert heard == [0]
    assert (written["stage"], written["total"], written["notes"]) == ("training", 40, ["before there is a folder"])
    assert written["folder"] == os.getcwd()


@pytest.mark.slow
def test_both_models_of_a_run_answer_an_image(tmp_path: Path) -> None:
    shapes, out = write_shapes(tmp_path / "shapes", per_class=80, size=24), tmp_path / "run"
    planish.optimize(shapes, model="resnet8x0.5", max_drop=5.0, budget="45s", out=out)
    live = json.loads((out / "live.json").read_text())
    assert {one["stage"] for one in live["candidates"]} >= {"baseline", "screened"}
    image = next((shapes / "disc").iterdir()).read_bytes()
    with TestClient(ui_app(tmp_path, TOKEN), base_url=HOST) as opened:
        opened.get("/", params={"token": TOKEN})
        page = opened.post("/runs/answers", params={"id": "run"}, content=image, headers=ORIGIN).text
        assert page.count("ms here") == 2
        assert page.count("<li>disc") + page.count("<li>cross") + page.count("<li>square") == 6, "three classes by each of two models"
        assert 'role="alert"' in opened.post("/runs/answers", params={"id": "run"}, content=b"no image", headers=ORIGIN).text

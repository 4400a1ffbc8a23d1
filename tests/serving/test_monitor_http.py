"""The monitor and other services: a service's metrics with its key, a webhook that fails, and nothing secret in what is printed."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_runner import Ran, invoke

from planish.errors import DataError
from planish.export.bundle.folder import REFERENCE, SEAL
from planish.serving.monitoring import monitor as watching
from planish.serving.monitoring.http_client import NoResponseError, RequestRefusedError, request
from planish.serving.monitoring.monitor import monitor
from planish.serving.monitoring.recorder import LOG_FILE

if TYPE_CHECKING:
    from conftest import Served

SECRET = "T0PS3CRET"
METRICS = """# TYPE planish_drift_images gauge
planish_drift_images{model="shapes",version="1"} 500.0
# TYPE planish_drift_compared_images gauge
planish_drift_compared_images{model="shapes",version="1"} 40.0
# TYPE planish_drift gauge
planish_drift{model="shapes",of="brightness",version="1"} DRIFT
"""


@dataclass
class Other:
    """A service that answers what it is told to: for each request the next status and body, the last one for ever."""

    address: str = ""
    answers: list[tuple[int, str]] = field(default_factory=lambda: [(204, "")])
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], str]] = field(default_factory=list)


@pytest.fixture
def other() -> Iterator[Other]:
    found = Other()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append((self.path, dict(self.headers), self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()))
            status, body = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            if status == 0:
                self.wfile.write(b"nonsense\r\n\r\n")
                return
            self.send_response(status, f"no {SECRET}")
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()


@pytest.fixture
def dark(bundle: Path, tmp_path: Path) -> Path:
    """A log of images that are darker than any of the reference."""
    values = json.loads((bundle / REFERENCE).read_bytes())["values"]
    head = {"model": bundle.name, "version": "1", "bundle": (bundle / SEAL).read_text()[:12], "seconds": 0.01}
    log = tmp_path / "dark"
    log.mkdir()
    lines = [json.dumps(head | {"time": 4e5 + number, "brightness": min(values["brightness"]) - 0.01}) for number in range(200)]
    (log / LOG_FILE).write_text("\n".join(lines))
    return log


def run(*arguments: object, env: dict[str, str] | None = None) -> Ran:
    return invoke(["monitor", *map(str, arguments)], env=env)


def said(result: Ran) -> str:
    return " ".join(result.output.split())


def test_the_webhook_is_told_and_the_command_ends_with_1(dark: Path, bundle: Path, other: Other, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    loud = run(dark, bundle, "--correlation", "0", "--json", env={"PLANISH_WEBHOOK": f"{other.address}/{SECRET}"})
    assert loud.exit_code == 1, said(loud)
    assert SECRET not in said(loud)
    assert invoke(["alert-rules", str(rules)]).exit_code == 0
    assert "planish_drift" in rules.read_text()
    ((path, _, body),) = other.asked
    assert path == f"/{SECRET}"
    assert "brightness" in json.loads(body)["text"]
    assert any(one["of"] == "brightness" and one["drifted"] for one in json.loads(loud.stdout)[0]["findings"])


def test_no_alarm_tells_nobody(dark: Path, bundle: Path, other: Other) -> None:
    quiet = run(dark, bundle, "--webhook", other.address)  # 200 images within 200 seconds are one or two
    assert (quiet.exit_code, other.asked) == (0, []), said(quiet)
    assert "no drift in 1 of 200 images" in said(quiet) or "no drift in 2 of 200 images" in said(quiet) or "0 of 200" in said(quiet)


@pytest.mark.parametrize("status", [0, 302, 404, 500])
def test_a_failed_webhook_is_said_and_the_finding_kept(status: int, dark: Path, bundle: Path, other: Other) -> None:
    other.answers, other.headers = [(status, SECRET)], {"Location": f"{other.address}/{SECRET}/moved"}
    found = run(dark, bundle, "--correlation", "0", "--webhook", f"{other.address}/{SECRET}", "--debug")
    assert found.exit_code == 1, said(found)
    assert "the webhook" in said(found)
    assert "not delivered" in said(found)
    assert "drift in" in said(found)
    assert SECRET not in said(found)
    assert len(other.asked) == 1, "a redirect is not followed"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1/T0PS3CRET", "http://127.0.0.1:T0PS3CRET/", "file:///T0PS3CRET", "http://a T0PS3CRET", "http://"]
)
def test_a_webhook_that_is_no_address_is_refused_before_anything_is_read(address: str, bundle: Path, tmp_path: Path) -> None:
    found = run(tmp_path / "no-log", bundle, "--webhook", address, "--debug")
    assert found.exit_code == 2
    assert "webhook" in said(found)
    assert SECRET not in said(found)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/T0PS3CRET", "http://T0PS3CRET.invalid/T0PS3CRET", "https://127.0.0.1:1/T0PS3CRET"])
def test_a_webhook_nobody_is_at_is_said(address: str, dark: Path, bundle: Path) -> None:
    found = run(dark, bundle, "--correlation", "0", "--webhook", address, "--debug")
    assert found.exit_code == 1
    assert "the webhook does not answer" in said(found)
    assert SECRET not in said(found)


def test_watching_goes_on_until_the_webhook_takes_it(dark: Path, bundle: Path, other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = list[float]()
    monkeypatch.setattr(watching.time, "sleep", slept.append)
    other.answers = [(500, ""), (404, ""), (204, "")]
    found = run(dark, bundle, "--correlation", "0", "--every", "1m", "--webhook", f"{other.address}/{SECRET}")
    assert found.exit_code == 1
    assert (len(other.asked), slept) == (3, [60, 60])
    assert said(found).count("not delivered") == 2
    assert SECRET not in said(found)


def test_watching_survives_a_service_that_is_away(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = list[float]()
    monkeypatch.setattr(watching.time, "sleep", slept.append)
    other.answers = [(503, ""), (0, ""), (200, METRICS.replace("DRIFT", "0.0")), (200, METRICS.replace("DRIFT", "1.0"))]
    found = run(other.address, "--every", "10s")
    assert found.exit_code == 1, said(found)
    assert slept == [10] * 3
    assert said(found).count("Retrying") == 2
    assert "drift in brightness in 40 of 500 images" in said(found)


def test_a_service_that_is_not_there_is_one_line_and_exit_code_2() -> None:
    found = run("http://127.0.0.1:1")
    assert found.exit_code == 2
    assert "the service at 127.0.0.1 does not answer: Connection refused" in said(found)
    assert "Traceback" not in said(found)


@pytest.mark.parametrize("body", ["<html>hello</html>", "", "other_metric 3\n", METRICS.replace('of="brightness",', "")])
def test_what_is_no_service_of_ours_is_not_called_without_drift(body: str, other: Other) -> None:
    other.answers = [(200, body.replace("DRIFT", "0.0"))]
    with pytest.raises(DataError, match="shows no metrics of planish serve"):
        monitor(other.address)


def test_the_key_of_a_service(serve: Callable[..., Served], bundle: Path, tmp_path: Path) -> None:
    keys, wrong, empty = tmp_path / "keys", tmp_path / "wrong", tmp_path / "empty"
    keys.write_text(f"\n{SECRET}ö\nsecond\n")
    wrong.write_text("another\n")
    empty.write_text(" \n\n")
    served = serve(f"shapes={bundle}", "--keys", keys)
    address = f"http://{served.address}"
    found = run(address, "--keys", keys)
    assert (found.exit_code, "none of 0 images" in said(found)) == (2, True), said(found)  # its metrics were read; nobody has asked it yet
    assert "does not serve other version 1" in said(run(address, f"other={bundle}", "--keys", keys))
    for given in ([], ["--keys", wrong], ["--every", "1h", "--keys", wrong]):
        refused = run(address, *given)
        assert refused.exit_code == 2, "asking again would not help"
        assert "401" in said(refused)
    assert "holds no key" in said(run(address, "--keys", empty))


def test_a_key_goes_nowhere_else(other: Other) -> None:
    other.answers, other.headers = [(302, "")], {"Location": f"{other.address}/elsewhere"}
    with pytest.raises(RequestRefusedError, match="redirects are not followed"):
        monitor(other.address, key=SECRET)
    ((path, headers, _),) = other.asked
    assert (path, headers["Authorization"]) == ("/metrics", f"Bearer {SECRET}")
    with pytest.raises(NoResponseError) as wrong:
        monitor(other.address, key=f"{SECRET}\nX-Other: 1")
    assert SECRET not in str(wrong.value)
    assert wrong.value.__suppress_context__


def test_labels_are_not_taken_from_an_address_and_no_folder_is_found_out_late(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for log, out, words in (("http://127.0.0.1:1", "out", "taken from the folder of a log"), (str(tmp_path), "there", "exists already")):
        refused = invoke(["label-candidates", log, "--count", "5", "--out", str(tmp_path / out)])
        assert (refused.exit_code, words in said(refused)) == (2, True), said(refused)


def test_an_answer_without_end_is_cut_off(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.serving.monitoring.http_client._MOST_BYTES", 1000)
    other.answers = [(200, "x" * 100_000)]
    with contextlib.suppress(ConnectionError):
        assert len(request("it", other.address)) == 1000

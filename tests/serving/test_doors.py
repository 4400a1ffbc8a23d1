"""Who gets in and for how long: TLS and keys by flags of the command, and clients that hold connections open."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from cli_runner import invoke
from fastapi.testclient import TestClient

from planish.errors import BundleError
from planish.serving.http.app import service
from planish.serving.http.connection import MAX_HEAD, MAX_HEADERS, MAX_PIPELINED, Connection
from planish.serving.http.key_file import others_may_read, read_keys
from planish.serving.limits import Limits
from planish.serving.monitoring.request_log import PrivateRotatingFile, RequestLog
from planish.serving.serve import open_models
from planish.serving.serve import serve as listen
from planish.serving.settings import Address

if TYPE_CHECKING:
    from conftest import Served


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    pem, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", pem], check=True, capture_output=True)
    return pem, key


def test_tls_and_keys_by_flags(serve: Callable[..., Served], bundle: Path, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\n\nsecönd\n")
    served = serve(f"shapes={bundle}", "--tls-certificate", certificate[0], "--tls-key", certificate[1], "--keys", keys)
    data = next((bundle / "golden").glob("*.png")).read_bytes()

    def ask(trusted: ssl.SSLContext, headers: dict[str, str]) -> int:
        request = urllib.request.Request(f"https://{served.address}/predict", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=10, context=trusted) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    trusted = ssl.create_default_context(cafile=certificate[0])
    assert ask(trusted, {"Authorization": "Bearer first"}) == 200
    assert ask(trusted, {"X-API-Key": "secönd".encode().decode("latin-1")}) == 200
    assert [ask(trusted, headers) for headers in ({}, {"X-API-Key": "third"}, {"Authorization": "first"}, {"X-API-Key": ""})] == [401] * 4
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(ssl.create_default_context(), {"X-API-Key": "first"})
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as plain:
        plain.sendall(b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in plain.recv(1000)


def test_what_is_no_certificate_is_told(bundle: Path, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for pem, key in ((tmp_path / "empty.pem", certificate[1]), (certificate[0], tmp_path / "empty.pem"), (certificate[0], None)):
        with pytest.raises(BundleError, match="PEM files"):
            listen([bundle], address=Address(port=0, certificate=pem, certificate_key=key))


def test_a_port_that_is_taken_is_told(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BundleError, match="free port"):
        listen([bundle], address=Address(port=taken.getsockname()[1]))
    with pytest.raises(BundleError, match="free port"):
        listen([bundle], address=Address(port=80_000))


@pytest.fixture(params=[0.5])
def impatient(bundle: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a service with other limits of time, in seconds."""
    monkeypatch.setattr("planish.serving.http.connection.HEAD_S", request.param)
    app = service(open_models([bundle]), Limits(timeout_s=request.param))
    server = uvicorn.Server(uvicorn.Config(app, http=Connection, log_level="error", timeout_keep_alive=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("impatient", [1e6], indirect=True)
def test_a_good_client_waits_for_none_that_holds_on(impatient: int) -> None:
    begins = [b"", b"POST /predict HTTP/1.1\r\nX-A: ", b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 5000\r\n\r\n"]
    held = [socket.create_connection(("127.0.0.1", impatient)) for _ in range(60)]
    for number, connection in enumerate(held):
        connection.sendall(begins[number % 3])
    for _ in range(3):
        assert urllib.request.urlopen(f"http://127.0.0.1:{impatient}/v2/health/ready", timeout=60).status == 200
    for connection in held:
        connection.close()


def test_connections_that_send_nothing_or_for_ever_are_closed_and_others_served(impatient: int) -> None:
    """Without a request, in its head or in its body; a good client beside them waits for none of them."""
    begins = [b"", b"POST /predict HTTP/1.1\r\nX-A: ", b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 5000\r\n\r\n"]
    held = [socket.create_connection(("127.0.0.1", impatient)) for _ in range(60)]
    for number, connection in enumerate(held):
        connection.sendall(begins[number % 3])
        connection.settimeout(0.001)
    answers, opened, deadline = [b""] * len(held), set(range(len(held))), time.monotonic() + 300
    while opened:
        assert time.monotonic() < deadline, f"{len(opened)} connections are still held"
        assert urllib.request.urlopen(f"http://127.0.0.1:{impatient}/v2/health/ready", timeout=60).status == 200
        for number in list(opened):
            try:
                if number % 3:
                    held[number].sendall(b"a")
                received = held[number].recv(1000)
            except TimeoutError:
                continue
            except ConnectionError:
                received = b""
            answers[number] += received
            if not received:
                opened.discard(number)
        time.sleep(0.05)
    assert all(b" 504 " in answer.splitlines()[0] for answer in answers[2::3])
    assert not any(answers[0::3])


@pytest.mark.parametrize("text", ["", "\n", "  \n\t\r\n", "# a comment\n  # another\n", "\ufeff\n", b"\xff\xfe"])
def test_a_file_without_a_key_starts_no_service(bundle: Path, tmp_path: Path, text: str | bytes) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = invoke(["serve", str(bundle), "--keys", str(keys), "--port", "0"])
    assert (done.exit_code, "key" in done.output, "Traceback" in done.output) == (2, True, False)
    with pytest.raises(BundleError):
        read_keys(keys)


def test_keys_are_lines_that_are_no_comments(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\ufeff# ours\n first \n\nsecond#1\n")
    assert read_keys(tmp_path / "keys") == ("first", "second#1")
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(BundleError, match="cannot be read"):
            read_keys(missing)
    with pytest.raises(BundleError, match="blank"):
        Limits(keys=("good", " "))


def test_keys_that_others_can_read_are_warned_of(bundle: Path, serve: Callable[..., Served], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\n")
    keys.chmod(0o644)
    assert "chmod 600" in serve(f"shapes={bundle}", "--keys", keys).log.read_text()
    keys.chmod(0o600)
    assert not others_may_read(keys)


def _exchange(port: int, *parts: bytes) -> bytes:
    """All that is answered until the server closes the connection; what it no longer takes is not sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                received += part
        return received


_LINE = b"POST /predict HTTP/1.1\r\nHost: here\r\n"
_CHUNKED = _LINE + b"Transfer-Encoding: chunked\r\n\r\n"
_FLOODS = {
    "one header": (_LINE + b"X-A: ", b"a" * 5_000_000),
    "one name": (_LINE, b"a" * 5_000_000),
    "headers": (_LINE, b"X-A: b\r\n" * 500_000),
    "few large headers": (_LINE, *[b"X-A: " + b"b" * 8000 + b"\r\n"] * 10, b"\r\n"),
    "address": (b"GET /", b"a" * 5_000_000),
    "long address": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",),
    "method": (b"A" * 5_000_000,),
    "blank lines": (b"\r\n" * 2_000_000,),
    "chunk extensions": (_CHUNKED + b"5;a=", b"b" * 5_000_000),
    "trailers": (_CHUNKED + b"0\r\n", b"X-A: b\r\n" * 500_000),
    "one trailer": (_CHUNKED + b"0\r\nX-A: ", b"b" * 5_000_000),
    "pipelined": (_LINE + b"Content-Length: 5\r\n\r\n", b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 100_000),
}


@pytest.mark.parametrize("flood", _FLOODS)
def test_floods_before_any_key_is_checked_are_cut_off(impatient: int, flood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    def held(connection: Connection, data: bytes) -> None:
        nonlocal most
        received(connection, data)
        lists = sum(len(name) + len(value) for name, value in connection.headers or ()) + len(connection.url if connection.headers else b"")
        most = max(most, connection._unparsed, lists, 1000 * len(connection.pipeline))

    received = Connection.data_received
    monkeypatch.setattr(Connection, "data_received", held)
    answer = _exchange(impatient, *_FLOODS[flood])
    assert not answer or int(answer.split()[1]) in (400, 413, 414, 429, 431, 504), answer[:100]
    assert most < 400_000, "no more than a limit and one piece as the socket gives it"
    assert httpx.get(f"http://127.0.0.1:{impatient}/v2/health/ready").status_code == 200


@pytest.mark.parametrize(("headers", "status"), [({"X-A": "a" * 20_000}, 200), ({"X-A": "a" * (MAX_HEAD + 1)}, 431),
                                                 ({f"X-{i}": "" for i in range(MAX_HEADERS - 9)}, 200),
                                                 ({f"X-{i}": "" for i in range(MAX_HEADERS + 1)}, 431)])  # fmt: skip
def test_a_head_may_be_large_but_not_too_large(impatient: int, headers: dict[str, str], status: int) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    answer = _exchange(impatient, b"GET /v2 HTTP/1.1\r\nHost: here\r\nConnection: close\r\n" + lines + b"\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert ("error" in json.loads(body)) == (status != 200)


def test_requests_may_wait_on_a_connection_for_those_before_them(impatient: int) -> None:
    one = b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\n"
    answer = _exchange(impatient, one * (MAX_PIPELINED - 1) + one.replace(b"Host: here", b"Host: here\r\nConnection: close"))
    assert answer.count(b"HTTP/1.1 200 OK") == MAX_PIPELINED


def test_clients_that_keep_the_server_waiting_make_room_for_others(impatient: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.serving.http.connection.MAX_CONNECTIONS", 10)
    monkeypatch.setattr("planish.serving.http.connection.HEAD_S", 30)
    body = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 500\r\n\r\n"
    held = []
    for number in range(30):
        held.append(socket.create_connection(("127.0.0.1", impatient), timeout=10))
        held[-1].sendall((b"", b"GET / HT", body)[number % 3])
        assert httpx.get(f"http://127.0.0.1:{impatient}/v2/health/ready").status_code == 200
    for early in held[:18]:
        with contextlib.suppress(ConnectionError):
            received = early.recv(1000)
            assert not received or b" 504 " in received


def test_bodies_of_slow_clients_are_dropped_for_others(bundle: Path) -> None:
    """Five bodies of which four fit: the first to come is refused, and the memory is never more than that of four."""
    app = service(open_models([bundle]), Limits(max_bytes=1_000_000))
    server = uvicorn.Server(uvicorn.Config(app, http=Connection, log_level="error"))
    data = (bundle / "golden" / "000.png").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        port = listener.getsockname()[1]
        held = []
        for _ in range(5):
            held.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            held[-1].sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\n" + bytes(999_000))
            assert httpx.post(f"http://127.0.0.1:{port}/predict", content=data, timeout=10).status_code == 200
        assert b" 429 " in held[0].recv(1000)
        held[-1].sendall(bytes(1000))
        assert b" 400 " in held[-1].recv(1000), "it has all of its body, which is no image"
        assert httpx.post(f"http://127.0.0.1:{port}/predict", content=bytes(1_000_001)).status_code == 413
        for connection in held:
            connection.close()
        server.should_exit = True
        thread.join()


def test_every_answer_has_the_headers_that_protect_the_page(bundle: Path) -> None:
    with TestClient(service(open_models([bundle]), Limits(keys=("one",)))) as client:
        for path, status in (("/", 200), ("/page/page.js", 200), ("/v2", 401), ("/none", 401), ("/v2/health/ready", 200)):
            answer = client.get(path)
            assert answer.status_code == status
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert (answer.headers["x-frame-options"], answer.headers["referrer-policy"]) == ("DENY", "no-referrer")


def test_the_request_log_is_its_owners_alone_and_bounded(bundle: Path, serve: Callable[..., Served], tmp_path: Path) -> None:
    log = tmp_path / "logs" / "requests.log"
    log.parent.mkdir()
    log.write_text("from before\n")
    log.chmod(0o644)
    served = serve(f"shapes={bundle}", "--request-log", log)
    assert httpx.post(f"http://{served.address}/predict", content=b"no image").status_code == 400
    assert json.loads(log.read_text().splitlines()[-1])["status"] == 400
    assert '"status"' not in served.log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    handler = PrivateRotatingFile(log, maxBytes=5000, backupCount=3)
    for number in range(2000):
        handler.emit(logging.LogRecord("", 20, "", 0, f"line {number}", None, None))
    handler.close()
    files = sorted(log.parent.iterdir())
    assert (len(files), sum(file.stat().st_size for file in files) <= 20_000) == (4, True)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert "line 1999" in log.read_text()
    assert RequestLog(log).of_process(7).file == log.with_name("requests.log-7")


def test_the_health_check_knows_port_and_tls(
    bundle: Path, certificate: tuple[Path, Path], serve: Callable[..., Served], tmp_path: Path
) -> None:
    def check(file: Path) -> int:
        return subprocess.run([sys.executable, "-m", "planish.serving.healthcheck", file], capture_output=True).returncode

    file = tmp_path / "run" / "address"
    assert check(file) == 1
    for options in (["--tls-certificate", certificate[0], "--tls-key", certificate[1]], ["--host", "0.0.0.0"]):
        served = serve(f"shapes={bundle}", "--address-file", file, *options)
        assert file.read_text() == f"{'https' if '--tls-key' in options else 'http'}://127.0.0.1:{served.port}\n"
        assert check(file) == 0
    served.process.kill()
    served.process.wait()
    assert check(file) == 1

"""Who gets in and for how long: TLS and keys by flags of the command, and clients that hold connections open."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn

from planish.errors import BundleError
from planish.serving.app import Limits, service
from planish.serving.connection import Connection
from planish.serving.serve import open_models
from planish.serving.serve import serve as listen

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
            listen([bundle], port=0, certificate=pem, certificate_key=key)


def test_a_port_that_is_taken_is_told(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BundleError, match="free port"):
        listen([bundle], port=taken.getsockname()[1])


@pytest.fixture(params=[0.5])
def impatient(bundle: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a service with other limits of time, in seconds."""
    monkeypatch.setattr("planish.serving.connection.HEAD_S", request.param)
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

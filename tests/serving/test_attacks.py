"""Four attacks on a service in a process of its own, over the loopback: it stays small, and goes on answering others rightly."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from test_load import Clients, known, right

from planish.serving.limits import Limits

if TYPE_CHECKING:
    from conftest import Served

MOST = 600e6
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux")


def deep_image(megapixels: int) -> bytes:
    """A PNG of 16 bits in a few kilobytes."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((megapixels * 250, 4000), np.uint16)).save(file, "PNG")
    return file.getvalue()


def together(work: Callable[[], None], times: int, threads: int) -> None:
    """Do something so many times, by several threads."""
    left = iter(range(times))
    lock = threading.Lock()

    def one() -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            with contextlib.suppress(OSError, http.client.HTTPException):
                work()

    workers = [threading.Thread(target=one, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
        assert not worker.is_alive()


def heads(port: int, scale: int) -> None:
    """Heads that never end: 5 MB each, or 50,000 headers, or an address of 5 MB."""
    kinds = [b"X-A: " + b"a" * 5_000_000, b"X-A: b\r\n" * 50_000, b"a" * 5_000_000]
    numbers = iter(range(1_000_000))

    def one() -> None:
        number = next(numbers) % 3
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall((b"GET /" if number == 2 else b"GET /v2 HTTP/1.1\r\nHost: here\r\n") + kinds[number])
            connection.recv(1000)

    together(one, 40 * scale, 8)


def images(port: int, scale: int) -> None:
    """16-bit images of as many pixels as are allowed, in a few kilobytes, and of more."""
    allowed, larger = deep_image(Limits().max_pixels // 1_000_000), deep_image(32)
    statuses = list[int]()

    def one(data: bytes) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/predict", data)
        statuses.append(connection.getresponse().status)
        connection.close()

    together(lambda: one(allowed), 6 * scale, 6)
    together(lambda: one(larger), 6 * scale, 6)
    assert set(statuses) <= {200, 400, 429, 504}
    assert statuses.count(200) >= 4, "they are images like others"


def forms(port: int, scale: int) -> None:
    """Bodies that are small and decompress to more than one may have, large base64, and forms of many parts."""
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
    bodies = [
        (gzip.compress(bytes(200_000_000)), {"Content-Encoding": "gzip"}),
        (gzip.compress(b'{"image": "' + b"A" * 15_000_000 + b'"}'), {"Content-Encoding": "gzip"}),
        (b'{"instances": ["' + b"\\/" * 7_500_000 + b'"]}', {}),
        (b"[" * 15_000_000, {}),
        ((part + b"\r\n") * 300_000 + b"--x--", {"Content-Type": "multipart/form-data; boundary=x"}),
        (part + bytes(15_000_000) + b"\r\n--x--", {"Content-Type": "multipart/form-data; boundary=x"}),
    ]
    numbers, statuses = iter(range(1_000_000)), list[int]()

    def one() -> None:
        body, headers = bodies[next(numbers) % len(bodies)]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/predict", body, headers)
        statuses.append(connection.getresponse().status)
        connection.close()

    together(one, 12 * scale, 6)
    assert set(statuses) <= {400, 413, 429, 504}
    assert 400 in statuses, "some are read to their end"


def slow_clients(port: int, scale: int) -> None:
    """Connections that send nothing, a part of a head, or all of a large body but its end."""
    body = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 15900000\r\n\r\n" + bytes(15_800_000)
    begins = [b""] * 300 + [b"GET / HTTP/1.1\r\nX-A: " + b"a" * 30_000] * 300 + [body] * (8 * scale)
    with contextlib.ExitStack() as held:
        for begin in begins:
            with contextlib.suppress(OSError):
                connection = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
                connection.sendall(begin)
        time.sleep(2)


@pytest.mark.parametrize("scale", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_the_service_stays_small_and_answers_others(serve: Callable[..., Served], bundle: Path, scale: int) -> None:
    served = serve(f"shapes={bundle}")
    status = Path(f"/proc/{served.process.pid}/status")

    def peak() -> float:
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))

    files = [data for data, _shares in known(bundle)]
    found = {"before": peak()}
    for attack in (heads, images, forms, slow_clients):
        Path(f"/proc/{served.process.pid}/clear_refs").write_text("5")  # the peak starts anew
        others = Clients(served.port, files, count=2)
        others.wait_for_more(5)
        attack(served.port, scale)
        others.wait_for_more(5)
        others.stop()
        found[attack.__name__] = peak()
        assert not others.errors
        assert right(others, bundle)[0] > 10
    print({name: f"{size / 1e6:.0f} MB" for name, size in found.items()})
    assert max(found.values()) < MOST
    assert "Traceback" not in served.log.read_text()

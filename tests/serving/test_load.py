"""Stopped, killed, restarted or given another bundle while many ask: what is answered is right, and nobody is left waiting."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from planish.files.workspace import replace_folder

if TYPE_CHECKING:
    from conftest import Served


def known(bundle: Path) -> list[tuple[bytes, dict[str, float]]]:
    """Image files of a bundle, and the confidence of each class as PyTorch gave it when the bundle was made."""
    described = json.loads((bundle / "bundle.json").read_text())
    with np.load(bundle / "golden" / "expected.npz") as saved:
        shares = np.exp(saved["logits"] - saved["logits"].max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return [
        ((bundle / name).read_bytes(), dict(zip(described["class_names"], row.tolist(), strict=True)))
        for name, row in zip(described["golden_samples"], shares, strict=True)
    ]


CLIENTS = 6


class Clients:
    """Threads that ask again and again, half of them with a new connection for each request.

    ``answers`` has time, number of the image, status and confidences; ``errors`` time and error.
    """

    def __init__(self, port: int, files: list[bytes], count: int = CLIENTS) -> None:
        self.answers: list[tuple[float, int, int, dict[str, float]]] = []
        self.errors: list[tuple[float, Exception]] = []
        self._port, self._files, self._end = port, files, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._end.is_set():
            number += 1
            image = number % len(self._files)
            try:
                connection.request("POST", "/predict", self._files[image])
                answer = connection.getresponse()
                said = json.loads(answer.read())
                shares = {one["name"]: one["confidence"] for one in said.get("classes", [])}
                self.answers.append((time.monotonic(), image, answer.status, shares))
                if number % 2:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.errors.append((time.monotonic(), error))
                connection.close()
                time.sleep(0.02)

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a client was left waiting"

    def wait(self, until: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 300
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait_for_more(self, answers: int = 50) -> None:
        enough = len(self.answers) + answers
        self.wait(lambda: len(self.answers) >= enough)


@pytest.fixture
def files(bundle: Path) -> list[bytes]:
    return [data for data, _shares in known(bundle)]


def right(clients: Clients, *bundles: Path) -> list[int]:
    """How many answers were those of each bundle; every one must be of one of them."""
    expected = [[shares for _data, shares in known(bundle)] for bundle in bundles]
    found = [0] * len(bundles)
    for _time, image, status, shares in clients.answers:
        assert status == 200
        same = [shares == pytest.approx(answers[image], abs=1e-4) for answers in expected]
        assert sum(same) == 1, (shares, [answers[image] for answers in expected])
        found[same.index(True)] += 1
    return found


def test_bundles_are_exchanged_back_and_forth_under_load(
    serve: Callable[..., Served], bundle: Path, other_bundle: Path, files: list[bytes], tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(bundle, tmp_path / "mine"))
    clients = Clients(serve(f"mine={mine}", "--reload").port, files)
    for count, (source, shown) in enumerate([(other_bundle, 0), (bundle, 1)]):
        clients.wait_for_more()
        replace_folder(mine, Path(shutil.copytree(source, tmp_path / f"next-{count}")))
        other = known((bundle, other_bundle)[shown])[0][1]
        clients.wait(lambda other=other: clients.answers[-1][1] == 0 and clients.answers[-1][3] != pytest.approx(other, abs=1e-4))
    clients.wait_for_more()
    clients.stop()
    assert not clients.errors
    assert min(right(clients, bundle, other_bundle)) > 20


def test_a_service_that_is_stopped_answers_what_it_accepted(serve: Callable[..., Served], bundle: Path, files: list[bytes]) -> None:
    served = serve(f"shapes={bundle}")
    clients = Clients(served.port, files)
    clients.wait_for_more()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(120) in (0, -signal.SIGTERM)
    stopped = time.monotonic()
    clients.wait(lambda: any(at > stopped for at, _error in clients.errors))
    clients.stop()
    assert right(clients, bundle)[0] > 50
    lost = [error for _time, error in clients.errors if not isinstance(error, ConnectionRefusedError)]
    assert all(type(error) is ConnectionResetError for error in lost), lost  # in the port's own queue when it closed: never accepted
    assert len(lost) <= CLIENTS, lost  # each once at most


def test_a_killed_service_gives_no_wrong_answer_and_starts_again(serve: Callable[..., Served], bundle: Path, files: list[bytes]) -> None:
    served = serve(f"shapes={bundle}")
    clients = Clients(served.port, files)
    clients.wait_for_more()
    served.process.kill()
    served.process.wait()
    before = len(clients.answers)
    serve(f"shapes={bundle}", port=served.port)
    clients.wait_for_more()
    clients.stop()
    assert right(clients, bundle)[0] >= before + 50
    assert clients.errors
    allowed = (ConnectionError, http.client.BadStatusLine, http.client.IncompleteRead)
    assert all(isinstance(error, allowed) for _time, error in clients.errors), clients.errors

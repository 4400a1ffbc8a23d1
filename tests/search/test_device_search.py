"""A search for a device: its runtimes, its instruction sets and its latencies decide, and a lost connection costs nothing finished."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, ClassVar

import pytest
from simulated_time import World, simulate

from planish import commands
from planish.devices import device
from planish.devices.device import ThisMachine
from planish.devices.remote import reconnection
from planish.errors import BundleError, ConnectionLostError, GoalError, RuntimeMissingError
from planish.search import finish

ADDRESS = "ssh://board"


class Board(ThisMachine):
    """In the place of a device over ssh: one core, whose integer kernels overflow, and no OpenVINO."""

    name, instruction_sets, saturates, cores = "Small board", ("avx2",), True, 1
    started: ClassVar[list[str]] = []
    lost_after = 10_000  # processes

    def __init__(self, address: str) -> None:
        self.address = address

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {"address": self.address, "cpu": self.name, "architecture": "x86_64", "logical_cores": 1, "onnxruntime": "1.0"}

    def runtime_version(self, runtime: str) -> str:
        return "1.0" if runtime == "onnxruntime" else ""

    def worker(self, name: str, threads: int, timeout: float) -> Any:
        self.started.append(name)
        if len(self.started) > self.lost_after:
            raise ConnectionLostError("the cable was pulled")
        return super().worker(name, threads, timeout)


@pytest.fixture(autouse=True)
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the files whose outputs were checked on the device."""
    checked: list[str] = []
    Board.started.clear()
    monkeypatch.setattr(device, "SshDevice", Board)
    monkeypatch.setattr(finish, "check_on_device", lambda _, shipped: checked.append(shipped.key))
    monkeypatch.setattr(reconnection, "_RECONNECTION_SECONDS", 0.0)
    return checked


def rows(run: Path) -> dict[str, Any]:
    with sqlite3.connect(run / "store.sqlite") as db:
        return dict(db.execute("select key, seconds || ' ' || finished_at || found from finished_steps"))


def test_runtimes_integers_and_latencies_are_those_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: list[str]
) -> None:
    result, _ = simulate(tmp_path / "run", World(1000), 600, monkeypatch, device=ADDRESS)
    assert result.device["cpu"] == "Small board"
    assert f'"device": "{ADDRESS}"' in rows(tmp_path / "run")["job"]
    assert {c.runtime for c in result.candidates} == {"onnxruntime"}
    bits = [step.get("weight_bits", 8) for c in result.candidates for step in c.plan if step["name"] in ("int8", "qat")]
    assert set(bits) == {7}, "8 bits would overflow there"
    timed = [c.measurements["latency_ms"] for c in (*result.candidates, result.chosen) if "latency_ms" in c.measurements]
    assert {m.device for m in (*timed, result.noise_floor)} == {"Small board"}
    assert chosen == [result.chosen.key]
    assert Board.started.count("second copy of the baseline") >= 4, "every session ran there"
    with pytest.raises(BundleError, match="device was 'ssh://board' and is now None"):
        simulate(tmp_path / "run", World(1000), 600, monkeypatch, resume=True)


def test_a_search_goes_on_after_a_lost_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, world = tmp_path / "run", World(1000)
    monkeypatch.setattr(Board, "lost_after", 40)
    with pytest.raises(ConnectionLostError, match="the cable was pulled"):
        simulate(run, world, 600, monkeypatch, device=ADDRESS)
    before = rows(run)
    assert any(key.startswith("latency:") for key in before)
    assert not any("cable" in row for row in before.values()), "a lost connection is no property of a plan"
    monkeypatch.setattr(Board, "lost_after", 10_000)
    result, _ = simulate(run, world, 600, monkeypatch, device=ADDRESS, resume=True)
    after = rows(run)
    assert {key: after[key] for key in before} == before, "nothing finished is done again"
    assert result.chosen.measurements["latency_ms"].device == "Small board"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"threads": 2}, GoalError, "ssh://board has 1 cores"),
        ({"runtime": "openvino"}, RuntimeMissingError, "not installed on ssh://board"),
    ],
)
def test_what_the_device_does_not_have_is_refused(options: dict[str, Any], error: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        commands.optimize("fashion-mini", out=tmp_path / "run", device=ADDRESS, **options)
    assert not (tmp_path / "run").exists()

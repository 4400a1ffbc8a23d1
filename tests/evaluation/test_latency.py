"""Workers are real processes here; what they run is of known duration wherever the point is not the runtime itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pydantic import TypeAdapter

from planish.errors import GoalError, ModelError
from planish.evaluation.latency import LatencyReport, LatencySettings, Subject, measure_latency, noise_floor_of, verdict
from planish.evaluation.statistics.intervals import paired_ratio
from planish.measurement import Measurement

HERE = Path(__file__).parent
IMAGES = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
QUICK = LatencySettings(seconds=0.3, rounds=4, launches=2)


@pytest.fixture(autouse=True)
def _loaders_can_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Any:
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    yield
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= before


def work(**arguments: Any) -> Subject:
    return Subject("onnx_loader:load_work", arguments, IMAGES, "none")


def onnx(path: Path, **arguments: Any) -> Subject:
    return Subject("onnx_loader:load", {"file": str(path), **arguments}, IMAGES, "onnxruntime", ("onnxruntime",))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(HERE))
    from onnx_loader import write_model

    path: Path = write_model(tmp_path_factory.mktemp("models") / "small.onnx")
    return path


def ratio(value: float, low: float, high: float) -> Measurement:
    return Measurement("latency_ratio", value, "ratio", 100, True, low, high)


@pytest.mark.parametrize(
    ("measured", "floor", "expected"),
    [
        ((1.2, 1.1, 1.3), 0.5, "faster"),
        ((0.8, 0.7, 0.9), 0.5, "slower"),
        ((1.2, 0.99, 1.5), 0.5, "no difference"),
        ((1.02, 1.01, 1.03), 0.5, "no difference"),
        ((0.98, 0.97, 0.99), 0.5, "no difference"),
        ((1.2, 1.1, 1.3), 25.0, "no difference"),
    ],
)
def test_verdict(measured: tuple[float, float, float], floor: float, expected: str) -> None:
    assert verdict(ratio(*measured), Measurement("noise_floor", floor, "%", 4, False)) == expected


def test_verdict_distrusts_a_machine_on_which_equals_may_differ() -> None:
    floor = Measurement("noise_floor", 4.0, "%", 4, False, 0.0, 15.0)
    assert verdict(ratio(0.95, 0.92, 0.97), floor) == "no difference"
    assert verdict(ratio(0.85, 0.80, 0.90), floor) == "slower"


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.06])
def test_simulated_benches_of_equals_are_hardly_ever_called_different(noise: float) -> None:
    rng, said = np.random.default_rng(0), {1.0: 0, 1.1: 0}
    for _ in range(1000):
        base, copy, other = np.exp(rng.normal(0, noise, (3, 5, 1)))
        floor = noise_floor_of(base, copy)
        for truth in said:
            said[truth] += verdict(ratio(*paired_ratio(truth * base, other)), floor) != "no difference"
    assert said[1.0] <= 25
    assert said[1.1] >= (980 if noise <= 0.02 else 100)


def test_known_durations_are_measured() -> None:
    subjects = {name: Subject("onnx_loader:load_timed", {"call_ms": ms}, IMAGES) for name, ms in (("base", 12), ("half", 6), ("same", 12))}
    report = measure_latency(subjects, "base", LatencySettings(seconds=1, launches=3))
    assert noise_floor_of(report.round_medians["base"], report.copy_medians).value == pytest.approx(report.noise_floor.value, abs=1e-3)
    half = report.measurements["half"]
    assert half["latency_ms"].value == pytest.approx(6, rel=0.01)
    assert half["latency_ratio"].value == pytest.approx(2, rel=0.01)
    assert half["latency_p95_ms"].value >= half["latency_ms"].value
    assert report.verdicts == {"base": "no difference", "half": "faster", "same": "no difference"}
    assert report.measurements["base"]["latency_ratio"].value == 1
    assert set(report.measurements) == set(report.samples) == set(subjects)
    adapter = TypeAdapter(LatencyReport)
    assert adapter.validate_json(adapter.dump_json(report)) == report


def test_a_real_runtime_that_prints_to_stdout(model: Path) -> None:
    report = measure_latency({"a": onnx(model), "b": onnx(model, chatty=True)}, "a", QUICK)
    for found in report.measurements.values():
        assert found["latency_ms"].value > 0
        assert found["latency_ms"].runtime == "onnxruntime"
        assert 1e6 < found["peak_memory_bytes"].value < 200e6
    assert all(0 < len(samples) <= 2000 for samples in report.samples.values())


def test_memory_is_what_the_model_holds() -> None:
    report = measure_latency({"a": work(), "b": work(hold_mb=64)}, "a", QUICK)
    a, b = (report.measurements[name]["peak_memory_bytes"].value for name in "ab")
    assert b - a == pytest.approx(64 * 2**20, rel=0.1)


def test_threads_and_batch_reach_the_process() -> None:
    subject = Subject("onnx_loader:load_environment", {}, IMAGES)  # it checks them itself
    assert measure_latency({"a": subject}, "a", replace(QUICK, threads=3, batch=4)).threads == 3
    one = Subject("onnx_loader:load_environment", {}, IMAGES[:1])  # repeated until the batch is full
    measure_latency({"a": one}, "a", replace(QUICK, threads=3, batch=4))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "ValueError: no such layer"),
        ("dies", "(?s)SIGABRT.*segmentation fault coming"),
        ("exits", "SystemExit: 3"),
    ],
)
def test_a_model_that_does_not_load_is_named(how: str, message: str) -> None:
    subjects = {"good": work(), "bad": Subject("onnx_loader:load_broken", {"how": how}, IMAGES)}
    with pytest.raises(ModelError, match=message) as caught:
        measure_latency(subjects, "good", QUICK)
    assert "'bad'" in str(caught.value)


def test_a_model_that_hangs_is_named() -> None:
    subject = Subject("onnx_loader:load_broken", {"how": "hangs"}, IMAGES)  # alone: beside it another might not load in time
    with pytest.raises(ModelError, match=r"'bad'.*no answer within 3 seconds"):
        measure_latency({"bad": subject}, "bad", replace(QUICK, timeout=3))


def test_a_loader_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="No module named 'nowhere'"):
        measure_latency({"a": Subject("nowhere:load", {}, IMAGES)}, "a", QUICK)


def test_callers_mistakes() -> None:
    with pytest.raises(ValueError, match="'b' is not among the subjects a"):
        measure_latency({"a": work()}, "b", QUICK)
    with pytest.raises(ValueError, match="uint8"):
        measure_latency({"a": Subject("onnx_loader:load_work", {}, IMAGES / 255)}, "a", QUICK)
    with pytest.raises(GoalError, match="launches=1"):
        LatencySettings(launches=1)


SCRIPT = f"""
import signal, sys; sys.path.insert(0, {str(HERE)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts jobs in the background with Ctrl-C ignored, and that is inherited
import numpy as np
from planish.evaluation.latency import LatencySettings, Subject, measure_latency
if __name__ == "__main__":
    s = Subject("onnx_loader:load_work", {{"sleep_ms": 1}}, np.zeros((1, 8, 8, 3), np.uint8))
    measure_latency({{"a": s}}, "a", LatencySettings(seconds=60))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_survives_its_parent(sent: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=subprocess.DEVNULL)
    try:
        children: list[psutil.Process] = []
        end = time.monotonic() + 300
        while len(children) < 2 and time.monotonic() < end:
            time.sleep(0.1)
            children = psutil.Process(parent.pid).children()
        time.sleep(1)
        os.kill(parent.pid, sent)
        parent.wait(120)
        _, alive = psutil.wait_procs(children, timeout=120)
        assert len(children) == 2
        assert not alive
    finally:
        parent.kill()


def test_whoever_waits_does_not_spin() -> None:
    from planish.devices.latency_process import WorkerProcess

    worker = WorkerProcess("idle", 1, 30)
    try:
        worker.start_loading("onnx_loader:load_work", {"spin_ms": 1}, (), 1, IMAGES)
        worker.wait()
        worker.ask("warm_up")
        before = sum(psutil.Process(worker.pid).cpu_times()[:2])
        time.sleep(0.5)
        assert sum(psutil.Process(worker.pid).cpu_times()[:2]) - before <= 0.02
    finally:
        worker.close()


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
def test_two_copies_never_differ_and_ten_percent_is_seen(tmp_path: Path, busy: bool) -> None:
    """The promise of ``planish bench``: A against A is "no difference" in 19 of 20, 10% more work is seen; also beside a busy neighbour."""
    from onnx_loader import write_model

    paths = {"a": write_model(tmp_path / "a.onnx", layers=9), "b": write_model(tmp_path / "b.onnx", layers=10)}
    subjects = {"a": onnx(paths["a"]), "again": onnx(paths["a"]), "more": onnx(paths["b"])}
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        reports = [measure_latency(subjects, "a", LatencySettings(seed=i)) for i in range(20)]
    finally:
        if neighbour is not None:
            neighbour.kill()
            neighbour.wait()
    said = [[r.verdicts["again"] for r in reports], [r.verdicts["more"] for r in reports]]
    print(json.dumps(said))
    assert said[0].count("no difference") >= 19
    assert said[1].count("slower") >= 17

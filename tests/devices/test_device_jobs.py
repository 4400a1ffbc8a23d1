"""Jobs for a device: outputs, layers, integers and whole runs come from there."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from cli_runner import invoke
from export_fakes import FakeTask, trained
from onnx import TensorProto, helper, numpy_helper

import planish
from planish.artifact import Artifact
from planish.commands import device_setup
from planish.compression import Int8
from planish.devices import latency_worker
from planish.devices.device import current_device, using_device
from planish.devices.layer_latency import ConvShape, Variant, layer_latencies
from planish.devices.machine import saturates
from planish.devices.remote import reconnection, ssh
from planish.devices.remote.ssh import SshDevice
from planish.errors import ConnectionLostError, DeviceError, TechniqueError
from planish.evaluation.latency import LatencySettings, Subject, measure_latency
from planish.export import Pack, ToOnnx
from planish.export.bundle.folder import read_bundle, write_bundle
from planish.export.runtimes.registry import find, load
from planish.measurement import Measurement
from planish.plan import Plan
from planish.progress import collecting_notes
from planish.search.device_agreement import check_on_device
from planish.settings import DeploymentTarget
from planish.testing import write_shapes

TASK = FakeTask()


@pytest.fixture(scope="module")
def network() -> Artifact:
    return trained(TASK)


@pytest.fixture(scope="module")
def file(network: Artifact) -> Artifact:
    return ToOnnx().apply(network, TASK)


@pytest.fixture(scope="module")
def bundle(file: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    measured = {"latency_ms": Measurement("latency_ms", 0.5, "ms", 100, False, 0.4, 0.6, "Workstation")}
    place = tmp_path_factory.mktemp("bundles") / "bundle"
    return write_bundle(file, TASK, place, target=DeploymentTarget("onnxruntime"), measurements=measured, golden=6)


@pytest.fixture
def board(fake: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a device with another processor, an x86 without VNNI."""
    run = SshDevice._run

    def described(self: SshDevice, words: Any, *more: Any, **options: Any) -> str:
        found = run(self, words, *more, **options)
        if words[0] != "describe":
            return found
        return json.dumps({**json.loads(found), "cpu": "Small board", "architecture": "x86_64", "instruction_sets": "avx2"})

    monkeypatch.setattr(SshDevice, "_run", described)
    return fake


def _lose(after: int, folder: Path) -> None:
    """From now on the fake connection is lost when the process of this number starts to run a model."""
    script = Path(os.environ[ssh.COMMAND])
    lost = f'case "$last" in *worker) echo x >> {folder}/n; [ $(wc -l < {folder}/n) = {after} ] && exit 255;; esac\nexec'
    script.write_text(script.read_text().replace("exec", lost))


def _other(file: Artifact, folder: Path) -> Path:
    """The same file with other weights in its last layer."""
    model = onnx.load(str(file.files[0]))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    last = next(tensor for name, tensor in weights.items() if numpy_helper.to_array(tensor).shape == (3, 32))
    last.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(last), last.name))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("kind", ["fake", "server"])
def test_a_bundle_is_verified_there(kind: str, bundle: Path, request: pytest.FixtureRequest) -> None:
    address = request.getfixturevalue(kind)
    report = planish.verify(bundle, device=address)
    assert report.ok, report
    assert report.samples == 6
    assert report.latency is not None
    text = " ".join(str(report).split())
    assert f"give the known outputs on {address}" in text
    assert "promised 0.500 [0.400, 0.600] ms on Workstation, here" in text


def test_another_model_on_the_device_does_not_verify(
    fake: str, bundle: Path, file: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed, other = SshDevice.placed, _other(file, tmp_path)
    monkeypatch.setattr(SshDevice, "placed", lambda self, loader, arguments: placed(self, loader, {**arguments, "files": [other]}))
    done = invoke(["verify", str(bundle), "--device", fake, "--no-latency"])
    assert done.exit_code == 1
    assert done.output.count("logits differs by") == 6


def test_a_connection_that_is_lost_is_no_failure_of_the_bundle(
    fake: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnection, "_RECONNECTION_SECONDS", 0.01)
    _lose(1, tmp_path)
    with collecting_notes() as notes:
        assert planish.verify(bundle, device=fake, latency=False).ok
    assert any("this run is repeated" in text for text in notes)
    script = Path(os.environ[ssh.COMMAND])
    script.write_text(script.read_text().replace("exec", 'case "$last" in *worker) exit 255;; esac\nexec'))
    with pytest.raises(ConnectionLostError):
        planish.verify(bundle, device=fake, latency=False)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_outputs_come_back_as_they_are(runtime: str, fake: str, tmp_path: Path) -> None:
    """All outputs of any kind of number, of images that do not fill a batch."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["scores"], keepdims=0),
        helper.make_node("ArgMax", ["scores"], ["labels"], axis=1, keepdims=0),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 6, 3])
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, ["N"]),
    ]
    graph = helper.make_graph(nodes, "net", [images], outputs, [numpy_helper.from_array(np.array([1, 2]), "axes")])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    with using_device(fake) as device, device.predictor([path], runtime, 1) as predictor:
        found = predictor(pixels)
    here = load([path], runtime)(pixels)
    assert found.keys() == here.keys() == {"scores", "labels"}
    for name, values in here.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_allclose(found[name], values, rtol=1e-6)
    np.testing.assert_array_equal(found["labels"], pixels.mean((1, 2)).argmax(1))


def test_a_packed_file_is_sent_as_the_file_in_it(fake: str, file: Artifact) -> None:
    packed = Pack().apply(file, TASK)
    pixels = TASK.split("validation").images(file.input_spec, file.preprocessing)[:2]
    with using_device(fake) as device, device.predictor(packed.files, "onnxruntime", 1) as predictor:
        np.testing.assert_allclose(predictor(pixels)["logits"], load(file.files, "onnxruntime")(pixels)["logits"], rtol=1e-5)


def test_layers_are_timed_there_and_kept_apart(fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Variant((ConvShape(8, 8),), (8, 8), 8)
    large = Variant((ConvShape(64, 64, (3, 3), (1, 1), (1, 1)),) * 4, (56, 56), 64)
    here = layer_latencies([small], "onnxruntime", cache_dir=tmp_path / "cache")
    monkeypatch.setattr(latency_worker, "take_turns", lambda *_: pytest.fail("timed here"))
    with using_device(fake):
        there = layer_latencies([small, large], "onnxruntime", cache_dir=tmp_path / "cache")
        assert layer_latencies([large], "onnxruntime", cache_dir=tmp_path / "cache") == there[1:], "from the cache"
    assert 0 < there[0] < there[1], "a thousandth of the multiplications"
    assert layer_latencies([small], "onnxruntime", cache_dir=tmp_path / "cache") == here
    assert len(list((tmp_path / "cache" / "layer-latency").iterdir())) == 2


def test_layers_whose_connection_is_lost_are_timed_again(fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnection, "_RECONNECTION_SECONDS", 0.01)
    _lose(1, tmp_path)
    with using_device(fake), collecting_notes() as notes:
        [found] = layer_latencies([Variant((ConvShape(8, 8),), (8, 8), 8)], "onnxruntime", cache_dir=tmp_path / "cache")
    assert found > 0
    assert any("timing these layers is repeated" in text for text in notes)
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with using_device(fake) as device, pytest.raises(TechniqueError, match="cannot be timed"):
        device.take_turns([tmp_path / "broken.onnx"], [(1, 8, 8, 8)], "onnxruntime", 1)


def test_integers_are_those_of_the_device(board: str) -> None:
    assert Int8.for_device().weight_bits == (7 if saturates() else 8)
    with using_device(board) as device:
        assert device.name == "Small board"
        assert Int8.for_device().weight_bits == 7
        assert find("onnxruntime").settings(1)["session.x64quantprecision"] == "1"
    assert not current_device().address


def test_a_bundle_names_the_device_and_its_runtime(board: str, file: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with using_device(board) as device:
        device._description["onnxruntime"] = "1.2.3"
        made = write_bundle(file, TASK, tmp_path / "bundle", target=DeploymentTarget("onnxruntime"), measurements={}, golden=2)
    described = read_bundle(made)
    assert described.versions["onnxruntime"] == "1.2.3"
    assert described.runtime_settings["session.x64quantprecision"] == "1"


def _search(file: Artifact) -> Any:
    """The part of a search that the check asks for."""
    split = TASK.split("validation")
    images = split.images(file.input_spec, file.preprocessing)
    task = SimpleNamespace(
        split=TASK.split, primary_metric="accuracy", scores=lambda outputs, targets: (outputs["logits"].argmax(1) == targets).astype(float)
    )
    runner = SimpleNamespace(
        store=SimpleNamespace(once=lambda key, stage, work: work()), task=task, artifact=lambda plan: file,
        outputs=lambda *_: load(file.files, "onnxruntime")(images),
    )  # fmt: skip
    return SimpleNamespace(runner=runner, threads=1)


def test_the_chosen_files_outputs_are_compared_with_those_here(
    fake: str, file: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, chosen = _search(file), SimpleNamespace(plan=Plan(), runtime="onnxruntime")
    with collecting_notes() as notes:
        check_on_device(search, chosen)
    assert not notes, "this machine need not be compared with itself"
    with using_device(fake), collecting_notes() as notes:
        check_on_device(search, chosen)
    assert "agree: those of 36 validation images" in notes[-1]
    placed, other = SshDevice.placed, _other(file, tmp_path)
    monkeypatch.setattr(SshDevice, "placed", lambda self, loader, arguments: placed(self, loader, {**arguments, "files": [other]}))
    with using_device(fake), collecting_notes() as notes:
        check_on_device(search, chosen)
    logits = load(file.files, "onnxruntime")(TASK.split("validation").images(file.input_spec, file.preprocessing))["logits"]
    here = 100 * float((logits.argmax(1) == TASK.split("validation").targets).mean())
    assert "are others than here" in notes[-1]
    assert f"and {here:.1f} % here" in notes[-1]


def test_more_processes_than_one_connection_carries(server: str, file: Artifact) -> None:
    """OpenSSH's server runs 10 at once over one connection."""
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    arguments = {"files": [str(file.files[0])], "runtime": "onnxruntime", "threads": 1, "batch": 1}
    subjects = {str(i): Subject("planish.export.runtimes.registry:load", arguments, pixels, "onnxruntime") for i in range(11)}
    with using_device(server), collecting_notes() as notes:
        report = measure_latency(subjects, "0", LatencySettings(seconds=0.1, launches=2, rounds=1))
    assert report.launches == 2
    assert not any("repeated" in text for text in notes)


@pytest.fixture
def bare(fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a device whose ``python3`` is the one of these tests."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    return "ssh://device"


def _wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """A wheel that holds nothing."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {requires}\n" if requires else "")
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def test_an_environment_is_made_from_a_folder_of_wheels_and_used(bare: str, tmp_path: Path) -> None:
    _wheel(tmp_path / "wheels", "numpy", "99.1")
    _wheel(tmp_path / "wheels", "onnxruntime", "98.2", "flat_buffers")
    _wheel(tmp_path / "wheels", "flat_buffers", "1.0")
    done = invoke(["device", "setup", bare, "--wheels", str(tmp_path / "wheels")])
    assert done.exit_code == 0, done.output
    assert "98.2" in done.output
    with SshDevice(bare) as device:
        assert device.describe()["numpy"] == "99.1", "later calls use it"
        assert device.runtime_version("onnxruntime") == "98.2"
        assert device.runtime_version("openvino") == ""
    with SshDevice(f"{bare}{sys.executable}") as device:
        assert device.describe()["numpy"] == np.__version__, "unless another interpreter is named"
    _wheel(tmp_path / "more", "numpy", "99.9")
    _wheel(tmp_path / "more", "onnxruntime", "98.9", "missing_package")
    with pytest.raises(DeviceError, match="No matching distribution found for missing"):
        device_setup(bare, wheels=tmp_path / "more")
    with SshDevice(bare) as device:
        assert device.describe()["numpy"] == "99.1", "the environment that works is kept"


def test_wheels_that_are_not_enough_are_refused_before_anything_is_sent(bare: str, tmp_path: Path) -> None:
    _wheel(tmp_path / "wheels", "numpy", "99.1")
    with pytest.raises(DeviceError, match="holds wheels of numpy"):
        device_setup(bare, wheels=tmp_path / "wheels")
    assert not (tmp_path / "home" / ".cache").exists()


@pytest.mark.slow
def test_a_comparison_is_timed_there(fake: str, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=60, size=32)
    found = planish.compare(data, topic="quantization", model="resnet8x0.5", epochs=2, recovery_epochs=1, out=tmp_path / "run", device=fake)
    assert found.device["address"] == fake
    assert all("latency_ms" in row.measurements for row in found.rows if not row.reason)
    assert (tmp_path / "home" / ".cache" / "planish-device").is_dir()


NETWORKS = """
from torch import nn
def small(num_classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )
"""


def test_networks_to_start_from_are_timed_on_the_device(fake: str, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=20, size=24)
    (tmp_path / "nets.py").write_text(NETWORKS)
    found = planish.backbones(
        data, candidates=[f"{tmp_path / 'nets.py'}:small"], weights="none", budget="5s", out=tmp_path / "run", device=fake
    )
    assert found.device["address"] == fake
    assert set(found.backbones[0].latency) == {"fp32", "int8"}


@pytest.mark.slow
def test_a_search_over_ssh_survives_cut_connections_and_is_verified_there(server: str, tmp_path: Path) -> None:
    """Its server ends all connections three times while files are being timed."""
    data = write_shapes(tmp_path / "shapes", per_class=100, size=32)
    stop, cut = threading.Event(), list[float]()

    def scissors() -> None:
        while not stop.is_set() and len(cut) < 3:
            time.sleep(4)
            with contextlib.suppress(psutil.Error, StopIteration):
                everyone = psutil.process_iter(["cmdline"])
                sshd = next(p for p in everyone if f"{tmp_path}/sshd_config" in (p.info["cmdline"] or ()))
                below = sshd.children(recursive=True)
                if any("worker" in p.cmdline() for p in below):
                    for process in below:
                        if process.name().startswith("sshd"):
                            process.kill()
                    cut.append(time.monotonic())

    thread = threading.Thread(target=scissors, daemon=True)
    thread.start()
    options: dict[str, Any] = {
        "model": "resnet8x2",
        "budget": "100s",
        "max_drop": 5.0,
        "students": [],
        "out": tmp_path / "run",
        "device": server,
    }
    try:
        result = planish.optimize(data, **options)
    except DeviceError:
        result = planish.optimize(data, **options, resume=True)
    finally:
        stop.set()
        thread.join()
    assert cut
    assert result.device["address"] == server
    assert result.chosen.measurements["latency_ms"].device == result.device["cpu"]
    assert any("outputs on the device and here agree" in text for text in result.notes)
    report = planish.verify(tmp_path / "run", device=server)
    assert report.ok, report
    assert "timed on" in (tmp_path / "run" / "report.html").read_text()

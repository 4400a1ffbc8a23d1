"""Models are timed on another machine over ssh: a command that runs what it is given here, and a real server where there is one."""

from __future__ import annotations

import ast
import os
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runner import invoke
from onnx import TensorProto, helper, numpy_helper

from planish.devices.device import using_device
from planish.devices.machine import cpu_model, instruction_sets
from planish.devices.remote import reconnection, ssh
from planish.devices.remote.program import program
from planish.devices.remote.ssh import SshDevice
from planish.devices.remote.state import describe_device, note_changes
from planish.errors import ConnectionLostError, DeviceError, ModelError
from planish.evaluation.latency import LatencySettings, Subject, measure_latency
from planish.progress import collecting_notes

QUICK = LatencySettings(seconds=0.2, launches=2, rounds=5)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {name: _file(folder / f"{name}.onnx", width) for name, width in (("small", 4), ("large", 256))}


def _file(path: Path, width: int) -> Path:
    weight = numpy_helper.from_array(np.ones((width, 3, 5, 5), np.float32), "weight")
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["turned", "weight"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 64, 64, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [images], [logits], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def _subjects(files: dict[str, Path]) -> dict[str, Subject]:
    images = np.zeros((1, 64, 64, 3), np.uint8)
    return {
        name: Subject(
            "planish.export.runtimes.registry:load",
            {"files": [str(path)], "runtime": "onnxruntime", "threads": 1, "batch": 1}, images, "onnxruntime", imports=("onnxruntime",),
        )
        for name, path in files.items()
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["fake", "server"])
def test_models_are_timed_there(kind: str, files: dict[str, Path], request: pytest.FixtureRequest) -> None:
    with using_device(request.getfixturevalue(kind)) as device:
        report = measure_latency(_subjects(files), "large", QUICK)
        assert report.measurements["small"]["latency_ms"].device == device.name
        ratio = report.measurements["small"]["latency_ratio"]
        assert ratio.value > 3, "a convolution of 4 channels instead of 256"
        assert report.launches == 2


def test_nothing_but_the_program_is_needed_and_old_python_reads_it(fake: str) -> None:
    with zipfile.ZipFile(BytesIO(program())) as archive:
        sources = {name: archive.read(name).decode() for name in archive.namelist()}
    assert program.__wrapped__() == program(), "equal content gives an equal archive, which is sent once"
    allowed = {"numpy", "onnxruntime", "openvino", "ai_edge_litert", "psutil", "planish", *sys.stdlib_module_names}
    for name, source in sources.items():
        tree = ast.parse(source, feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {each.partition(".")[0] for each in names} <= allowed, name


def test_files_are_sent_once_and_damaged_ones_again(fake: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with SshDevice(fake) as device:
        [place] = device.send([files["small"]])
        assert Path(place).read_bytes() == files["small"].read_bytes()
        assert Path(place).is_relative_to(os.environ["HOME"])
        first = Path(place).stat().st_mtime_ns
        assert device.send([files["small"]]) == [place]
        assert Path(place).stat().st_mtime_ns == first
        Path(place).write_bytes(b"half")
        device.send([files["small"]])
        assert Path(place).read_bytes() == files["small"].read_bytes()
        monkeypatch.setattr(ssh, "_CACHE_BYTES", 10)
        [other] = device.send([files["large"]])
        assert Path(other).exists()
        assert Path(place).exists(), "it was used a moment ago, and may be timed beside the other"
        Path(other).unlink()
        monkeypatch.setattr(ssh, "_KEPT_SECONDS", 0.0)
        [other] = device.send([files["large"]])
        assert Path(other).exists()
        assert not Path(place).exists(), "what was used longest ago is removed"


def test_a_lost_connection_repeats_the_launch(fake: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The third worker ends as ssh does when the connection is lost."""
    script = Path(os.environ[ssh.COMMAND])
    lost = f'case "$last" in *worker) echo x >> {tmp_path}/n; [ $(wc -l < {tmp_path}/n) = 3 ] && exit 255;; esac\nexec'
    script.write_text(script.read_text().replace("exec", lost))
    monkeypatch.setattr(reconnection, "_RECONNECTION_SECONDS", 0.01)
    with using_device(fake), collecting_notes() as notes:
        report = measure_latency(_subjects(files), "large", QUICK)
    assert report.launches == 2
    assert len(report.round_medians["small"]) == 2
    assert any("connection was lost" in text and "repeated" in text for text in notes)
    assert (tmp_path / "n").read_text().count("x") == 9, "three processes in each of two launches, and in the one that was lost"


def test_a_device_that_stays_away_is_an_error(fake: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with using_device(fake) as device:
        assert device.name
        Path(os.environ[ssh.COMMAND]).write_text("#!/bin/sh\necho 'No route to host' >&2\nexit 255\n")
        monkeypatch.setattr(reconnection, "_RECONNECTION_SECONDS", 0.01)
        with pytest.raises(ConnectionLostError, match="No route to host"):
            measure_latency(_subjects(files), "large", QUICK)


def test_a_model_that_fails_there_is_named(fake: str, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with using_device(fake), pytest.raises(ModelError, match="'broken' cannot be timed"):
        measure_latency(_subjects({"broken": tmp_path / "broken.onnx"}), "broken", QUICK)


@pytest.mark.parametrize(
    "address",
    [
        "pi@raspberry", "ssh://", "ssh://pi:secret@host", "ssh://-oProxyCommand=touch@host", "ssh://host;reboot", "ssh://host/bin/sh -c",
        "ssh://host/$(reboot)", "ssh://host:port", "http://host", "ssh://-host", "ssh://host?x=1",
    ],
)  # fmt: skip
def test_addresses_cannot_hold_commands(address: str) -> None:
    with pytest.raises(DeviceError, match="the device"):
        SshDevice(address)


def test_names_of_files_cannot_hold_commands(fake: str, tmp_path: Path) -> None:
    path = tmp_path / "a $(touch here); 'b.onnx"
    path.write_bytes(b"x")
    with SshDevice(fake) as device:
        [place] = device.send([path])
    assert Path(place).name == "a___touch_here____b.onnx"
    assert not Path("here").exists()


def test_what_a_device_is_and_what_changed_on_it(fake: str) -> None:
    with SshDevice(fake) as device:
        found = device.describe()
    assert found["logical_cores"] == os.cpu_count()
    assert found["numpy"] == np.__version__
    assert f"onnxruntime {found['onnxruntime']}" in describe_device(found)
    assert found["cpu"] == cpu_model()
    assert found["instruction_sets"].split() == list(instruction_sets())
    with collecting_notes() as notes:
        note_changes({"frequency_mhz": 1800}, {"frequency_mhz": 1200, "temperature_celsius": 84.0, "governor": "ondemand"})
    assert ["84 degrees" in notes[0], "1200 MHz" in notes[1], "ondemand" in notes[2]] == [True] * 3
    with collecting_notes() as notes:
        note_changes({"frequency_mhz": 1800}, {"frequency_mhz": 1790, "temperature_celsius": 60.0, "governor": "performance"})
    assert not notes


def test_doctor_says_what_a_device_can_run(fake: str) -> None:
    done = invoke(["doctor", "--device", fake])
    assert done.exit_code == 0, done.output
    assert cpu_model()[:20] in " ".join(done.output.split())
    assert "onnxruntime" in done.output


def test_bench_refuses_a_device_that_does_not_exist() -> None:
    done = invoke(["bench", "a", "b", "--device", "raspberry"])
    assert done.exit_code == 2
    assert "an address is ssh://user@host" in " ".join(done.output.split())

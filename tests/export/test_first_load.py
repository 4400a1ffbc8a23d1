"""Files from elsewhere are loaded in a process of their own first; those that are known are not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_fakes import FakeTask
from onnx import TensorProto, helper, numpy_helper

from planish.artifact import Artifact, InputSpec, Preprocessing
from planish.devices.isolation import ProcessLimits
from planish.errors import ExportError, ModelError
from planish.explanation.opening import open_explained, open_reference
from planish.export import ToOnnx, ToOpenVino
from planish.export.bundle.folder import write_bundle
from planish.export.bundle.verify import verify
from planish.export.onnx import external
from planish.export.runtimes import first_load
from planish.export.runtimes.first_load import limits_for
from planish.models.storage import save_artifact
from planish.runs.open_model import open_model
from planish.serving.model import ServedModel
from planish.settings import DeploymentTarget

Calls = list[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """What is loaded in a process of its own, in order."""
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "cache"))
    started: Calls = []
    call: Callable[..., Any] = first_load.call_isolated

    def counted(function: str, arguments: Any, what: str, limits: Any) -> Any:
        started.append(what)
        return call(function, arguments, what, limits)

    monkeypatch.setattr(first_load, "call_isolated", counted)
    monkeypatch.setattr(external, "call_isolated", counted)
    return started


def changed(file: Path, change: Callable[[Any], object]) -> Path:
    model = onnx.load(str(file))
    change(model)
    onnx.save(model, str(file))
    return file


def without_input(model: Any) -> None:
    """A convolution that is left with its weights alone crashes OpenVINO 2026.4."""
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    weights = node.input[1]
    del node.input[:]
    node.input.append(weights)


def of_the_future(model: Any) -> None:
    """OpenVINO 2026.4 counts up to the version of the operators."""
    model.opset_import[0].version = 1 << 40


def test_a_file_is_loaded_apart_once(onnx_artifact: Artifact, tmp_path: Path, calls: Calls) -> None:
    file = Path(shutil.copy(onnx_artifact.files[0], tmp_path / "a.onnx"))
    for _ in range(2):
        open_model(file, "onnxruntime")
        assert len(calls) == 1  # the second time it is known
    open_model(file, "openvino")
    assert len(calls) == 2  # another runtime is another matter
    open_model(shutil.copy(file, tmp_path / "b.onnx"), "openvino")
    assert len(calls) == 2  # another name is not
    changed(file, lambda model: setattr(model, "doc_string", "x"))
    open_model(file, "openvino")
    assert len(calls) == 3
    save_artifact(onnx_artifact, tmp_path / "saved")
    open_model(tmp_path / "saved")
    assert len(calls) == 3


def test_what_this_process_makes_is_not_loaded_apart(network: Artifact, task: FakeTask, tmp_path: Path, calls: Calls) -> None:
    exported = ToOpenVino().apply(ToOnnx().apply(network, task), task)
    folder = write_bundle(exported, task, tmp_path / "bundle", target=DeploymentTarget("openvino"), measurements={}, golden=2)
    assert not verify(folder).failures
    assert open_model(folder).predictor()
    assert not ServedModel("m", "1", folder).fault
    assert not calls
    with (folder / "README.md").open("a") as readme:
        readme.write("x")
    open_model(folder)
    assert len(calls) == 1  # its hashes do not match


def test_files_that_crash_the_runtime(onnx_artifact: Artifact, tmp_path: Path, calls: Calls) -> None:
    file = changed(Path(shutil.copy(onnx_artifact.files[0], tmp_path / "a.onnx")), without_input)
    seen = r"a.onnx in openvino crashes the library that loads it \(SIG.*download or export it again"
    with pytest.raises(ExportError, match=seen):
        open_model(file, "openvino")
    with pytest.raises(ExportError, match=seen):
        open_model(file, "openvino")  # what failed is not remembered
    changed(file, lambda model: model.ClearField("metadata_props"))  # as a file that Planish did not write
    with pytest.raises(ExportError, match=seen):
        open_explained(file, runtime="openvino", threads=1, batch=1, data=None, settings={})
    with pytest.raises(ExportError, match="ONNX Runtime cannot open"):
        open_reference(file)
    assert len(calls) == 4


def test_files_that_load_without_end(onnx_artifact: Artifact, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_load, "limits_for", lambda *sizes: ProcessLimits(4, 4 << 30))
    file = changed(Path(shutil.copy(onnx_artifact.files[0], tmp_path / "a.onnx")), of_the_future)
    with pytest.raises(ExportError, match=r"a\.onnx in openvino does not load within"):
        open_model(file, "openvino")
    assert len(calls) == 1


def test_limits_grow_with_the_file() -> None:
    small, large, fed = limits_for(10_000, 3 * 224**2), limits_for(500_000_000, 3 * 224**2), limits_for(10_000, 3 * 4000**2)
    assert small.cpu_seconds < large.cpu_seconds
    assert small.cpu_seconds < fed.cpu_seconds
    assert small.memory_bytes < large.memory_bytes


def foreign(file: Path) -> Path:
    """A classifier of two classes as PyTorch writes it."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in (("w", (2, 3, 3, 3)),)]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"), helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["y"], "flat"),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", ("N", 3, 16, 16)), ("y", None))]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, str(file))
    return file


def write_with_normalisation(file: Path, fed: Path) -> tuple[str, ...]:
    how = Preprocessing(16, "squash", (0.5,) * 3, (0.25,) * 3)
    sample = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    return external.write_with_normalisation(external.read_external(file), fed, InputSpec(3, 16, 16), how, 2, sample, [0, 1, 0])


def test_files_of_others_are_rewritten_apart(tmp_path: Path, calls: Calls) -> None:
    assert write_with_normalisation(foreign(tmp_path / "a.onnx"), tmp_path / "fed.onnx") == ()
    assert [value.name for value in onnx.load(str(tmp_path / "fed.onnx")).graph.input] == ["images"]
    assert len(calls) == 1
    assert not list(tmp_path.glob("*.npy"))


def test_damaged_files_of_others(tmp_path: Path, calls: Calls) -> None:
    file = foreign(tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="does not run the file"):
        write_with_normalisation(changed(file, without_input), tmp_path / "fed.onnx")
    assert len(calls) == 1
    assert not (tmp_path / "fed.onnx").exists()

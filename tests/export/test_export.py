import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_fakes import PREPROCESSING, SPEC, FakeTask
from torch import nn

from planish.artifact import Artifact
from planish.data.normalisation import Normalise
from planish.errors import ExportError, RuntimeMissingError
from planish.export import ToOnnx, ToOpenVino
from planish.export.runtimes.registry import RUNTIMES, available, executed_precisions, load
from planish.files.workspace import workspace


def _images(task: FakeTask) -> Any:
    return task.split("validation").images(SPEC, PREPROCESSING)


def _torch(artifact: Artifact, images: Any) -> Any:
    with torch.no_grad():
        return artifact.module(Normalise(PREPROCESSING.mean, PREPROCESSING.std)(torch.from_numpy(images))).numpy()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [None, 1])
def test_the_file_agrees_with_pytorch_for_any_batch(
    network: Artifact, onnx_artifact: Artifact, task: FakeTask, runtime: str, batch: Any
) -> None:
    images = _images(task)
    expected = _torch(network, images)
    predictor = load(onnx_artifact.files, runtime, batch=batch)
    for count in (1, 5, len(images), 1):
        np.testing.assert_allclose(predictor(images[:count])["logits"], expected[:count], atol=1e-4 * np.abs(expected).max())


def test_openvino_files_agree_with_pytorch(network: Artifact, onnx_artifact: Artifact, task: FakeTask) -> None:
    converted = ToOpenVino().apply(onnx_artifact, task)
    images = _images(task)
    expected = _torch(network, images)
    assert [f.name for f in converted.files] == ["model.xml", "model.bin"]
    assert converted.facts["format"] == "openvino"
    assert converted.files[1].stat().st_size >= 4 * sum(p.numel() for p in network.module.parameters()) * 0.9, "weights stay float32"
    np.testing.assert_allclose(load(converted.files, "openvino")(images)["logits"], expected, atol=1e-4 * np.abs(expected).max())


def test_the_file_says_what_it_is_and_carries_nothing_else(onnx_artifact: Artifact) -> None:
    model = onnx.load(str(onnx_artifact.files[0]))
    said = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert said["planish.class_names"] == ["bar", "dot", "plain"]
    assert said["planish.input_spec"] == {"channels": 3, "height": 32, "width": 32}
    assert said["planish.preprocessing"]["mean"] == list(PREPROCESSING.mean)
    assert said["planish.lineage"]["steps"][0]["technique"] == "to_onnx"
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert (model.graph.input[0].name, [d.dim_value for d in dims]) == ("images", [0, 32, 32, 3])
    assert [o.name for o in model.graph.output] == ["logits"]
    ops = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in ops
    assert ops.count("GlobalAveragePool") == 2
    assert "torch" not in str(model.graph.node), "no stack traces"


def test_the_network_is_left_as_it_was(network: Artifact, task: FakeTask) -> None:
    before = copy.deepcopy(network.module.state_dict())
    ToOnnx().apply(network, task)
    assert network.module.stem[2].inplace
    assert all(torch.equal(before[k], v) for k, v in network.module.state_dict().items())


def test_files_go_into_the_workspace(network: Artifact, task: FakeTask, tmp_path: Path) -> None:
    with workspace(tmp_path / "work"):
        files = ToOnnx().apply(network, task).files
    assert files[0].is_relative_to(tmp_path / "work")


class _Branches(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor) -> Any:
        x = self.inside(x)
        return x if x.sum() > 0 else x + 1


class _Inverse(_Branches):
    def forward(self, x: torch.Tensor) -> Any:
        x = self.inside(x)
        return x + torch.linalg.eigvals(x[:, :, None] @ x[:, None, :]).real


class _Random(_Branches):
    def forward(self, x: torch.Tensor) -> Any:
        return self.inside(x) + torch.rand(1, 3)


class _NotFinite(_Branches):
    def forward(self, x: torch.Tensor) -> Any:
        return self.inside(x) / 0


class _Dictionary(_Branches):
    def forward(self, x: torch.Tensor) -> Any:
        return {"out": self.inside(x)}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Branches, r"test_export.py:\d+"),
        (_Inverse, "aten.linalg_eigvals|aten._linalg_eigvals|linalg_eig"),
        (_Random, "differs from PyTorch"),
        (_NotFinite, "not finite"),
        (_Dictionary, "one tensor of logits"),
    ],
)
def test_what_cannot_be_exported_is_named(network: Artifact, task: FakeTask, kind: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        ToOnnx().apply(replace(network, module=kind(network.module)), task)


def test_a_runtime_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, onnx_artifact: Artifact) -> None:
    with pytest.raises(RuntimeMissingError, match="did you mean 'openvino'"):
        load(onnx_artifact.files, "openvin")
    monkeypatch.setattr(RUNTIMES["openvino"], "version", staticmethod(lambda: ""))
    assert available("onnx") == ["onnxruntime"]
    with pytest.raises(RuntimeMissingError, match="pip install openvino"):
        load(onnx_artifact.files, "openvino")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_that_is_no_model_is_an_export_error(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=f"{runtime} cannot open model.onnx"):
        load([tmp_path / "model.onnx"], runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_precisions_are_told_apart(onnx_artifact: Artifact, int8_artifact: Artifact, runtime: str) -> None:
    assert executed_precisions(onnx_artifact.files, runtime) == {"int8": 0, "float": 7}
    found = executed_precisions(int8_artifact.files, runtime)
    assert sum(found.values()) == 7
    assert found["int8"] >= 6


def test_int8_stays_integer_in_openvino_files(onnx_artifact: Artifact, int8_artifact: Artifact, task: FakeTask) -> None:
    converted = ToOpenVino().apply(int8_artifact, task)
    weights = sum(t.numel() for t in onnx_artifact.original.module.parameters())  # type: ignore[union-attr]
    assert converted.files[1].stat().st_size < 2.5 * weights
    assert executed_precisions(converted.files, "openvino")["int8"] >= 6

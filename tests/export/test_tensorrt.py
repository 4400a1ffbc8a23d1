"""Engines of TensorRT, against ONNX Runtime.

Where there is no NVIDIA GPU a stand-in takes the place of TensorRT. It is as strict as its documentation: a call out of order or a buffer
that is too small is an error there. Where there is one (``-m gpu``), the main outcome is tested with TensorRT itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
import torch
from export_fakes import CLASSES, FakeTask, Images
from fake_tensorrt import DataType, Gpu, TensorLocation
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.errors import ExportError, RuntimeMissingError, TrustError
from planish.export import ToOnnx, ToTensorRt
from planish.export.bundle.folder import write_bundle
from planish.export.bundle.readme import readme
from planish.export.bundle.verify import verify
from planish.export.runtimes.registry import load
from planish.files.trust import TRUST
from planish.settings import DeploymentTarget


class Labels(nn.Module):
    """Reads its own outputs: int64 labels beside float scores, and one byte a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 9 * self.layer(x)

    def decode(self, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        scores, labels = outputs.mean(dim=(2, 3)).sort(dim=1, descending=True)
        return {"labels": labels + 2**40, "scores": scores, "classes": outputs.argmax(1).to(torch.uint8)}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setenv(TRUST, "")
    return fake_tensorrt.install(monkeypatch)


@pytest.fixture(scope="module")
def labels_artifact(task: FakeTask) -> Artifact:
    torch.manual_seed(0)
    how = Preprocessing(36, "squash", (0.4,) * 3, (0.2,) * 3)
    network = Artifact("torch", InputSpec(3, 24, 20), how, CLASSES, Lineage(Source("module", 3, 3)), module=Labels().eval())
    return ToOnnx().apply(network, task)


def images_of(artifact: Artifact, count: int) -> Any:
    return Images(count, seed=3).images(artifact.input_spec, artifact.preprocessing)


def same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        np.testing.assert_allclose(found[name], values, atol=1e-5)


def test_an_engine_gives_the_files_answers_of_any_batch(gpu: Gpu, onnx_artifact: Artifact, task: Any) -> None:
    built = ToTensorRt(max_batch_size=4).apply(onnx_artifact, task)
    assert built.facts["format"] == "tensorrt"
    predictor, expected = load(built.files, "tensorrt"), load(onnx_artifact.files, "onnxruntime")
    for count in (1, 3, 4, 11, 2):
        images = images_of(onnx_artifact, count)
        same(predictor(images), expected(images))
    assert gpu.peak_batch == 4, "more images than it was built for are run in pieces"


@pytest.mark.gpu
def test_a_real_engine_gives_the_files_answers(onnx_artifact: Artifact, int8_artifact: Artifact, task: Any) -> None:
    pytest.importorskip("tensorrt")
    if not torch.cuda.is_available():
        pytest.skip("there is no NVIDIA GPU")
    for artifact in (onnx_artifact, int8_artifact):
        images = images_of(artifact, 11)
        found = load(ToTensorRt(max_batch_size=4).apply(artifact, task).files, "tensorrt")(images)["logits"]
        expected = load(artifact.files, "onnxruntime")(images)["logits"]
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
        assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_outputs_have_buffers_of_their_own_type(gpu: Gpu, labels_artifact: Artifact, task: Any) -> None:
    built, images = ToTensorRt().apply(labels_artifact, task), images_of(labels_artifact, 5)
    found = load(built.files, "tensorrt")(images)
    same(found, load(labels_artifact.files, "onnxruntime")(images))
    assert found["labels"].dtype == np.int64
    assert found["labels"].min() >= 2**40


def test_integer_layers_are_made_symmetric(gpu: Gpu, int8_artifact: Artifact, task: Any) -> None:
    built, images = ToTensorRt().apply(int8_artifact, task), images_of(int8_artifact, 24)
    found, expected = load(built.files, "tensorrt")(images)["logits"], load(int8_artifact.files, "onnxruntime")(images)["logits"]
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_images_of_another_size_or_type_are_refused(gpu: Gpu, onnx_artifact: Artifact, task: Any) -> None:
    predictor = load(ToTensorRt(max_batch_size=4).apply(onnx_artifact, task).files, "tensorrt")
    images = images_of(onnx_artifact, 2)
    for wrong in (images[:, :16], images.astype(np.float32), images[:0], images[..., 0]):
        with pytest.raises(ExportError, match="built for uint8"):
            predictor(wrong)
    assert len(predictor(images)["logits"]) == 2, "and it still runs others"


@pytest.mark.parametrize("call", ["set_input_shape", "set_tensor_address", "execute_async_v3"])
def test_what_fails_silently_is_an_error(gpu: Gpu, onnx_artifact: Artifact, task: Any, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    predictor = load(ToTensorRt(max_batch_size=4).apply(onnx_artifact, task).files, "tensorrt")
    monkeypatch.setattr(fake_tensorrt.Context, call, lambda *arguments: False)
    with pytest.raises(ExportError, match="the engine does not"):
        predictor(images_of(onnx_artifact, 2))


def test_engines_that_do_not_fit_are_refused_when_they_are_opened(
    gpu: Gpu, onnx_artifact: Artifact, labels_artifact: Artifact, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ToTensorRt(max_batch_size=4).apply(onnx_artifact, task).files[0]
    init = fake_tensorrt.Engine.__init__

    def broken(**changes: Any) -> None:
        def changed(engine: Any, *arguments: Any) -> None:
            init(engine, *arguments)
            for name, value in changes.items():
                setattr(engine, name, {**engine.dtypes, **value} if name == "dtypes" else value)

        monkeypatch.setattr(fake_tensorrt.Engine, "__init__", changed)

    for changes, said in (
        ({"out_of_memory": True}, "execution context"),
        ({"dtypes": {"logits": DataType.BF16}}, "types that numpy has"),
        ({"dtypes": {"images": DataType.FLOAT}}, "takes uint8 images"),
        ({"location": TensorLocation.HOST}, "processor's memory"),
    ):
        broken(**changes)
        with pytest.raises(ExportError, match=said):
            load([file], "tensorrt")
    monkeypatch.setenv(TRUST, "1")
    file.write_bytes(b"an engine of another version")
    with pytest.raises(ExportError, match=r"cannot read model\.engine"):
        load([file], "tensorrt")


def test_an_engine_from_elsewhere_is_not_opened(gpu: Gpu, onnx_artifact: Artifact, task: Any, tmp_path: Path) -> None:
    built = ToTensorRt(max_batch_size=4).apply(onnx_artifact, task)
    other = tmp_path / "model.engine"
    other.write_bytes(built.files[0].read_bytes() + b" ")
    with pytest.raises(TrustError, match="machine code"):
        load([other], "tensorrt")


def test_what_it_cannot_build_is_an_export_error(gpu: Gpu, onnx_artifact: Artifact, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(fake_tensorrt.Config, "add_optimization_profile", lambda self, profile: -1)
        with pytest.raises(ExportError, match="batches of 1 to 16"):
            ToTensorRt().apply(onnx_artifact, task)
    with monkeypatch.context() as patched:
        patched.setattr(fake_tensorrt.Builder, "build_serialized_network", lambda *arguments: None)
        with pytest.raises(ExportError, match="builds no engine"):
            ToTensorRt().apply(onnx_artifact, task)
    with monkeypatch.context() as patched:
        patched.setattr(fake_tensorrt.Parser, "parse", lambda self, data: bool(self.errors.extend(["no Conv", "no Gemm"])))
        with pytest.raises(ExportError, match=r"cannot read model\.onnx: no Conv; no Gemm"):
            ToTensorRt().apply(onnx_artifact, task)


def test_without_it_one_reads_what_it_needs(onnx_artifact: Artifact, task: Any) -> None:
    with pytest.raises(RuntimeMissingError, match="NVIDIA GPU"):
        ToTensorRt().apply(onnx_artifact, task)


def lines_of(text: str) -> str:
    lines = text.split("```python\n")[1].split("\n```")[0]
    assert len(lines.splitlines()) <= 17
    assert all(len(line) <= 140 for line in lines.splitlines())
    return lines


def test_a_bundle_verifies_and_its_readme_runs_the_engine(
    gpu: Gpu, onnx_artifact: Artifact, task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = ToTensorRt(max_batch_size=4).apply(onnx_artifact, task)
    folder = write_bundle(built, task, tmp_path / "b", target=DeploymentTarget("tensorrt"), measurements={}, golden=5)
    assert verify(folder).ok
    text = (folder / "README.md").read_text()
    assert "onnxruntime" not in text
    monkeypatch.chdir(folder)
    with np.load("golden/expected.npz") as saved:
        expected = saved["logits"]
    for number, image in enumerate(json.loads(Path("bundle.json").read_text())["golden_samples"]):
        monkeypatch.setattr("sys.argv", ["lines.py", image])
        names: dict[str, Any] = {}
        exec(lines_of(text), names)
        np.testing.assert_allclose(names["logits"], expected[number : number + 1], atol=1e-5)
    assert capsys.readouterr().out.split() == [CLASSES[i] for i in expected.argmax(axis=1)]


def test_the_readme_reads_several_outputs_of_an_engine(
    gpu: Gpu, labels_artifact: Artifact, task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, images = ToTensorRt().apply(labels_artifact, task), Images(3, seed=3)
    expected = load(labels_artifact.files, "onnxruntime")(images.images(labels_artifact.input_spec, labels_artifact.preprocessing))
    (tmp_path / "bundle.json").write_text(json.dumps({"files": [str(built.files[0])], "class_names": CLASSES}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lines.py", "image.png"])
    for number in range(3):
        (tmp_path / "image.png").write_bytes(images.file_bytes(number))
        names: dict[str, Any] = {}
        exec(lines_of(readme(built, "semantic", "tensorrt")), names)
        same(names["y"], {name: values[number] for name, values in expected.items()})

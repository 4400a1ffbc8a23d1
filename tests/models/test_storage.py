"""Saved and loaded artifacts are the same artifact."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Step
from planish.errors import BundleError, ModelError
from planish.models import create, load_artifact, save_artifact, storage

SPEC = InputSpec(3, 32, 32)
PREPROCESSING = Preprocessing(32, "squash", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def artifact_of(name, **more) -> Artifact:
    created = create(name, num_classes=4, channels=3, image_size=32)
    return Artifact("torch", SPEC, PREPROCESSING, ("a", "b", "ç", "d"), Lineage(created.source), module=created.module.eval(), **more)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "timm:mobilenetv3_small_050"])
def test_a_network_comes_back_as_it_was(tmp_path: Path, name):
    artifact = artifact_of(name)
    artifact.module.to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    save_artifact(artifact, tmp_path / "a")
    back = load_artifact(tmp_path / "a")
    torch.testing.assert_close(back.module(images), artifact.module(images))
    assert (back.input_spec, back.preprocessing, back.class_names, back.lineage) == (
        SPEC,
        PREPROCESSING,
        ("a", "b", "ç", "d"),
        artifact.lineage,
    )
    assert not back.module.training


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path: Path):
    save_artifact(artifact_of("resnet8"), tmp_path / "a")
    second = artifact_of("resnet8")
    save_artifact(second, tmp_path / "a")
    assert torch.equal(load_artifact(tmp_path / "a").module.conv1.weight, second.module.conv1.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.second(self.first(self.stem(x))).mean((2, 3)))


def test_shared_tensors_stay_shared_and_the_network_must_be_given_again(tmp_path: Path):
    artifact = artifact_of(Shared())
    save_artifact(artifact, tmp_path / "a")
    back = load_artifact(tmp_path / "a", module=Shared())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(back.module(images), artifact.module(images))
    assert back.module.first.weight is back.module.second.weight
    with pytest.raises(ModelError, match="module="):
        load_artifact(tmp_path / "a")


class Narrow:
    """Stands for a technique that changes the structure."""

    name: ClassVar[str] = "narrow"

    @staticmethod
    def rebuild(module: nn.Module, structure: dict[str, int]) -> nn.Module:
        module.fc = nn.Linear(structure["inputs"], 4)
        module.pool = nn.AdaptiveAvgPool2d(2)
        return module


def test_structural_steps_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "resolve", lambda name: {"narrow": Narrow}[name])
    artifact = artifact_of("resnet8")
    module = Narrow.rebuild(artifact.module, {"inputs": 256})
    artifact = artifact.with_step(Step("narrow", {}, structure={"inputs": 256}), module=module)
    save_artifact(artifact, tmp_path / "a")
    images = torch.randn(2, 3, 32, 32)
    back = load_artifact(tmp_path / "a", original=artifact.original)
    assert torch.equal(back.module(images), module(images))
    assert back.original is artifact.original


def test_exported_files_are_copied(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "model.bin").write_bytes(b"weights")
    source = create("resnet8", num_classes=4, channels=3, image_size=32).source
    artifact = Artifact(
        "onnx", SPEC, PREPROCESSING, ("a", "b", "c", "d"), Lineage(source), files=(tmp_path / "model.onnx", tmp_path / "model.bin")
    )
    save_artifact(artifact, tmp_path / "a")
    back = load_artifact(tmp_path / "a")
    assert [f.name for f in back.files] == ["model.onnx", "model.bin"]
    assert back.size_bytes == 12
    (tmp_path / "a" / "model.bin").unlink()
    with pytest.raises(BundleError, match=r"model\.bin"):
        load_artifact(tmp_path / "a")


def test_broken_folders_are_refused(tmp_path: Path):
    with pytest.raises(BundleError):
        load_artifact(tmp_path / "absent")
    save_artifact(artifact_of("resnet8"), tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BundleError, match="not a whole artifact"):
        load_artifact(tmp_path / "a")
    (tmp_path / "a" / "artifact.json").write_text("{}")
    with pytest.raises(BundleError):
        load_artifact(tmp_path / "a")

"""What other packages add: networks by name, and modifications that recipes name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from planish.errors import ModelError, PlanError
from planish.models import create, names
from planish.models.heads.build import head_for
from planish.models.storage import load_artifact, save_artifact
from planish.settings import ModelSettings
from planish.tasks.detection import Detection
from planish.testing import entry_points, write_shapes
from planish.training.prepare import prepare_job
from planish.training.recipe import MODIFICATIONS, Recipe, apply_modifications, load_recipe, modifications

PACKAGE = '''
from collections.abc import Mapping
from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import nn

from planish.artifact import Step


def tiny(num_classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def broken(num_classes):
    raise RuntimeError("out of ideas")


@dataclass(frozen=True)
class Scaled:
    """Multiplies all biases."""

    factor: float = 2.0
    name: ClassVar[str] = "scaled"
    reference: ClassVar[str] = "none"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",)}
    modification_after: ClassVar[str] = "norm"

    @property
    def changes(self):
        return {}

    def apply(self, artifact, task):
        import copy

        module = copy.deepcopy(artifact.module)
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.data.mul_(self.factor)
        return artifact.with_step(Step(self.name, {"factor": self.factor}), module=module)


class Again(Scaled):
    name = "again"
    modification_after = "scaled"


class Lost(Scaled):
    name = "lost"
    modification_after = "nothing"
'''
TECHNIQUES = {"scaled": "their_package:Scaled", "again": "their_package:Again"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "their_package.py").write_text(PACKAGE)
    return folder


@pytest.fixture
def installed(folder: Path) -> Iterator[None]:
    models = {"tiny": "their_package:tiny", "broken": "their_package:broken"}
    with entry_points(folder, {"planish.models": models, "planish.techniques": TECHNIQUES}):
        yield


def test_a_network_of_another_package_is_created_by_name_and_rebuilt(installed: None, tmp_path: Path) -> None:
    assert "tiny" in names()
    job = prepare_job(write_shapes(tmp_path / "shapes", per_class=12), ModelSettings("tiny"))
    assert job.artifact.lineage.source.name == "tiny"
    save_artifact(job.artifact, tmp_path / "model")
    loaded = load_artifact(tmp_path / "model")
    x = torch.rand(2, 1, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(x), job.artifact.module(x))


def test_a_factory_that_fails_is_named(installed: None) -> None:
    with pytest.raises(ModelError, match=r"broken, called with num_classes=3, failed: RuntimeError: out of ideas"):
        create("broken", num_classes=3, channels=1, image_size=24)


def test_without_the_package_there_is_no_such_network() -> None:
    with pytest.raises(ModelError, match="no network is called 'tiny'"):
        create("tiny", num_classes=3, channels=1, image_size=24)


def test_modifications_of_another_package_come_where_they_declare(installed: None, tmp_path: Path) -> None:
    found = modifications()
    assert tuple(name for name in found if name in MODIFICATIONS) == MODIFICATIONS
    assert found.index("scaled") == found.index("norm") + 1
    assert found.index("again") == found.index("scaled") + 1
    (tmp_path / "mine.yaml").write_text("base: scratch-small\nmodifications:\n  again: 3\n  scaled: {factor: 0.5}\n  activation: elu\n")
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert [technique.name for technique in recipe.techniques()] == ["scaled", "again", "activation"]
    job = prepare_job(write_shapes(tmp_path / "shapes", per_class=12), ModelSettings("tiny"))
    changed = apply_modifications(job.artifact, job.task, Recipe(modifications={"scaled": 0.5, "again": 3}).techniques())
    torch.testing.assert_close(changed.module[0].bias, 1.5 * job.artifact.module[0].bias)


def test_a_modification_after_one_that_is_not_there_is_refused(folder: Path) -> None:
    with entry_points(folder, {"planish.techniques": {"lost": "their_package:Lost"}}), pytest.raises(PlanError, match="'nothing'"):
        modifications()


def test_without_the_package_a_recipe_that_names_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("modifications:\n  scaled: 2\n")
    with pytest.raises(PlanError, match="scaled"):
        load_recipe(tmp_path / "mine.yaml")


def test_the_head_of_a_network_follows_from_what_an_installed_tasks_images_are_annotated_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.task.installed_tasks", lambda: {"trees": partial(Detection, name="trees")})
    network = create("resnet8", num_classes=2, channels=3, image_size=64, task="trees").module
    outputs = network.eval().decode(network(torch.zeros(1, 3, 64, 64)))
    assert set(outputs) == {"boxes", "scores", "labels"}
    assert head_for("instance") != head_for("trees") == head_for("detection")
    assert head_for("classification") is head_for("a task that is not installed") is None

"""Distillation as a technique: lineage, teacher, resolutions."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from planish.artifact import InputSpec
from planish.data.normalisation import normalise_each
from planish.errors import TechniqueError
from planish.plan import Plan
from planish.technique import resolve
from planish.training import Distill
from planish.training.resizing import Resized, resized

from .conftest import SIZE

QUICK = {"epochs": 2, "batch_size": 32, "augmentation": "none"}


def test_plans_find_it_by_name():
    plan = Plan.from_dicts([{"name": "distill", "epochs": 3, "temperature": 2}])
    assert plan.steps == (Distill(epochs=3, temperature=2),)
    assert resolve("distill") is Distill
    assert str(plan) == "distilled 3 epochs"


def test_the_first_model_is_fine_tuned_and_becomes_the_original(artifact, task):
    before = copy.deepcopy(artifact.module.state_dict())
    tuned = Distill(**QUICK).apply(artifact, task)
    assert tuned.original is artifact
    assert tuned.lineage.steps[-1].technique == "distill"
    assert tuned.lineage.steps[-1].params["epochs"] == 2
    assert "2 epochs" in tuned.lineage.steps[-1].notes
    assert tuned.facts == artifact.facts
    assert all(torch.equal(a, b) for a, b in zip(before.values(), artifact.module.state_dict().values(), strict=True))


def test_a_student_learns_from_the_original_alone(artifact, task):
    """With weight 1 the targets do not count: a teacher that calls every class by its neighbour's name is imitated."""
    teacher = Distill(epochs=6, batch_size=32, augmentation="none").apply(artifact, task)
    turned = copy.deepcopy(teacher.module)
    turned.fc.weight.data = turned.fc.weight.data.roll(1, 0)
    turned.fc.bias.data = turned.fc.bias.data.roll(1, 0)
    original = replace(artifact, module=turned)
    student = Distill(epochs=6, batch_size=32, augmentation="none", weight=1.0).apply(replace(artifact, original=original), task)
    images = task.split("validation").images(artifact.input_spec, artifact.preprocessing)
    from planish.evaluation.torch_predictor import TorchPredictor

    answers = TorchPredictor(student.module, artifact.preprocessing)(images)["logits"].argmax(1)
    assert ((answers - 1) % 4 == task.split("validation").targets).mean() > 0.8


@pytest.mark.parametrize(("student", "teacher"), [(SIZE // 2, SIZE), (SIZE, SIZE // 2)])
def test_both_see_the_larger_view_each_at_its_own_size(artifact, task, student, teacher, monkeypatch: pytest.MonkeyPatch):
    heights: dict[str, set[int]] = {"student": set(), "teacher": set()}

    def watched(name: str) -> nn.Module:
        module = copy.deepcopy(artifact.module)
        module.conv1.register_forward_pre_hook(lambda _, inputs: heights[name].add(int(inputs[0].shape[2])))
        return module

    original = replace(artifact, module=watched("teacher"), input_spec=InputSpec(1, teacher, teacher))
    small = replace(artifact, module=watched("student"), input_spec=InputSpec(1, student, student), original=original)
    out = Distill(**QUICK).apply(small, task)
    assert heights == {"student": {student}, "teacher": {teacher}}
    assert set(task.split("train").asked) == {InputSpec(1, SIZE, SIZE)}
    assert type(out.module) is type(artifact.module)
    assert out.input_spec == small.input_spec


def test_resizing_keeps_a_flat_image_and_leaves_equal_sizes_alone():
    inner = nn.Identity()
    assert resized(inner, InputSpec(1, 8, 8), InputSpec(1, 8, 8)) is inner
    shrunk = resized(inner, InputSpec(1, 8, 8), InputSpec(1, 12, 12))
    assert isinstance(shrunk, Resized)
    torch.testing.assert_close(shrunk(torch.full((1, 1, 12, 12), 0.7)), torch.full((1, 1, 8, 8), 0.7))


@pytest.mark.parametrize("normalisation", ["min_max", "z_score"])
def test_what_is_shrunk_is_normalised_as_it_will_be_when_deployed(normalisation):
    pixels = torch.randint(0, 256, (3, 1, 12, 12), generator=torch.Generator().manual_seed(0)).float()
    pixels[2] = 50
    small = torch.nn.functional.interpolate(pixels, (8, 8), mode="bilinear", antialias=True)
    shrink = resized(nn.Identity(), InputSpec(1, 8, 8), InputSpec(1, 12, 12), normalisation)
    torch.testing.assert_close(shrink(normalise_each(pixels, normalisation)), normalise_each(small, normalisation), rtol=1e-4, atol=1e-4)


def test_another_view_is_refused(artifact, task):
    other = replace(artifact, preprocessing=replace(artifact.preprocessing, mean=(0.1,)))
    with pytest.raises(TechniqueError, match="mean"):
        Distill(**QUICK).apply(replace(artifact, original=other), task)


def test_it_ends_within_its_seconds(artifact, task):
    out = Distill(epochs=10_000, batch_size=32, augmentation="none", max_seconds=2).apply(artifact, task)
    assert "time limit" in out.lineage.steps[-1].notes


def test_it_trains_with_single_operations_and_remembers_them(artifact, task, tmp_path):
    from planish.models.storage import load_artifact, save_artifact

    technique = Distill(**QUICK | {"augmentation": {"shift": 0.1, "brightness": 0.2}})
    tuned = technique.apply(artifact, task)
    step = tuned.lineage.steps[-1]
    assert step.params["augmentation"] == {"shift": 0.1, "brightness": 0.2}
    assert Plan.from_dicts([{"name": step.technique, **step.params}]) == Plan(technique)
    save_artifact(tuned, tmp_path / "saved")
    assert load_artifact(tmp_path / "saved").lineage == tuned.lineage

"""Recipes: read, changed, resolved; and what is wrong in one is told with the nearest right word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

import planish
from planish.data import images_per_class
from planish.errors import PlanError
from planish.models.surgery import Activation, Norm
from planish.progress import collecting_notes
from planish.settings import ModelSettings
from planish.technique import registered
from planish.testing import write_shapes
from planish.training import Distill
from planish.training.prepare import prepare_job
from planish.training.recipe import (
    MODIFICATIONS,
    Recipe,
    apply_modifications,
    default_recipe,
    load_recipe,
    recipe_for,
    resolved_recipe,
    set_values,
    shipped,
)


def test_every_modification_of_a_recipe_is_a_technique() -> None:
    assert set(MODIFICATIONS) <= registered().keys()


def test_shipped_recipes_are_read_and_say_what_they_are_for() -> None:
    assert {"scratch-small", "finetune-few", "finetune-many"} <= shipped().keys()
    for name, recipe in shipped().items():
        assert recipe.description
        assert load_recipe(name) == recipe == set_values(recipe, [])


def test_values_are_set_by_full_and_by_short_key() -> None:
    recipe = set_values(
        load_recipe("scratch-small"), ["training.epochs=10", "learning_rate=0.3", "activation=elu", "norm.kind=group", "norm.groups=4"]
    )
    assert (recipe.training.epochs, recipe.training.learning_rate) == (10, 0.3)
    assert recipe.techniques() == [Norm("group", groups=4), Activation("elu")]
    assert set_values(recipe, ["activation=none"]).techniques() == [Norm("group", groups=4)]
    assert set_values(recipe, ["norm=none"]).techniques()[0] == Norm("none")
    assert set_values(set_values(recipe, ["norm=group"]), ["norm.groups=8"]).techniques()[0] == Norm("group", groups=8)


def test_a_file_may_say_only_what_differs(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: finetune-few\ntraining: {epochs: 3}\nmodifications: {dropout: 0.2}\n")
    recipe = load_recipe(mine)
    assert recipe.training.epochs == 3
    assert recipe.training.layer_decay == load_recipe("finetune-few").training.layer_decay
    written = tmp_path / "again.yaml"
    written.write_text(recipe.to_yaml())
    assert load_recipe(written) == recipe


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["training.epoch=3"], "did you mean 'epochs'"),
        (["activations=elu"], "did you mean 'activation'"),
        (["activation=eluu"], "modifications.activation"),
        (["epochs=0"], "training.epochs"),
        (["epochs"], "KEY=VALUE"),
    ],
)
def test_a_wrong_key_or_value_says_what_is_right(changes: list[str], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        set_values(Recipe(), changes)


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(PlanError, match="did you mean 'finetune-few'"):
        load_recipe("finetune-fw")


def test_train_keeps_the_recipe_and_the_modifications(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=20)
    trained = planish.train(data, model="resnet8", changes=["epochs=1", "activation=elu", "norm=group"], out=tmp_path / "model")
    kept = load_recipe(tmp_path / "model" / "recipe.yaml")
    assert kept.modifications == {"activation": "elu", "norm": "group"}
    assert (tmp_path / "model" / "augmented.png").stat().st_size > 500
    kinds = {type(m) for m in trained.artifact.module.modules()}
    assert torch.nn.ELU in kinds
    assert torch.nn.GroupNorm in kinds
    assert not kinds & {torch.nn.ReLU, torch.nn.BatchNorm2d}
    again = planish.evaluate(tmp_path / "model", data)
    assert again["accuracy"].value == trained.metrics["accuracy"].value


def test_applied_modifications_are_where_a_network_starts_from(tmp_path: Path) -> None:
    job = prepare_job(write_shapes(tmp_path / "shapes", per_class=20), ModelSettings("resnet8"))
    artifact = apply_modifications(job.artifact, job.task, [Activation("elu"), Norm("group")])
    assert artifact.original is None
    assert [step.technique for step in artifact.lineage.steps] == ["activation", "norm"]


def test_the_recipe_of_recovery_is_what_distill_does() -> None:
    assert load_recipe("recovery").training == Distill().settings


@pytest.mark.parametrize(("recipe", "said"), [("recovery", True), ("scratch-small", False), (None, False)])
def test_recovery_of_fresh_weights_is_told_what_it_is_for(recipe: str | None, said: bool, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=20)
    with collecting_notes() as notes:
        planish.train(data, model="resnet8", recipe=recipe, changes=["epochs=1"], out=tmp_path / "model")
    assert any("compressed network, and this one has random weights" in text for text in notes) is said


@pytest.mark.parametrize(("normalisation", "said"), [("z_score", True), ("min_max", True), ("dataset", False)])
def test_weights_that_expect_another_normalisation_are_told(normalisation: Any, said: bool, tmp_path: Path) -> None:
    torch.save(torchvision.models.get_model("squeezenet1_1").state_dict(), tmp_path / "weights.pth")
    data = write_shapes(tmp_path / "shapes", per_class=20, channels=3)
    with collecting_notes() as notes:
        prepare_job(
            data, ModelSettings("torchvision:squeezenet1_1", weights=tmp_path / "weights.pth", image_size=64), normalisation=normalisation
        )
    assert any("they start out worse" in text for text in notes) is said
    with collecting_notes() as notes:
        prepare_job(data, ModelSettings("torchvision:squeezenet1_1", image_size=64), normalisation=normalisation)
    assert not any("they start out worse" in text for text in notes), "fresh weights expect nothing"


def test_few_images_are_tuned_by_the_recipe_for_few(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "shapes", per_class=12, size=16)
    assert images_per_class(folder) == 12
    few, many = load_recipe("finetune-few"), load_recipe("finetune-many")
    assert resolved_recipe(None, [], folder, pretrained=True) == few
    assert resolved_recipe(None, [], folder, pretrained=False) == load_recipe("scratch-small")
    assert resolved_recipe("finetune-many", [], folder, pretrained=True) == many
    assert default_recipe(True, 5000) == many


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "torchvision:fcos_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def test_detectors_of_torchvisions_have_a_recipe_of_their_own(name: str) -> None:
    assert recipe_for("objects", name) == "objects-torchvision"
    theirs, ours = (resolved_recipe(None, [], "photos", False, "detection", model).training for model in (name, "resnet18"))
    assert (theirs, ours) == (load_recipe("objects-torchvision").training, load_recipe("objects").training)
    assert recipe_for("", name) == ""
    assert recipe_for("objects", torch.nn.Identity()) == "objects"


@pytest.mark.parametrize("chain", [["one"], ["one", "two"], ["one", "two", "three"]])
def test_a_recipe_that_is_its_own_base_is_refused(tmp_path: Path, chain: list[str]) -> None:
    for name, base in zip(chain, [*chain[1:], chain[0]], strict=True):
        (tmp_path / f"{name}.yaml").write_text(f"base: {base}.yaml\n")
    with pytest.raises(PlanError, match=r"one\.yaml is its own base"):
        load_recipe(tmp_path / "one.yaml")


def test_a_base_lies_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "base.yaml").write_text("base: finetune-few\ntraining: {epochs: 7}\n")
    (tmp_path / "recipes" / "mine.yaml").write_text("base: base.yaml\nimage_size: 64\n")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("recipes/mine.yaml")
    assert (recipe.training.epochs, recipe.image_size) == (7, 64)
    assert recipe.training.layer_decay == load_recipe("finetune-few").training.layer_decay


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: fast", r"training: 'fast'\. training of a recipe is a mapping"),
        ("modifications: [norm]", r"modifications of a recipe is a mapping"),
        ("training: {epochs: 3}\nepochs: 4", r"'training\.epochs' is given twice"),
        ("norm: group\nmodifications: {norm: batch}", r"'modifications\.norm' is given twice"),
        ("training:\n\tepochs: 3", r"line 2, column 1: .*'\\t'"),
        ("schema_version: '1'", r"has schema_version '1'\."),
    ],
)
def test_mistakes_in_a_recipe_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(PlanError, match=words) as found:
        load_recipe(tmp_path / "mine.yaml")
    assert "\n" not in str(found.value)


def test_sections_with_all_keys_commented_out_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("training:\n#  epochs: 3\nmodifications:\nimage_size: 64\n")
    assert load_recipe(tmp_path / "mine.yaml") == set_values(Recipe(), ["image_size=64"])

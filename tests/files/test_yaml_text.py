"""YAML is read as version 1.2 has it: words stay words."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from planish.data import load_images
from planish.files.yaml_text import parse_yaml, parse_yaml_words
from planish.plan import Plan
from planish.training.recipe import Recipe, load_recipe, set_values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"), ("On", "On"), ("no", "no"), ("YES", "YES"), ("y", "y"), ("true", True), ("False", False), ("10", 10), ("-3", -3),
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("1e-3", 0.001), ("5.", 5.0), (".5", 0.5), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"),
        ("-.inf", -math.inf), ("null", None), ("~", None), ("", None), ("'10'", "10"), ("1_000", "1_000"),
    ],
)  # fmt: skip
def test_scalars_of_the_core_schema(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_words_are_as_they_are_written() -> None:
    text = "names: [no, yes, null, 1.10, 010, true, 2020-01-01]\nnothing:\n"
    assert parse_yaml_words(text) == {"names": ["no", "yes", "null", "1.10", "010", "true", "2020-01-01"], "nothing": None}


def test_a_value_of_a_recipe_may_be_off_and_a_switch_as_well() -> None:
    recipe = set_values(Recipe(), ["training.mixed_precision=off", "flip=no", "learning_rate=1e-3"])
    assert (recipe.training.mixed_precision, recipe.training.flip, recipe.training.learning_rate) == ("off", False, 0.001)
    assert set_values(Recipe(), ["flip=on"]).training.flip is True


def test_the_same_in_a_file_and_back(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("training: {mixed_precision: off}\n")
    recipe = load_recipe(file)
    assert recipe.training.mixed_precision == "off"
    file.write_text(recipe.to_yaml())
    assert load_recipe(file) == recipe


def test_the_same_in_a_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("- {name: distill, mixed_precision: off, flip: no, learning_rate: 1e-2}\n")
    step: Any = Plan.load(file).steps[0]
    assert (step.mixed_precision, step.flip, step.learning_rate) == ("off", False, 0.01)


@pytest.mark.parametrize("names", ["[no, yes]", "{0: no, 1: yes}", "{no: 0, yes: 1}", "\n- no\n- yes"])
def test_classes_of_a_data_set_may_be_called_no_and_yes(tmp_path: Path, names: str) -> None:
    for split in ("train", "val"):
        for number in range(4):
            image = tmp_path / "images" / split / f"{number}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (60 * number, 10, 200)).save(image)
            text = tmp_path / "labels" / split / f"{number}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(f"{number % 2} 0.5 0.5 0.25 0.25\n")
    (tmp_path / "data.yaml").write_text(f"train: images/train\nval: images/val\ntest: null\nnc: 2\nnames: {names}\n")
    assert load_images(tmp_path, task="detection").class_names == ("no", "yes")


@pytest.mark.parametrize("parse", [parse_yaml, parse_yaml_words])
def test_a_key_that_is_given_twice_is_refused(parse: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="line 3: the key 'training' is given twice"):
        parse("training: {epochs: 5}\nnorm: batch\ntraining: {learning_rate: 0.1}")
    assert parse("a: {b: x}\nc: {b: y}") == {"a": {"b": "x"}, "c": {"b": "y"}}

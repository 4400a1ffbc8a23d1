"""JSON Schemas of the file formats: current, and what an independent validator accepts is what Planish writes and reads."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import jsonschema_rs
import pytest
import yaml

from planish.errors import BundleError, PlanError
from planish.files.atomic import read_result, write_result
from planish.files.schema import SCHEMA_VERSION, version_of
from planish.plan import Plan
from planish.technique import registered
from planish.training.recipe import Recipe, load_recipe, set_values, shipped

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import schemas

EVERY = pytest.mark.parametrize("name", schemas.FORMATS)


def example(kind: Any) -> Any:
    """A value of a type, with one of everything in it."""
    origin, inner = get_origin(kind), get_args(kind)
    if hasattr(kind, "__metadata__"):
        return example(kind.__origin__)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=False)
        return kind(
            **{one.name: one.default if one.name == SCHEMA_VERSION else example(hints[one.name]) for one in dataclasses.fields(kind)}
        )
    if origin is Literal:
        return inner[0]
    if origin in (Union, types.UnionType):
        return example(inner[0])
    if origin is tuple:
        return (example(inner[0]),) if inner[1:] == (...,) else tuple(map(example, inner))
    if origin is list:
        return [example(inner[0])]
    if origin is dict:
        return {example(inner[0]): example(inner[1])}
    return {str: "word", int: 2, float: 0.5, bool: True, Any: {"anything": 1}}[kind]


def validator(name: str) -> Any:
    return jsonschema_rs.validator_for(json.loads((schemas.FOLDER / f"{name}.schema.json").read_text()))


def written(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    write_result(folder / name, example(schemas.FORMATS[name]))
    return folder / name, json.loads((folder / name).read_text())


def test_the_schemas_are_current() -> None:
    assert schemas.main(check=True) == 0, "run: make schemas"


def test_a_changed_a_missing_and_a_needless_schema_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schemas, "FOLDER", tmp_path)
    assert schemas.main(check=False) == 0
    assert schemas.main(check=True) == 0
    (tmp_path / "plan.schema.json").unlink()
    (tmp_path / "more.schema.json").write_text("{}")
    (tmp_path / "folds.schema.json").write_text((tmp_path / "folds.schema.json").read_text().replace("accuracy", "score"))
    capsys.readouterr()
    assert schemas.main(check=True) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        f"docs/schemas/{name}.schema.json" for name in ("folds", "more", "plan")
    ]
    schemas.main(check=False)
    assert schemas.main(check=True) == 0


@EVERY
def test_what_is_written_is_valid_and_is_read_again(tmp_path: Path, name: str) -> None:
    file, content = written(tmp_path, name)
    assert content[SCHEMA_VERSION] == version_of(schemas.FORMATS[name]) == 1
    assert validator(name).is_valid(content)
    assert read_result(file, schemas.FORMATS[name]) == example(schemas.FORMATS[name])


@EVERY
def test_what_the_schema_refuses_is_refused_by_the_reader(tmp_path: Path, name: str) -> None:
    file, content = written(tmp_path, name)
    first = next(key for key in content if key != SCHEMA_VERSION)
    for wrong in (content | {"more": 1}, {key: value for key, value in content.items() if key != first}, content | {first: None}):
        assert not validator(name).is_valid(wrong)
        file.write_text(json.dumps(wrong))
        with pytest.raises(BundleError):
            read_result(file, schemas.FORMATS[name])


@pytest.mark.parametrize("version", [None, 0, 2, 99, "1", 1.5, True, [1], "x" * 1000])
@EVERY
def test_another_version_is_refused_with_what_to_do(tmp_path: Path, name: str, version: object) -> None:
    file, content = written(tmp_path, name)
    file.write_text(json.dumps(content | {SCHEMA_VERSION: version}))
    with pytest.raises(
        BundleError, match=r"has schema_version .{1,20}\. this version of Planish reads schema_version 1\. make it again.*or use"
    ):
        read_result(file, schemas.FORMATS[name])
    assert not validator(name).is_valid(content | {SCHEMA_VERSION: version})


@EVERY
def test_a_file_without_a_version_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    file, content = written(tmp_path, name)
    del content[SCHEMA_VERSION]
    file.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=rf"{name} has no schema_version.*make it again"):
        read_result(file, schemas.FORMATS[name])
    assert not validator(name).is_valid(content)


def test_every_key_of_every_format_is_described() -> None:
    missing = []
    for name, schema in schemas.schemas().items():
        parts = [schema, *schema.get("$defs", {}).values(), *schema.get("items", {}).get("oneOf", ())]
        for part in parts:
            missing += [
                (name, part["title"], key)
                for key, value in part.get("properties", {}).items()
                if not value.keys() & {"description", "const"}
            ]
    assert missing == []


def test_descriptions_are_those_of_the_docstring() -> None:
    text = "What it is.\n\nArgs:\n    first: begins\n        and ends.\n    second: ``{x: 1}``: more.\n\nReturns:\n    third: nothing."
    assert schemas.documented_arguments(text) == {"first": "begins and ends.", "second": "``{x: 1}``: more."}
    assert schemas.documented_arguments("No arguments.") == {}


PLANS = (
    [
        {"name": "channel_pruning", "pruning_ratio": 0.5},
        {"name": "distill", "epochs": 5, "augmentation": {"rotate": 15}},
        {"name": "to_onnx"},
        {"name": "int8"},
    ],
    [{"name": "latency_pruning", "speedup": 2.0, "low_rank": True}],
    [{"name": "iterative_pruning", "pruning": {"sparsity": 0.9}}],
    [],
)
WRONG_PLANS = (
    {"name": "int8"},
    [{"name": "no_such"}],
    ["int8"],
    [{"epochs": 1}],
    [{"name": "distill", "epochs": "many"}],
    [{"name": "distill", "epoch": 3}],
)


@pytest.mark.parametrize("steps", PLANS)
def test_plans_are_valid_as_written_by_hand_and_as_planish_writes_them(steps: list[Any]) -> None:
    assert validator("plan").is_valid(steps)
    assert validator("plan").is_valid(Plan.from_dicts(steps).to_dicts())


@pytest.mark.parametrize("steps", WRONG_PLANS)
def test_wrong_plans_are_not(steps: Any) -> None:
    assert not validator("plan").is_valid(steps)
    with pytest.raises(PlanError):
        Plan.from_dicts(steps)


def test_every_technique_is_in_the_schema_of_plans() -> None:
    named = [step["properties"]["name"]["const"] for step in schemas.plan_schema()["items"]["oneOf"]]
    assert named == sorted(name for name, kind in registered().items() if kind.__module__.startswith("planish."))


def test_recipes_of_the_package_and_changed_ones_are_valid() -> None:
    folder = Path(schemas.__file__).parent.parent / "planish" / "training" / "recipes"
    changed = set_values(load_recipe("scratch-small"), ["activation=elu", "norm.kind=group", "dropout=none", "augmentation={rotate: 15}"])
    given = [
        *(yaml.safe_load(file.read_text()) for file in folder.glob("*.yaml")),
        *(yaml.safe_load(r.to_yaml()) for r in shipped().values()),
    ]
    for recipe in (*given, yaml.safe_load(changed.to_yaml()), {}):
        assert list(validator("recipe").iter_errors(recipe)) == []


@pytest.mark.parametrize(
    "recipe", [{"modifications": {"colour": "red"}}, {"modifications": {"activation": "exp"}}, {"training": {"epoch": 3}}, {"more": 1}]
)
def test_wrong_recipes_are_not(tmp_path: Path, recipe: dict[str, Any]) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    assert not validator("recipe").is_valid(recipe)
    with pytest.raises(PlanError):
        load_recipe(tmp_path / "mine.yaml")


def test_a_recipe_of_another_version_is_refused_and_one_without_is_taken_as_current(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("schema_version: 2\ntraining: {epochs: 3}\n")
    with pytest.raises(PlanError, match=r"mine\.yaml has schema_version 2.*reads schema_version 1.*change it"):
        load_recipe(file)
    for head in ("schema_version: 1\n", ""):
        file.write_text(f"{head}training: {{epochs: 3}}\n")
        assert load_recipe(file).training.epochs == 3
    assert yaml.safe_load(Recipe().to_yaml())[SCHEMA_VERSION] == 1
    with pytest.raises(PlanError, match="no key 'schema_version'"):
        set_values(Recipe(), ["schema_version=2"])

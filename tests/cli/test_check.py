"""``planish check`` refuses what ``compress`` and ``train`` would refuse, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from cli_runner import invoke

PROJECT = Path(__file__).parents[2]
PLAN = "- {name: channel_pruning, pruning_ratio: 0.5}\n- {name: distill, epochs: 1}\n- {name: to_onnx}\n- {name: int8}\n"
RECIPE = "base: scratch-small\ntraining: {epochs: 3}\nmodifications: {activation: elu}\n"


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_valid_files(tmp_path: Path) -> None:
    files = [write(tmp_path, "a.yaml", PLAN), write(tmp_path, "b.yaml", RECIPE), write(tmp_path, "c.json", '[{"name": "to_onnx"}]')]
    ran = invoke(["check", *files])
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.splitlines() == [f"{files[0]}: a valid plan", f"{files[1]}: a valid recipe", f"{files[2]}: a valid plan"]


def test_recipes_of_the_package_are_valid() -> None:
    files = sorted((PROJECT / "planish" / "training" / "recipes").glob("*.yaml"))
    assert invoke(["check", *map(str, files)]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("- {name: chanel_pruning, pruning_ratio: 0.5}", "channel_pruning"),
        ("- {name: channel_pruning, pruning_ration: 0.5}", "pruning_ratio"),
        ("- {name: channel_pruning, pruning_ratio: 1.5}", "pruning_ratio"),
        ("- {name: int8}", "needs format onnx"),
        ("training: {epocs: 3}", "epochs"),
        ("training: {epochs: many}", "epochs"),
        ("- [", "line 1, column 4"),
        ("7", "list"),
    ],
)
def test_files_that_are_not_valid(text: str, word: str, tmp_path: Path) -> None:
    good, bad = write(tmp_path, "good.yaml", PLAN), write(tmp_path, "bad.yaml", text)
    ran = invoke(["check", bad, good])
    assert ran.exit_code == 1, ran.output
    first, second = ran.stdout.splitlines()
    assert word in first
    assert second == f"{good}: a valid plan", "the others are checked all the same"
    shown = invoke(["check", bad, good, "--json"])
    assert shown.exit_code == 1
    assert [bool(each["error"]) for each in json.loads(shown.stdout)] == [True, False]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    ran = invoke(["check", str(tmp_path / "none.yaml")])
    assert ran.exit_code == 1
    assert "none.yaml" in ran.stdout


def test_the_hook_of_pre_commit_calls_it_with_plans_and_recipes() -> None:
    (hook,) = yaml.safe_load((PROJECT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"] == "planish check"
    assert invoke([*hook["entry"].split()[1:], "--help"]).exit_code == 0
    for name in (
        "plan.yaml",
        "plans/half.yml",
        "models/small-plan.yaml",
        "recipe.yaml",
        "recipes/a.json",
        "plan_int8.yaml",
        "my.recipe.yaml",
    ):
        assert re.search(hook["files"], name), name
    for name in ("planning.yaml", "plan.md", "docker-compose.yaml", "explanation.yaml", "airplane.json", "plan.yaml.txt"):
        assert not re.search(hook["files"], name), name

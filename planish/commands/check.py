"""Checking of plans and recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from planish.errors import PlanError

_FACTS = {"format": "torch", "precision": "fp32", "weights": "dense"}  # of a trained network


@dataclass(frozen=True)
class CheckedFile:
    """A plan or a recipe.

    Args:
        file: its path.
        kind: what it is: a list of techniques is a plan, a mapping a recipe.
        error: why it is not valid; empty if it is.
    """

    file: str
    kind: Literal["plan", "recipe"]
    error: str = ""


def check(files: Sequence[str | Path]) -> list[CheckedFile]:
    """Check plans and recipes without running them; exit code 1 if one is not valid.

    Techniques, their parameters and their order, and the keys and values of recipes are checked, as `compress` and `train` would do.

    Args:
        files: YAML or JSON files: lists of techniques are plans, mappings are recipes.

    Returns:
        What each file is, and why it is not valid.

    Example:
        $ planish check plan.yaml recipe.yaml
    """
    return [_checked(Path(file)) for file in files]


def _checked(file: Path) -> CheckedFile:
    from planish.files.reading import read_text
    from planish.files.yaml_text import parse_yaml
    from planish.plan import Plan
    from planish.training.recipe import load_recipe

    kind: Literal["plan", "recipe"] = "plan"
    try:
        kind = "recipe" if isinstance(parse_yaml(read_text(file)), dict) else "plan"
        if kind == "recipe":
            load_recipe(file)
        else:
            Plan.load(file).check(_FACTS)
    except (PlanError, OSError, ValueError) as error:
        return CheckedFile(str(file), kind, str(error))
    return CheckedFile(str(file), kind)

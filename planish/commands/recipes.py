"""The training recipes that come with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planish.errors import PlanError

if TYPE_CHECKING:
    from planish.training.recipe import Recipe


def recipes(name: str | None = None) -> dict[str, Recipe]:
    """List the training recipes that come with the package, or print one of them to start from.

    Args:
        name: Print this recipe as YAML.

    Returns:
        All recipes by name, or only the named one.

    Raises:
        PlanError: there is no such recipe.

    Example:
        $ planish recipes finetune-few > mine.yaml
    """
    from planish.training.recipe import shipped

    known = shipped()
    if name is not None and name not in known:
        raise PlanError(f"there is no recipe {name!r}", f"recipes are {', '.join(known)}")
    return known if name is None else {name: known[name]}

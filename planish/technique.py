"""A technique: one change to an artifact, with its hyper-parameters. And the registry that finds them by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from planish.artifact import Artifact
from planish.errors import PlanError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from planish.task import Task


class Technique(Protocol):
    """One change to an artifact.

    Implementations are frozen pydantic dataclasses: their fields are the hyper-parameters, and a class docstring says what it does and
    names its paper. Whether two combine is computed from ``requires`` and ``changes``, never from a hand-kept list. A technique
    that changes the network's structure also has ``rebuild(module, structure) -> module`` as a static method: it makes the same change,
    without data, to a network freshly built from its source, so that the weights fit.

    Attributes:
        name: how plans and the command line call it.
        reference: where the idea comes from.
        requires: facts (``Artifact.facts``) that must hold, each with the values allowed: ``{"format": ("torch",)}``.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    requires: ClassVar[Mapping[str, tuple[str, ...]]]

    @property
    def changes(self) -> dict[str, str]:
        """Facts that hold afterwards: ``{"format": "onnx"}``."""
        ...

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Make the change.

        Raises:
            TechniqueError: it does not apply to this artifact; the message says why.
        """
        ...


@cache
def registered() -> dict[str, type[Technique]]:
    """All techniques by name: what the rooms list in ``__all__``, and what others add through the entry point ``planish.techniques``."""
    found: dict[str, type[Technique]] = {}
    for entry in entry_points(group="planish.techniques"):
        loaded = entry.load()
        members = [getattr(loaded, n) for n in getattr(loaded, "__all__", ())] if isinstance(loaded, ModuleType) else [loaded]
        found.update({m.name: m for m in members if hasattr(m, "apply") and hasattr(m, "requires")})
    return found


def resolve(name: str) -> type[Technique]:
    """The technique of that name.

    Raises:
        PlanError: there is none; the message says which is nearest.
    """
    techniques = registered()
    if name not in techniques:
        near = difflib.get_close_matches(name, techniques, n=1)
        raise PlanError(
            f"no technique is called {name!r}",
            f"a plan may use {', '.join(sorted(techniques))}",
            f"did you mean {near[0]!r}?" if near else "",
        )
    return techniques[name]


def hyper_parameters(technique: Technique) -> dict[str, Any]:
    """Its fields as JSON values: ``{"pruning_ratio": 0.5}``."""
    from pydantic import TypeAdapter

    return dict(TypeAdapter(type(technique)).dump_python(technique, mode="json"))


def describe(technique: Technique) -> dict[str, Any]:
    """Name and hyper-parameters as JSON values: ``{"name": "channel_pruning", "pruning_ratio": 0.5}``."""
    return {"name": technique.name, **hyper_parameters(technique)}


def parameter_names(kind: type[Technique]) -> list[str]:
    """Names of its hyper-parameters, in order."""
    return list(getattr(kind, "__dataclass_fields__", {}))


def wrong_values(error: ValidationError) -> str:
    """What is wrong with values that people wrote, each with its key."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())

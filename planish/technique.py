"""The technique protocol (one change to an artifact, with its hyper-parameters), and the registry of techniques."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
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

    Implementations are frozen pydantic dataclasses: their fields are the hyper-parameters, and the class docstring describes the change and
    cites the paper. Whether two techniques can be combined follows from ``requires`` and ``changes``; there is no list to maintain. A
    technique that changes the network's structure also has a static method ``rebuild(module, structure) -> module``: it makes the same
    change, without data, to a network freshly built from its source, so that the saved weights fit.

    Attributes:
        name: its name in plans and on the command line.
        reference: the paper or other source of the idea.
        requires: facts (``Artifact.facts``) that must hold, each with the allowed values: ``{"format": ("torch",)}``.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    requires: ClassVar[Mapping[str, tuple[str, ...]]]

    @property
    def changes(self) -> dict[str, str]:
        """Facts that hold after the change: ``{"format": "onnx"}``."""
        ...

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Return the changed artifact.

        Raises:
            TechniqueError: the technique does not apply to this artifact; the message gives the reason.
        """
        ...


@cache
def registered() -> dict[str, type[Technique]]:
    """Return all techniques by name, from the entry point ``planish.techniques``: classes, or modules that list them in ``__all__``."""
    found: dict[str, type[Technique]] = {}
    for entry in entry_points(group="planish.techniques"):
        loaded = entry.load()
        members = [getattr(loaded, n) for n in getattr(loaded, "__all__", ())] if isinstance(loaded, ModuleType) else [loaded]
        found.update({m.name: m for m in members if hasattr(m, "apply") and hasattr(m, "requires")})
    return found


def resolve(name: str) -> type[Technique]:
    """Return the technique with the given name.

    Raises:
        PlanError: there is none; the message suggests the most similar name.
    """
    techniques = registered()
    if name not in techniques:
        near = difflib.get_close_matches(name.lower(), techniques, n=1)
        raise PlanError(
            f"no technique is called {name!r}",
            f"a plan may use {', '.join(sorted(techniques))}",
            f"did you mean {near[0]!r}?" if near else "",
        )
    return techniques[name]


def hyper_parameters(technique: Technique) -> dict[str, Any]:
    """Return the fields of a technique as JSON values: ``{"pruning_ratio": 0.5}``."""
    from pydantic import TypeAdapter

    return dict(TypeAdapter(type(technique)).dump_python(technique, mode="json"))


def describe(technique: Technique) -> dict[str, Any]:
    """Return name and hyper-parameters as JSON values: ``{"name": "channel_pruning", "pruning_ratio": 0.5}``."""
    return {"name": technique.name, **hyper_parameters(technique)}


def parameter_names(kind: type[Technique]) -> list[str]:
    """Return the names of a technique's hyper-parameters, in order."""
    return [field.name for field in fields(kind)] if is_dataclass(kind) else []


def wrong_values(error: ValidationError) -> str:
    """Summarize a validation error: each invalid key and what is wrong with its value."""
    said = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
    return "; ".join(f"{place}: {message}" if place else message for place, message in said)

"""Plans: ordered lists of techniques. A search proposes them, users can write them, and caches use their hash as a key."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from planish.artifact import Artifact, Lineage
from planish.errors import PlanError, PlanishError
from planish.files.reading import read_text
from planish.files.yaml_text import parse_yaml
from planish.technique import Technique, describe, parameter_names, resolve, wrong_values

if TYPE_CHECKING:
    from planish.task import Task


@dataclass(frozen=True, init=False)
class Plan:
    """An ordered list of techniques: ``Plan(ChannelPruning(pruning_ratio=0.5), Distill(epochs=5), ToOnnx(), Int8())``."""

    steps: tuple[Technique, ...]

    def __init__(self, *steps: Technique) -> None:
        object.__setattr__(self, "steps", steps)

    @property
    def key(self) -> str:
        """Content hash, 12 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return " → ".join(str(step) for step in self.steps) or "original"

    def to_dicts(self) -> list[dict[str, Any]]:
        return [describe(step) for step in self.steps]

    def to_json(self) -> str:
        return json.dumps(self.to_dicts(), sort_keys=True)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dicts(), sort_keys=False)

    @classmethod
    def from_dicts(cls, steps: Any) -> Plan:
        """Build a plan from the output of ``to_dicts`` or from what a user wrote.

        Raises:
            PlanError: not a list of steps, an unknown technique, or an invalid hyper-parameter; the message names the step.
        """
        if not isinstance(steps, list) or not all(isinstance(s, dict) and "name" in s for s in steps):
            raise PlanError(
                "the plan is not a list of steps",
                "each step is a mapping with 'name' and its hyper-parameters",
                "for example '- {name: channel_pruning, pruning_ratio: 0.5}'",
            )
        techniques = []
        for number, step in enumerate(steps, 1):
            kind, given = resolve(str(step["name"])), {k: v for k, v in step.items() if k != "name"}
            try:
                techniques.append(TypeAdapter(kind).validate_python(given))
                wrong = "; ".join(
                    f"{key}: Unexpected keyword argument" for key in given if key not in parameter_names(kind)
                )  # dataclasses may ignore others
            except ValidationError as error:
                wrong = wrong_values(error)
            if wrong:
                known = parameter_names(kind)
                unknown = [str(key) for key in given if key not in known]
                near = [f"{match!r}" for key in unknown for match in difflib.get_close_matches(key, known, n=1)]
                raise PlanError(
                    f"step {number} ({step['name']}): {wrong}", f"its hyper-parameters are {', '.join(known) or 'none'}",
                    f"did you mean {' and '.join(near)}?" if near else "",
                )  # fmt: skip
        return cls(*techniques)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan from a YAML or JSON file (the YAML parser reads both)."""
        try:
            found = parse_yaml(read_text(path))
        except (OSError, ValueError) as error:
            raise PlanError(f"cannot read the plan {path}: {error}", "it is YAML or JSON: a list of steps") from None
        return cls.from_dicts(found)

    def check(self, facts: dict[str, str]) -> dict[str, str]:
        """Check the order of the steps without applying them, and return the facts that hold at the end.

        Raises:
            PlanError: a step requires a fact that does not hold after the steps before it.
        """
        facts = dict(facts)
        for number, step in enumerate(self.steps, 1):
            for fact, allowed in step.requires.items():
                if facts.get(fact) not in allowed:
                    raise PlanError(
                        f"step {number} ({step.name}) needs {fact} {' or '.join(allowed)}, and here it is {facts.get(fact)}",
                        "each step takes what the one before leaves",
                        "change the order of the steps",
                    )
            facts.update(step.changes)
        return facts

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Apply all steps in order; error messages name the step."""
        self.check(artifact.facts)
        for number, step in enumerate(self.steps, 1):
            try:
                artifact = step.apply(artifact, task)
            except PlanishError as error:
                raise type(error)(f"step {number} ({step.name}): {error.received}", error.rule, error.fix) from error
        return artifact


def summary(lineage: Lineage, then: Plan) -> str:
    """Summarize a candidate: ``channels −50 %, distilled 6 epochs, INT8``. Rounds of training are merged; export steps are omitted.

    Args:
        lineage: the steps applied to the network.
        then: the steps that deploy it.
    """
    words: list[str] = []
    epochs, place = 0.0, 0
    for step in lineage.steps:
        if step.technique == "distill":
            epochs, place = epochs + step.structure["epochs"], len(words)
        elif not step.technique.startswith("to_"):
            words += map(str, Plan.from_dicts([{"name": step.technique, **step.params}]).steps)
    if epochs:
        words.insert(place, f"distilled {epochs:.2g} epochs")
    words += [str(step) for step in then.steps if not step.name.startswith("to_")]
    return ", ".join(words) or "original"

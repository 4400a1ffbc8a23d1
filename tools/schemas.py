"""Write the JSON Schema of every file format to ``docs/schemas/``, generated from the types that read and write the files.

python tools/schemas.py            # writes the schemas
python tools/schemas.py --check    # lists schemas that are not up to date, and exits with 1 if there are any
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docstrings import documented_arguments, in_a_line
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from planish.datacentric.backbones import Backbones
from planish.datacentric.folds import Folds
from planish.datacentric.label_issues import LabelIssues
from planish.datacentric.learning_curve import LearningCurve
from planish.datacentric.retrain import Retraining
from planish.experiments.compression import Comparison
from planish.experiments.ensembles import EnsembleStudy
from planish.experiments.experiment import Experiment
from planish.export.bundle.folder import Bundle
from planish.export.bundle.reference import DriftReference
from planish.files.schema import SCHEMA_VERSION
from planish.models.storage import ArtifactDescription
from planish.runs.evaluation import Evaluation
from planish.search.architecture.result import ArchitectureSearch
from planish.search.evidence import RunEvidence, Timings
from planish.search.result import Result
from planish.split_assignment import SplitsFile
from planish.technique import parameter_names, registered
from planish.training.recipe import MODIFICATIONS, NOTHING, Recipe

FOLDER = Path(__file__).parent.parent / "docs" / "schemas"
FORMATS: dict[str, type] = {
    "result": Result,
    "evidence": RunEvidence,
    "latency": Timings,
    "bundle": Bundle,
    "evaluation": Evaluation,
    "experiment": Experiment,
    "comparison": Comparison,
    "ensembles": EnsembleStudy,
    "folds": Folds,
    "learning_curve": LearningCurve,
    "backbones": Backbones,
    "search": ArchitectureSearch,
    "label_issues": LabelIssues,
    "retraining": Retraining,
    "splits": SplitsFile,
    "reference": DriftReference,
    "artifact": ArtifactDescription,
}
_COMMON = {  # keys with the same meaning in every format
    "schema_version": "of this file format; a file of another version is refused",
    "name": "of the folder",
    "created": "when, in UTC",
    "command": "the command line that reproduces it",
    "data": "the images, as the user named them",
    "model": "the network, as the user named it",
    "weights": "that networks start from: a file, imagenet, or empty for fresh ones",
    "machine": "what it ran on",
    "device": "that latency was measured on; empty if that is the machine",
    "seconds": "by stage",
    "arms": "what is compared, the first one the reference",
    "notes": "what was decided on the user's behalf",
}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def main(check: bool) -> int:
    """Write the schemas, or only compare them with the files, and return the exit code."""
    wanted = {f"{name}.schema.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n" for name, schema in schemas().items()}
    there = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.schema.json")}
    stale = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    if check:
        print("\n".join(f"docs/schemas/{name} is not current; run: make schemas" for name in stale) or "the schemas are current")
        return int(bool(stale))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(wanted[name], encoding="utf-8") if name in wanted else (FOLDER / name).unlink()
    print(f"{len(stale)} of {len(wanted)} schemas were written to {FOLDER}")
    return 0


def schemas() -> dict[str, Schema]:
    """Return all schemas by name."""
    found = {name: {"$schema": _DIALECT} | _schema(kind) for name, kind in FORMATS.items()}
    for schema in found.values():
        schema["required"].append(SCHEMA_VERSION)
    return found | {"plan": plan_schema(), "recipe": recipe_schema()}


def plan_schema() -> Schema:
    """Return the schema of a plan: a list of techniques, each with its hyper-parameters."""
    steps: list[Schema] = []
    shared: Schema = {}
    for name, kind in sorted(_techniques().items()):
        step = _schema(kind)
        shared |= step.pop("$defs", {})
        step["properties"] = {"name": {"const": name}} | step.get("properties", {})
        step["required"] = ["name", *step.get("required", ())]
        steps.append(step)
    about = "A plan: techniques in the order in which they are applied, in YAML or JSON."
    return {"$schema": _DIALECT, "title": "Plan", "description": about, "type": "array", "items": {"oneOf": steps}, "$defs": shared}


def recipe_schema() -> Schema:
    """Return the schema of a recipe, whose keys may be omitted if they have the values of ``base``."""
    found = {"$schema": _DIALECT} | _schema(Recipe)
    base = {"type": "string", "description": "name of a recipe, or a file, whose values hold for what is not given here"}
    modifications: Schema = {}
    for name in MODIFICATIONS:
        whole = _schema(kind := _techniques()[name])
        found["$defs"] |= whole.pop("$defs", {})
        modifications[name] = {"anyOf": [whole, whole["properties"][parameter_names(kind)[0]], {"enum": [NOTHING, None]}]}
    found["properties"] = {"base": base} | found["properties"]
    found["properties"]["modifications"] |= {"properties": modifications, "additionalProperties": False}
    return found


def _techniques() -> dict[str, type]:
    return {name: kind for name, kind in registered().items() if kind.__module__.startswith("planish.")}


def _schema(kind: type) -> Schema:
    return TypeAdapter(kind).json_schema(schema_generator=_WithDocstrings)


class _WithDocstrings(GenerateJsonSchema):
    """A schema generator that takes descriptions from docstrings: a class's from the first paragraph, its fields' from ``Args``."""

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> Schema:
        found = super().dataclass_schema(schema)
        text = inspect.getdoc(schema["cls"]) or ""
        found["description"] = in_a_line(re.split(r"\n\s*\n", text)[0])
        about = _COMMON | documented_arguments(text)
        for name, field in found["properties"].items():
            found["properties"][name] = _without_title(field) | ({"description": about[name]} if name in about else {})
        return found


def _without_title(schema: Mapping[str, Any]) -> Schema:
    return {key: value for key, value in schema.items() if key != "title"}


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))

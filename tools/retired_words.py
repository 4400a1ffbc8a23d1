"""Words that the project no longer uses, each with the one that took its place, and where they still stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# A pattern that matches the retired word and nothing else, and what to write. Case counts unless a pattern begins with (?i).
RETIRED = {
    r"(?i)(?<![a-z])(un)?thaw(s|ed|ing)?(?![a-z])": "freeze, unfreeze, LayerFreezer",
    r"\bKeptWeights\b": "SparsityConstraint",
    r"\bNotedImage\b": "AnnotatedImage",
    r"\bTaught\b": "Labels",
    r"\bShipped\b(?! )|class Shipped\b": "DeployedCandidate",
    r"\bclass (Way|Deployment|Answers)\b|\b(Way|Deployment|Answers)\(": "LayerForm, DeploymentTarget, TeacherCache",
    r"(?i)(?<![a-z])glance[sd]?(?![a-z])": "screen, screened",
    r"(?i)(?<![a-z])levers?(?![a-z])": "modification",
    r"(?i)(?<![a-z])quicken(s|ed)?(?![a-z])": "raise_momentum",
    r"(?i)(?<![a-z])harm(?![a-z])": "sensitivity",  # the verb of what others do, "harms", is a word like any other
    r"\bwhat_it_sees\b": "augmentation_preview",
    r"\bwith_room\b": "drop_upper_bound",
    r"(?i)\bleaves? it away\b": "omit it",
    r"(?i)\bimages a call\b": "batch size",
    r"(?i)\bknows?[ _]((the|these|its) )?classes\b": "already trained on these classes",
    r"(?i)\bsurest (mistakes?|errors?)\b": "most confident errors",
    r"(?i)\bhas no meaning here\b": "is only valid with",
    r"(?i)\bwhat can be had\b": "Pareto frontier",
    r"(?i)\bis taken for what\b|\bwhat is taken for\b": "confusion matrix",
    r"(?i)\bhow sure (it|a model|the model)\b": "calibration, confidence",
    r"(?i)\bwhat (it|the network|a model|the model) sees\b": "training augmentation, input",
    r"(?i)\bplaces are learned\b": "localisation tasks",
    r"(?i)\bboxes as shares\b": "normalized boxes",
    r"(?i)\bweigh(s|ed|ing)? (channels|ranks|rounding|blocks)\b": "measure the sensitivity of",
    r"\btraining[./](thaw|remembered|kept|seen|pace)\b": "freezing, teacher_cache, sparsity_constraint, ... (planish/training)",
    r"\bplanish[./]search[./](pace|look|goal|opened|untrained|foreign)\b": "time_estimates, screening, units, ... (planish/search)",
    r"\bserving[./]why\b|\btasks[./]answers\b|\breport[./]words\b": "occlusion, responses, formatting",
}
_READ = (".py", ".md", ".jinja", ".yaml", ".yml", ".toml", ".cff", ".html", ".js", ".css", ".json")
# The changelog and results of measurements record what was; this file and its test must write the words.
_LEFT_OUT = ("CHANGELOG.md", "benchmarks/results", "tools/retired_words.py", "tests/tools/test_check_house.py", "build", "dist", "runs")


def retired_words(root: Path) -> list[str]:
    """One line for each place in the tree where a retired word stands, in a file or in its name."""
    patterns = [(re.compile(pattern), use) for pattern, use in RETIRED.items()]
    problems = []
    for file in _files(root):
        where = file.relative_to(root).as_posix()
        lines = [(where, where), *((f"{where}:{number}", line) for number, line in enumerate(_lines(file), 1))]
        for place, line in lines:
            problems += [f"{place}: retired word {found.group()!r}; use: {use}" for word, use in patterns if (found := word.search(line))]
    return problems


def _files(root: Path) -> Iterator[Path]:
    for file in sorted(root.rglob("*")):
        inside = file.relative_to(root)
        hidden = any(part.startswith(".") and part != ".github" for part in inside.parts)
        left_out = any(inside.is_relative_to(name) for name in _LEFT_OUT)
        if file.suffix in _READ and not hidden and not left_out and "__pycache__" not in inside.parts and file.is_file():
            yield file


def _lines(file: Path) -> list[str]:
    """Its lines; an escape such as ``\\n`` in a string is no part of the word after it."""
    return [re.sub(r"\\[nrt]", " ", line) for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]

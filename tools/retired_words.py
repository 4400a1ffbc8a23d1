"""Find words that the project no longer uses, each of which has a replacement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# Patterns that match only the retired word, with the replacements. Patterns are case-sensitive unless they begin with (?i).
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
    r"(?i)(?<![a-z])harm(?![a-z])": "sensitivity",  # the verb "harms" is allowed
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
# The changelog and measurement results are historical records; this file and its test must contain the words.
_LEFT_OUT = ("CHANGELOG.md", "benchmarks/results", "tools/retired_words.py", "tests/tools/test_check_house.py", "build", "dist", "runs")


def retired_words(root: Path) -> list[str]:
    """Return one line per occurrence of a retired word in the tree, in the contents or the path of a file."""
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
    """Return the lines of a file, with escapes such as ``\\n`` in strings replaced by spaces, so that they do not join the next word."""
    return [re.sub(r"\\[nrt]", " ", line) for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]

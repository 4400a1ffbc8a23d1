"""What was done to an artifact, in a few words."""

from __future__ import annotations

from planish.artifact import Lineage
from planish.plan import Plan


def summary(lineage: Lineage, then: Plan) -> str:
    """``channels −50 %, distilled 6 epochs, INT8``. Rounds of training are one phrase; export steps go without saying.

    Args:
        lineage: what was done to the network.
        then: how it was deployed.
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

"""A plan in a few words."""

from __future__ import annotations

from planish.plan import Plan


def summary(plan: Plan) -> str:
    """``channels −50 %, distilled 6 epochs, INT8``. Several rounds of training are one phrase; export steps go without saying."""
    words: list[str] = []
    epochs = 0.0
    for step in plan.steps:
        if step.name == "distill":
            epochs += step.epochs  # type: ignore[attr-defined]
        elif not step.name.startswith("to_"):
            words.append(str(step))
    if epochs:
        place = len(words) - 1 if words and words[-1] == "INT8" else len(words)
        words.insert(place, f"distilled {epochs:g} epochs")
    return ", ".join(words) or "original"

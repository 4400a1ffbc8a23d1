"""How much of its budget a run used, and what made it longer."""

from __future__ import annotations

from planish.search.result import BudgetUse, StageSeconds
from planish.search.state import Search
from planish.search.time_estimates import writing_seconds

TOLERANCE_SHARE, TOLERANCE_SECONDS = 0.1, 20.0  # within the one or the other a budget counts as kept
_SHOWN = 5
_LEAST_SECONDS = 1.0  # that a stage took more than was expected


def is_kept(allowed: float, taken: float) -> bool:
    """Whether so many seconds are within a budget, give or take 10 % or 20 s."""
    return taken <= allowed + max(TOLERANCE_SHARE * allowed, TOLERANCE_SECONDS)


def budget_use(search: Search) -> BudgetUse:
    """Called at the end of a run, when all is measured."""
    store = search.runner.store
    writing = writing_seconds(search.process_seconds)
    taken = float(store.once("seconds taken", "writing", lambda: store.now)) + writing
    longer = []
    if not is_kept(search.budget, taken):
        stages = [StageSeconds(stage, round(s, 1), round(search.planned[stage], 1)) for stage, s in store.seconds().items()]
        stages.sort(key=lambda stage: stage.expected_seconds - stage.seconds)
        longer = [stage for stage in stages if stage.seconds - stage.expected_seconds >= _LEAST_SECONDS][:_SHOWN]
    return BudgetUse(search.budget, round(taken, 1), round(search.least_seconds, 1), longer)

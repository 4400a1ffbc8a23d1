"""The seconds of a step, in simulated time."""

from __future__ import annotations

import pytest

from planish.training.schedules import schedule as module
from planish.training.schedules.schedule import Schedule


@pytest.mark.parametrize(("limit", "expected"), [(100.0, 0.4), (None, 0.4 + 6.0 / 50)])
def test_preparations_before_the_first_step_do_not_count_where_steps_are_timed(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, expected: float
) -> None:
    """Compiling the teacher takes 6 s, each step 0.4 s; without a time limit nothing is timed on the way, so the mean has to do."""
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    schedule = Schedule("a", 50, 50, limit)
    now[0] += 6.0
    for step in range(1, 51):
        now[0] += 0.4
        schedule.correct(step)
    assert schedule.seconds_per_step(50) == pytest.approx(expected)

"""What the end of a run is expected to take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from planish.plan import Plan
from planish.search.state import DeploymentTarget, Search
from planish.search.time_estimates import finish_seconds, least_finish_seconds, session_seconds


def search(judging: float = 0.0, left: float = 1e6) -> Search:
    """An original whose export took 4 seconds, and its run over 500 images of validation 5 seconds; 1,000 images of test. A process takes
    2 seconds."""
    store = SimpleNamespace(once=lambda name, stage, work: judging, seconds_of=lambda name: 5.0 if name.startswith("outputs") else 4.0)
    sizes = {"validation": 500, "test": 1000}
    runner = SimpleNamespace(store=store, task=SimpleNamespace(split=lambda name: range(sizes[name])))
    way = DeploymentTarget("fp32", "onnxruntime")
    way_of_one_step = SimpleNamespace(steps=lambda: Plan.from_dicts([{"name": "to_onnx"}]), precision="fp32", runtime="onnxruntime")
    return cast(Any, SimpleNamespace(runner=runner, deployment=way_of_one_step, fp32=[way], process_seconds=2.0, seconds_left=left))


def test_a_session_starts_every_process_in_every_launch() -> None:
    assert session_seconds(search(), 3) == 2 * 4 * 2
    assert session_seconds(search(), 3, launches=5, seconds=1) == 4 * (5 * 2 + 1)


def test_the_end_takes_longer_with_finalists_and_where_judging_is_slow() -> None:
    test, writing, ship = 2 * 2 * 5, 4, 1 + 4 + 5
    alone = 2 * 3 * 2 + test + writing
    assert least_finish_seconds(search(), 0) == pytest.approx(alone)
    assert least_finish_seconds(search(), 2) == pytest.approx(alone + 2 * 5 * 2 + 2 * ship)
    assert least_finish_seconds(search(8), 2) == pytest.approx(alone + 2 * 5 * 2 + 2 * (ship + 8) + 8 + 2 * 4 * 8)


def test_what_is_reserved_is_a_share_of_a_little_time_and_not_less_than_the_least() -> None:
    at_ease = finish_seconds(search(), 40)
    assert at_ease == finish_seconds(search(), 5), "no more than five are measured"
    assert finish_seconds(search(left=400), 40) == pytest.approx(0.35 * 400)
    assert at_ease > 0.35 * 400
    assert finish_seconds(search(left=60), 1) == pytest.approx(least_finish_seconds(search(), 1))

"""What the end of a run is expected to take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from planish.plan import Plan
from planish.search.state import Deployment, Search
from planish.search.time_estimates import finish_seconds


def search(judging: float) -> Search:
    """An original whose export took 4 seconds, and 0.01 seconds an image; 500 images of validation and 1,000 of test."""
    known = {"seconds of judging": judging, "seconds an image": 0.01}
    store = SimpleNamespace(once=lambda name, stage, work: known[name], seconds_of=lambda name: 4.0)
    sizes = {"validation": 500, "test": 1000}
    task = SimpleNamespace(split=lambda name: range(sizes[name]))
    way = SimpleNamespace(steps=lambda: Plan.from_dicts([{"name": "to_onnx"}]))
    runner = SimpleNamespace(store=store, task=task)
    return cast(Any, SimpleNamespace(runner=runner, deployment=way, fp32=[Deployment("fp32", "onnxruntime")]))


def test_the_end_takes_longer_with_more_finalists_and_where_judging_is_slow() -> None:
    ship = 1 + 4 + 500 * 0.01
    assert finish_seconds(search(0), 0) == pytest.approx(45 + ship)
    assert finish_seconds(search(0), 2) == pytest.approx(45 + 3 * ship)
    assert finish_seconds(search(0), 40) == pytest.approx(45 + 6 * ship), "no more than five are measured"
    assert finish_seconds(search(8), 2) == pytest.approx(45 + 3 * (ship + 8) + 4 * 2 * 8)

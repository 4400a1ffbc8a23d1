"""The accuracy guard: what is chosen, and what is said where nothing meets the goal."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from planish.goal import Goal
from planish.measurement import Measurement
from planish.search.choice import choose_candidate, describe_doubt, describe_miss, frontier, misses, nearest_miss
from planish.search.result import CandidateResult
from planish.search.verdict import reasons, shortfall


def candidate(key: str, drop: float, ms: float, size: int = 1000, risk: float = 1.0, stage: str = "measured") -> CandidateResult:
    return CandidateResult(
        key, [], key, "onnxruntime", stage,  # type: ignore[arg-type]
        {
            "drop_validation": Measurement("drop_validation", drop, "points", 393, False, drop - 1, drop + 1),
            "drop_risk": Measurement("drop_risk", risk, "%", 393, False),
            "latency_ms": Measurement("latency_ms", ms, "ms", 100, False),
            "latency_ratio": Measurement("latency_ratio", 10 / ms, "ratio", 100, True),
            "size_bytes": Measurement("size_bytes", size, "bytes", 1, False),
        },
    )  # fmt: skip


ORIGINAL = candidate("original", 0.0, 10.0, 9000, stage="baseline")
del ORIGINAL.measurements["drop_risk"]


def test_the_fastest_within_the_limits_is_chosen() -> None:
    others = [
        candidate("slow", 0.1, 5),
        candidate("good", 0.5, 3),
        candidate("lossy", 2.0, 1),
        candidate("trained", -5.0, 0.1, stage="trained"),
    ]
    assert choose_candidate(others, ORIGINAL, Goal(max_drop_points=1)).key == "good"


def test_a_drop_near_the_limit_needs_an_accepted_risk() -> None:
    others = [candidate("risky", 0.95, 1, risk=30), candidate("safe", 0.2, 2, risk=8), candidate("safer", 0.1, 3, risk=2)]
    assert choose_candidate(others, ORIGINAL, Goal(max_drop_points=1)).key == "safe"
    assert choose_candidate(others, ORIGINAL, Goal(max_drop_points=1, risk=0.05)).key == "safer"
    assert choose_candidate(others, ORIGINAL, Goal(max_drop_points=1, risk=0.3)).key == "risky"


def test_hardly_more_than_the_accepted_risk_is_not_accepted() -> None:
    others = [candidate("fast", 0.4, 1, risk=11), candidate("accepted", 0.3, 2, risk=9.5)]
    assert choose_candidate(others, ORIGINAL, Goal(max_drop_points=1, risk=0.1)).key == "accepted"


def test_where_no_risk_is_accepted_the_smallest_ships() -> None:
    others = [candidate("fast", 0.3, 1, risk=40), candidate("sure", 0.2, 2, risk=25), candidate("as sure", 0.2, 3, risk=25)]
    assert choose_candidate(others, ORIGINAL, Goal(max_drop_points=1, risk=0.1)).key == "sure"
    close = [*others, candidate("hardly more", 0.4, 0.5, risk=27), candidate("more", 0.4, 0.4, risk=28)]
    assert choose_candidate(close, ORIGINAL, Goal(max_drop_points=1, risk=0.1)).key == "hardly more"


def test_the_choice_says_its_risk_and_what_it_passed_over() -> None:
    goal, chosen = Goal(max_drop_points=1, risk=0.1), candidate("INT8", 0.1, 4, risk=3.2)
    passed, slow = candidate("channels -50 %", 0.0, 10 / 3.7, risk=18), candidate("slow", 0.0, 5, risk=30)
    lossy, certain = candidate("lossy", 2.0, 1, risk=99), candidate("certain", 0.9, 3, risk=49.9)
    assert reasons(chosen, [chosen, slow, lossy], goal) == (
        "The risk of losing more than 1 point on new images is 3.2 % by 393 validation images; at most 10 % is accepted."
    )
    assert reasons(chosen, [chosen, passed, slow, lossy], goal).endswith(
        " Passed over: channels -50 %, 1.5x as fast as the chosen model with a drop of 0.00 points: 393 validation images cannot tell "
        "whether it stays within 1 point: the risk is 18 %, at most 10 % is accepted; about 780 would."
    )
    assert reasons(slow, [slow], goal).startswith(
        "No candidate has an accepted risk; the chosen one has the smallest, or hardly more: 393 validation images"
    )
    assert reasons(chosen, [chosen, certain], goal).endswith("a million would not either.")
    assert reasons(ORIGINAL, [passed], goal) == ""
    assert describe_doubt(chosen, goal) == ""


def test_where_nothing_keeps_the_accuracy_the_original_ships() -> None:
    assert choose_candidate([candidate("lossy", 9.0, 1)], ORIGINAL, Goal(max_drop_points=1)) is ORIGINAL
    assert choose_candidate([], ORIGINAL, Goal()) is ORIGINAL


def test_a_candidate_that_is_slower_than_the_original_ships_only_where_the_original_misses_the_goal() -> None:
    slower = candidate("slower", 0.1, 12, 1000)
    assert choose_candidate([slower], ORIGINAL, Goal(max_drop_points=1)) is ORIGINAL
    assert choose_candidate([slower], ORIGINAL, Goal(max_drop_points=1, max_size_bytes=2000)) is slower
    alike = replace(slower, measurements=slower.measurements | {"latency_ms": Measurement("latency_ms", 10.1, "ms", 9, False, 9.9, 10.3)})
    assert choose_candidate([alike], ORIGINAL, Goal(max_drop_points=1)) is alike


def test_a_goal_out_of_reach_keeps_accuracy_and_says_by_how_much_the_nearest_misses() -> None:
    goal = Goal(max_drop_points=1, max_latency_ms=1.0)
    others = [candidate("a", 0.5, 1.5), candidate("b", 0.2, 3.0), candidate("c", 1.2, 0.9)]
    assert choose_candidate(others, ORIGINAL, goal).key == "a"
    near = nearest_miss(others, goal)
    assert near is not None
    assert near.key == "c"
    assert describe_miss(near, goal) == "it loses 1.20 points on validation, 0.20 points more than allowed"
    assert describe_miss(others[0], goal) == "it takes 1.5 ms, 0.5 ms over the limit of 1 ms"


points = st.floats(-2, 5).map(lambda x: round(x, 1))


@given(st.lists(st.tuples(points, st.floats(0.1, 9), st.integers(10, 99)), min_size=1, max_size=8), st.floats(0, 2))
def test_nothing_on_the_frontier_is_beaten_and_the_choice_keeps_the_accuracy(rows: list, max_drop: float) -> None:
    others = [candidate(str(i), *row) for i, row in enumerate(rows)]
    edge = frontier(others)

    def axes(c: CandidateResult) -> list[float]:
        return [c.measurements[n].value for n in ("drop_validation", "latency_ms", "size_bytes")]

    for c in others:
        beaten = any(all(x <= y for x, y in zip(axes(o), axes(c), strict=True)) and axes(o) != axes(c) for o in others)
        assert (c in edge) != beaten
    goal = Goal(max_drop_points=max_drop)
    chosen = choose_candidate(others, ORIGINAL, goal)
    assert "accuracy" not in misses(chosen, goal)


def test_a_latency_meets_its_limit_with_its_whole_interval() -> None:
    """Of what lies just below the limit half would be above it."""
    goal = Goal(max_drop_points=1, max_latency_ms=1.0)
    near, sure = candidate("near", 0.1, 0.97), candidate("sure", 0.1, 0.9)
    for c, half in ((near, 0.05), (sure, 0.05)):
        latency = c.measurements["latency_ms"]
        c.measurements["latency_ms"] = replace(latency, low=latency.value - half, high=latency.value + half)
    assert set(misses(near, goal)) == {"latency"}
    assert not misses(sure, goal)
    assert describe_miss(near, goal) == (
        "it takes 0.97 ms, by its interval up to 1.02 ms, so it is not shown to stay within the limit of 1 ms"
    )
    drop = Measurement("drop", 0.1, "points", 100, False, 0.0, 0.2)
    assert shortfall(sure, [sure, near], goal, drop) == ""
    assert "Nothing met every limit" in shortfall(near, [near], goal, drop)
    assert "not when it was timed once more" in shortfall(near, [near, sure], goal, drop)

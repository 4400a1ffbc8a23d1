"""The integer program against every possible choice."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.compression.width_choice import FIXED, Cost, least_error, time_of


def problem(seed: int, decisions: int, width: int, layers: int) -> tuple[np.ndarray, list[Cost]]:
    rng = np.random.default_rng(seed)
    errors = np.concatenate([np.zeros((decisions, 1)), np.cumsum(rng.random((decisions, width - 1)), axis=1)], axis=1)
    ends = rng.integers(FIXED, decisions, (layers, 2))
    falling = np.linspace(1, 0.2, width)
    costs = [Cost(int(a), int(b), rng.random() * np.outer(falling, falling) * rng.uniform(0.8, 1.2, (width, width))) for a, b in ends]
    return errors, costs


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 4), st.integers(1, 8), st.floats(0.2, 1.0))
def test_no_choice_within_the_budget_errs_less(seed: int, decisions: int, width: int, layers: int, share: float) -> None:
    errors, costs = problem(seed, decisions, width, layers)
    budget = share * time_of(costs, [0] * decisions)
    every = list(itertools.product(range(width), repeat=decisions))
    within = [c for c in every if time_of(costs, c) <= budget + 1e-9]
    found = least_error(errors, costs, budget)
    if not within:
        assert found is None
        return
    best = min(sum(errors[d, k] for d, k in enumerate(c)) for c in within)
    if found is None:  # only where the budget is met to within the solver's tolerance
        assert all(time_of(costs, c) > budget - 1e-6 for c in within)
        return
    assert time_of(costs, found) <= budget * (1 + 1e-6) + 1e-9
    assert sum(errors[d, k] for d, k in enumerate(found)) <= best + 1e-3 * max(best, 1e-3)


def test_time_reads_rows_by_what_is_read_and_columns_by_what_is_made() -> None:
    ms = np.array([[1.0, 2.0], [4.0, 8.0]])
    assert time_of([Cost(0, 1, ms)], [1, 0]) == 4.0
    assert time_of([Cost(1, 0, ms)], [1, 0]) == 2.0
    assert time_of([Cost(FIXED, 1, ms), Cost(0, FIXED, ms), Cost(FIXED, FIXED, ms), Cost(1, 1, ms)], [0, 1]) == 2 + 1 + 1 + 8

"""The integer program against every possible choice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.compression.pruning.width_choice import FIXED, Choice, Cost, least_error, time_of


def problem(seed: int, decisions: int, width: int, layers: int, forms: int) -> tuple[np.ndarray, list[Cost]]:
    rng = np.random.default_rng(seed)
    errors = np.concatenate([np.zeros((decisions, 1)), np.cumsum(rng.random((decisions, width - 1)), axis=1)], axis=1)
    falling = np.linspace(1, 0.2, width)
    costs = []
    for a, b in rng.integers(FIXED, decisions, (layers, 2)):
        count = int(rng.integers(1, forms + 1))
        form = np.sort(rng.uniform(0.3, 1, count))[::-1, None, None]
        sensitivity = np.concatenate([[0.0], np.cumsum(rng.random(count - 1))])
        ms = rng.random() * form * np.outer(falling, falling) * rng.uniform(0.8, 1.2, (width, width))
        costs.append(Cost(int(a), int(b), ms, sensitivity))
    return errors, costs


def every_choice(decisions: int, width: int, costs: list[Cost]) -> list[Choice]:
    ranges = [range(width)] * decisions + [range(len(cost.errors)) for cost in costs]
    return [Choice(list(c[:decisions]), list(c[decisions:])) for c in itertools.product(*ranges)]


def error_of(errors: np.ndarray, costs: list[Cost], choice: Choice) -> float:
    widths = sum(errors[d, k] for d, k in enumerate(choice.widths))
    return float(widths + sum(cost.errors[form] for cost, form in zip(costs, choice.forms, strict=True)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 4), st.integers(1, 8), st.floats(0.2, 1.0))
def test_no_choice_within_the_budget_errs_less(seed: int, decisions: int, width: int, layers: int, share: float) -> None:
    errors, costs = problem(seed, decisions, width, layers, forms=1)
    every = every_choice(decisions, width, costs)
    budget = share * time_of(costs, every[0])
    within = [c for c in every if time_of(costs, c) <= budget + 1e-9]
    found = least_error(errors, costs, budget)
    if not within:
        assert found is None or time_of(costs, found) <= budget * (1 + 1e-5), "the solver's tolerance"
        return
    best = min(error_of(errors, costs, c) for c in within)
    if found is None:  # only where the budget is met to within the solver's tolerance
        assert all(time_of(costs, c) > budget * (1 - 1e-5) - 1e-9 for c in within)
        return
    assert time_of(costs, found) <= budget * (1 + 1e-5)
    assert error_of(errors, costs, found) <= best + 1e-3 * max(best, 1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(2, 3), st.integers(1, 4), st.floats(0.2, 1.0))
def test_forms_are_within_the_budget_and_nearly_the_best(seed: int, decisions: int, width: int, layers: int, share: float) -> None:
    """One layer may take a faster form than would do, as a fraction of a form cannot be had."""
    errors, costs = problem(seed, decisions, width, layers, forms=3)
    every = every_choice(decisions, width, costs)
    budget = share * time_of(costs, every[0])
    within = [c for c in every if time_of(costs, c) <= budget - 1e-6]
    found = least_error(errors, costs, budget)
    if found is None:
        assert not within
        return
    assert time_of(costs, found) <= budget * (1 + 1e-6) + 1e-9
    if within:
        step = max(float(cost.errors[-1]) for cost in costs)
        assert error_of(errors, costs, found) <= min(error_of(errors, costs, c) for c in within) + step + 1e-3


def test_time_reads_rows_by_what_is_read_and_columns_by_what_is_made() -> None:
    ms = np.array([[[1.0, 2.0], [4.0, 8.0]], [[0.5, 0.5], [0.5, 0.5]]])
    assert time_of([Cost(0, 1, ms)], Choice([1, 0], [0])) == 4.0
    assert time_of([Cost(1, 0, ms)], Choice([1, 0], [0])) == 2.0
    assert time_of([Cost(1, 0, ms)], Choice([1, 0], [1])) == 0.5
    fixed = [Cost(FIXED, 1, ms), Cost(0, FIXED, ms), Cost(FIXED, FIXED, ms), Cost(1, 1, ms)]
    assert time_of(fixed, Choice([0, 1], [0] * 4)) == 2 + 1 + 1 + 8


@pytest.mark.parametrize("unit", [1e-8, 1e-5, 1e12])
def test_the_unit_of_the_errors_does_not_matter(unit: float) -> None:
    errors, costs = problem(1, 8, 6, 12, forms=1)
    budget = time_of(costs, Choice([0] * 8, [0] * 12)) / 2
    assert least_error(unit * errors, costs, budget) == least_error(errors, costs, budget)

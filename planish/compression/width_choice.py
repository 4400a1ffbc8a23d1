"""Which widths to give the layers of a network: what each choice costs in milliseconds and in error, and the best one by integer program.

The time of a layer depends on the channels it reads *and* on those it makes, which are two decisions. So there is one binary variable
for each decision and width, and one continuous variable for each pair of widths that a layer ties together; with their sums set equal,
pairs take the value of the product, and the program is exact. HALP (Shen et al. 2021, arXiv:2110.10811) solves a knapsack of layers'
latencies instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

Floats = npt.NDArray[np.float64]
FIXED = -1  # in place of a decision: channels that cannot be cut


@dataclass(frozen=True)
class Cost:
    """A part of a layer's time, by the choices of two decisions.

    Args:
        reads: decision on the channels it reads, ``FIXED`` for none.
        makes: decision on the channels it makes, likewise.
        ms: ``(choices, choices)``, rows by ``reads``; only the first row or column counts where that is ``FIXED``.
    """

    reads: int
    makes: int
    ms: Floats


def time_of(costs: Sequence[Cost], choices: Sequence[int]) -> float:
    """Milliseconds of all layers when decision ``d`` takes its choice ``choices[d]``."""
    taken = [*choices, 0]  # the last one stands for FIXED
    return sum(float(cost.ms[taken[cost.reads], taken[cost.makes]]) for cost in costs)


def least_error(errors: Floats, costs: Sequence[Cost], budget_ms: float, seconds: float = 30.0) -> list[int] | None:
    """The choices whose summed error is least among those within the budget.

    Args:
        errors: ``(decisions, choices)``, at least 0.
        costs: of all layers.
        budget_ms: for their sum.
        seconds: the solver may take; then its best solution so far is returned.

    Returns:
        One choice a decision; None where no choice is within the budget.
    """
    decisions, width = errors.shape
    constant, single, pairs = _collect(costs, decisions, width)
    first = {pair: decisions * width + i * width * width for i, pair in enumerate(pairs)}
    count = decisions * width + len(pairs) * width * width
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    equal: list[float] = []

    def constrain(terms: Sequence[tuple[int, float]], total: float) -> None:
        rows.extend([len(equal)] * len(terms))
        columns.extend(column for column, _ in terms)
        values.extend(value for _, value in terms)
        equal.append(total)

    for d in range(decisions):
        constrain([(d * width + k, 1.0) for k in range(width)], 1.0)
    for (a, b), start in first.items():
        for k in range(width):
            constrain([*((start + k * width + j, 1.0) for j in range(width)), (a * width + k, -1.0)], 0.0)
            constrain([*((start + j * width + k, 1.0) for j in range(width)), (b * width + k, -1.0)], 0.0)
    times = np.concatenate([single.ravel(), *(ms.ravel() for ms in pairs.values())])
    solved = milp(
        np.concatenate([errors.ravel(), np.zeros(count - decisions * width)]),
        integrality=np.concatenate([np.ones(decisions * width), np.zeros(count - decisions * width)]),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(coo_array((values, (rows, columns)), shape=(len(equal), count)).tocsr(), equal, equal),
            LinearConstraint(times[None], -np.inf, budget_ms - constant),
        ],
        options={"time_limit": seconds, "mip_rel_gap": 1e-4},
    )
    if solved.x is None:
        return None
    return [int(k) for k in solved.x[: decisions * width].reshape(decisions, width).argmax(1)]


def _collect(costs: Sequence[Cost], decisions: int, width: int) -> tuple[float, Floats, dict[tuple[int, int], Floats]]:
    """The costs by what they depend on: nothing, one decision, or two."""
    constant, single = 0.0, np.zeros((decisions, width))
    pairs: dict[tuple[int, int], Floats] = {}
    for cost in costs:
        a, b = cost.reads, cost.makes
        if a == FIXED and b == FIXED:
            constant += float(cost.ms[0, 0])
        elif b == FIXED:
            single[a] += cost.ms[:, 0]
        elif a == FIXED:
            single[b] += cost.ms[0]
        elif a == b:
            single[a] += cost.ms.diagonal()
        else:
            key, ms = ((a, b), cost.ms) if a < b else ((b, a), cost.ms.T)
            pairs[key] = pairs.get(key, np.zeros((width, width))) + ms
    return constant, single, pairs

"""Which widths and which form to give the layers of a network: the choice of least error in a budget of milliseconds, by integer program.

The time of a layer depends on the channels it reads *and* on those it makes, which are two decisions, and on its form (whole, or split at
a rank). So there is one binary variable for each decision and width, and one continuous variable for each form and pair of widths of a
layer; with their sums set equal, pairs take the value of the product, and the program is exact where layers have one form. HALP (Shen et
al. 2021, arXiv:2110.10811) solves a knapsack of layers' latencies instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

Floats = npt.NDArray[np.float64]
FIXED = -1  # in place of a decision: channels that cannot be cut


def _no_errors() -> Floats:
    return np.zeros(1)


@dataclass(frozen=True)
class Cost:
    """A part of a layer's time, by the choices of two decisions and by the layer's form.

    Args:
        reads: decision on the channels it reads, ``FIXED`` for none.
        makes: decision on the channels it makes, likewise.
        ms: ``(forms, choices, choices)``, rows by ``reads``; only the first row or column counts where that is ``FIXED``.
        errors: of each form.
    """

    reads: int
    makes: int
    ms: Floats
    errors: Floats = field(default_factory=_no_errors)


@dataclass(frozen=True)
class Choice:
    """What is best.

    Args:
        widths: a choice for each decision.
        forms: one for each cost.
    """

    widths: list[int]
    forms: list[int]


def time_of(costs: Sequence[Cost], choice: Choice) -> float:
    """Milliseconds of all layers."""
    taken = [*choice.widths, 0]  # the last one stands for FIXED
    return sum(float(cost.ms[form, taken[cost.reads], taken[cost.makes]]) for cost, form in zip(costs, choice.forms, strict=True))


def least_error(errors: Floats, costs: Sequence[Cost], budget_ms: float, seconds: float = 30.0) -> Choice | None:
    """The choice whose summed error is least among those within the budget.

    Where a fraction of one form and a fraction of another would be best, a layer takes the faster of the two.

    Args:
        errors: ``(decisions, widths)``, at least 0.
        costs: of all layers.
        budget_ms: for their sum.
        seconds: the solver may take; then its best solution so far is returned.

    Returns:
        None where no choice is within the budget.
    """
    decisions, width = errors.shape
    constant, single, pairs, several = _collect(costs, decisions, width)
    blocks = [(a, b, ms[None], _no_errors()) for (a, b), ms in pairs.items()]
    blocks += [(cost.reads, cost.makes, _shaped(cost), cost.errors) for cost in several]
    starts = decisions * width + np.cumsum([0, *(ms.size for _, _, ms, _ in blocks)])
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    equal: list[float] = []

    def constrain(chosen: Sequence[int], total: float, as_one: int | None = None) -> None:
        """The variables ``chosen`` add up to ``total``, or to the variable ``as_one``."""
        terms = [*chosen] if as_one is None else [*chosen, as_one]
        rows.extend([len(equal)] * len(terms))
        columns.extend(terms)
        values.extend([1.0] * len(chosen) + [-1.0] * (as_one is not None))
        equal.append(total)

    for d in range(decisions):
        constrain(range(d * width, (d + 1) * width), 1.0)
    for (a, b, ms, _), start in zip(blocks, starts[:-1], strict=True):
        places = start + np.arange(ms.size).reshape(ms.shape)
        if a == FIXED and b == FIXED:
            constrain(places.ravel().tolist(), 1.0)
        for axis, decision in ((1, a), (2, b)):
            if decision != FIXED:
                for k in range(width):
                    constrain(places.take(k, axis).ravel().tolist(), 0.0, decision * width + k)
    times = np.concatenate([single.ravel(), *(ms.ravel() for _, _, ms, _ in blocks)])
    objective = np.concatenate([errors.ravel(), *(np.broadcast_to(e[:, None, None], ms.shape).ravel() for _, _, ms, e in blocks)])
    scale = max(budget_ms, 1e-9)
    solved = milp(
        objective,
        integrality=np.arange(len(objective)) < decisions * width,
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(coo_array((values, (rows, columns)), shape=(len(equal), len(objective))).tocsr(), equal, equal),
            # as shares of the budget, as what the solver calls nothing is much of a few microseconds
            LinearConstraint(times[None] / scale, -np.inf, (budget_ms - constant) / scale),
        ],
        options={"time_limit": seconds, "mip_rel_gap": 1e-4},
    )
    if solved.x is None:
        return None
    widths = [int(k) for k in solved.x[: decisions * width].reshape(decisions, width).argmax(1)]
    with_forms = zip(blocks[len(pairs) :], starts[len(pairs) : -1], strict=True)
    forms = iter([_fastest(solved.x[start : start + ms.size].reshape(ms.shape), ms) for (_, _, ms, _), start in with_forms])
    return Choice(widths, [next(forms) if len(cost.errors) > 1 else 0 for cost in costs])


def _fastest(share: Floats, ms: Floats) -> int:
    """Of the forms that have a share, the fastest at the chosen widths."""
    _, i, j = np.unravel_index(int(share.argmax()), share.shape)
    taken = share[:, i, j] > 1e-6
    return int(np.where(taken, ms[:, i, j], np.inf).argmin())


def _shaped(cost: Cost) -> Floats:
    """Its times with one row or column only where it has no choice: ``(forms, choices or 1, choices or 1)``."""
    return cost.ms[:, : 1 if cost.reads == FIXED else None, : 1 if cost.makes == FIXED else None]


def _collect(costs: Sequence[Cost], decisions: int, width: int) -> tuple[float, Floats, dict[tuple[int, int], Floats], list[Cost]]:
    """The costs of one form by what they depend on: nothing, one decision, or two; and those of several forms."""
    constant, single = 0.0, np.zeros((decisions, width))
    pairs: dict[tuple[int, int], Floats] = {}
    several = []
    for cost in costs:
        a, b, ms = cost.reads, cost.makes, cost.ms[0]
        if len(cost.errors) > 1:
            tied = a == b != FIXED  # one decision, so the diagonal
            several.append(Cost(a, FIXED, np.diagonal(cost.ms, axis1=1, axis2=2)[:, :, None], cost.errors) if tied else cost)
        elif a == FIXED and b == FIXED:
            constant += float(ms[0, 0])
        elif b == FIXED:
            single[a] += ms[:, 0]
        elif a == FIXED:
            single[b] += ms[0]
        elif a == b:
            single[a] += ms.diagonal()
        else:
            key, ms = ((a, b), ms) if a < b else ((b, a), ms.T)
            pairs[key] = pairs.get(key, np.zeros((width, width))) + ms
    return constant, single, pairs, several

"""Choice of the width and the form of each layer with the least error within a latency budget, by mixed-integer programming.

The latency of a layer depends on its input channels *and* its output channels, which are two decisions, and on its form (original, or
factorized at some rank). There is one binary variable for each decision and width, and one continuous variable for each form and pair of
widths of a layer. The continuous variables are constrained to sum to the binary ones, so each equals the product of two binary variables,
and the program is exact for layers of one form. HALP (Shen et al. 2021, arXiv:2110.10811) solves a knapsack over layer latencies instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

Floats = npt.NDArray[np.float64]
FIXED = -1  # instead of a decision, for channels that cannot be removed


def _no_errors() -> Floats:
    return np.zeros(1)


@dataclass(frozen=True)
class Cost:
    """The latency of a layer, or of a part of it, as a function of two width decisions and of the layer's form.

    Args:
        reads: decision on the input channels; ``FIXED`` if there is none.
        makes: decision on the output channels; ``FIXED`` if there is none.
        ms: milliseconds ``(forms, choices of reads, choices of makes)``; if a decision is ``FIXED``, only its first choice is used.
        errors: error of each form.
    """

    reads: int
    makes: int
    ms: Floats
    errors: Floats = field(default_factory=_no_errors)


@dataclass(frozen=True)
class Choice:
    """A solution of the program.

    Args:
        widths: index of the chosen width for each decision.
        forms: index of the chosen form for each cost.
    """

    widths: list[int]
    forms: list[int]


def time_of(costs: Sequence[Cost], choice: Choice) -> float:
    """The total latency of all layers in milliseconds."""
    taken = [*choice.widths, 0]  # the last entry is that of FIXED, which is -1
    return sum(float(cost.ms[form, taken[cost.reads], taken[cost.makes]]) for cost, form in zip(costs, choice.forms, strict=True))


def least_error(errors: Floats, costs: Sequence[Cost], budget_ms: float, seconds: float = 30.0) -> Choice | None:
    """Find the choice with the least total error within the latency budget.

    If the solution mixes fractions of several forms, the layer gets the fastest of them.

    Args:
        errors: error of each decision and width ``(decisions, widths)``, at least 0.
        costs: the latencies of all layers.
        budget_ms: upper bound of their sum.
        seconds: time limit of the solver, after which the best solution so far is returned.

    Returns:
        The choice; None if none is within the budget.
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
        """Constrain the variables ``chosen`` to sum to ``total``, or to the variable ``as_one``."""
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
        objective / (objective.max() or 1.0),  # the solver stops within 1e-6 of the best, whatever the unit of the errors
        integrality=np.arange(len(objective)) < decisions * width,
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(coo_array((values, (rows, columns)), shape=(len(equal), len(objective))).tocsr(), equal, equal),
            # relative to the budget, as the solver's absolute tolerance would be large for budgets of a few microseconds
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
    """The fastest form, at the chosen widths, among those with a non-zero share."""
    _, i, j = np.unravel_index(int(share.argmax()), share.shape)
    taken = share[:, i, j] > 1e-6
    return int(np.where(taken, ms[:, i, j], np.inf).argmin())


def _shaped(cost: Cost) -> Floats:
    """The latencies of a cost, with FIXED dimensions reduced to one choice: ``(forms, choices or 1, choices or 1)``."""
    return cost.ms[:, : 1 if cost.reads == FIXED else None, : 1 if cost.makes == FIXED else None]


def _collect(costs: Sequence[Cost], decisions: int, width: int) -> tuple[float, Floats, dict[tuple[int, int], Floats], list[Cost]]:
    """Sum the costs with one form by the number of decisions they depend on (none, one, two), and list those with several forms."""
    constant, single = 0.0, np.zeros((decisions, width))
    pairs: dict[tuple[int, int], Floats] = {}
    several = []
    for cost in costs:
        a, b, ms = cost.reads, cost.makes, cost.ms[0]
        if len(cost.errors) > 1:
            tied = a == b != FIXED  # both are the same decision, so only the diagonal applies
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

"""Candidate factorizations of each layer, their cost and error, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from planish.compression.factorization.factor_layers import Place, chain, parameters, weight_shape
from planish.compression.factorization.factors import Method, Ranks, full_ranks, kept_energy
from planish.compression.reconstruction.layer_moments import Moments
from planish.devices.layer_latency import ConvShape, Precision, Variant, layer_latencies
from planish.evaluation.latency import SMALLEST_DIFFERENCE

_LEVELS = 12  # the rank grid of a method has up to _LEVELS - 1 entries
_MULTIPLE = 8  # ranks are multiples of this where possible, for vectorised kernels
_AUTO: tuple[Method, ...] = ("svd", "spatial", "tucker")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Factors:
    """The factorization of one layer, for example ``{method: spatial, ranks: [32]}``.

    Args:
        method: the decomposition.
        ranks: one rank; two for ``tucker``, of the input and of the output side.
    """

    method: Method
    ranks: tuple[Annotated[int, Field(ge=1)], ...]


@dataclass(frozen=True)
class Option:
    """A candidate factorization of a layer, or the layer itself.

    Args:
        factors: the factorization; None for the original layer.
        lost: share of the layer's energy that is lost, before any refitting.
        error: the lost energy on a scale comparable between layers.
        parameters: number of weights without biases.
        latency_ms: latency; None if it was not measured.
    """

    factors: Factors | None
    lost: float
    error: float
    parameters: int
    latency_ms: float | None = None

    @property
    def cost(self) -> float:
        return float(self.parameters) if self.latency_ms is None else self.latency_ms


def rank_grid(method: Method, shape: ConvShape) -> list[Ranks]:
    """Evenly spaced ranks at which the factorized layer has fewer weights than the original; multiples of 8 if the full rank is large."""
    full = full_ranks(method, weight_shape(shape))
    most = min(1.0, parameters(shape) / sum(map(parameters, chain(shape, method, full))))
    grid = set()
    for level in range(1, _LEVELS):
        ranks = []
        for rank in full:
            multiple = next(m for m in (_MULTIPLE, 4, 2, 1) if m * 4 <= rank or m == 1)
            ranks.append(min(rank, max(multiple, round(rank * most * level / _LEVELS / multiple) * multiple)))
        grid.add(tuple(ranks))
    return sorted(r for r in grid if sum(map(parameters, chain(shape, method, r))) < parameters(shape))


def methods_for(method: Method | Literal["auto"], shape: ConvShape) -> tuple[Method, ...]:
    """The methods that apply to a layer; a kernel axis of one pixel cannot be factorized."""
    wanted = _AUTO if method == "auto" else (method,)
    if shape.kernel == (1, 1):
        return tuple(m for m in wanted if m in ("svd", "lu"))
    return tuple(m for m in wanted if m != "spatial" or min(shape.kernel) > 1)


def options_of(weight: Tensor, place: Place, method: Method | Literal["auto"], seen: Moments | None) -> list[Option]:
    """All options for a layer, the original layer first.

    Args:
        weight: the layer's weight ``(out, in, kh, kw)``.
        place: the layer's shape and input size.
        method: one method, or ``auto`` for ``svd``, ``spatial`` and ``tucker``.
        seen: moments of the layer's outputs; None to use the weights alone and give all layers the same importance.
    """
    shape = place.shape
    options, scale = [Option(None, 0.0, 0.0, parameters(shape))], 1.0
    if seen is not None:
        scale = float((seen.covariance * seen.sensitivity).sum()) * math.prod(shape.output_size(place.size))
    for kind in methods_for(method, shape):
        grid = rank_grid(kind, shape)
        kept = kept_energy(kind, weight, grid, *((seen.sensitivity, seen.covariance) if seen is not None else ()))
        for ranks, share in zip(grid, kept, strict=True):
            size = sum(map(parameters, chain(shape, kind, ranks)))
            options.append(Option(Factors(kind, ranks), 1 - share, (1 - share) * scale, size))
    return options


def timed(
    options: Mapping[str, Sequence[Option]], places: Mapping[str, Place], runtime: str, precision: Precision
) -> dict[str, list[Option]]:
    """Measure the latency of all options and drop those that are not measurably faster than the original layer."""

    def variant(place: Place, option: Option) -> Variant:
        f = option.factors
        row = (place.shape,) if f is None else chain(place.shape, f.method, f.ranks)
        return Variant(row, place.size, place.shape.in_channels, precision)

    times = iter(layer_latencies([variant(places[name], o) for name, some in options.items() for o in some], runtime))
    found = {name: [replace(o, latency_ms=next(times)) for o in some] for name, some in options.items()}
    gain = 1 + SMALLEST_DIFFERENCE / 100
    return {name: [whole, *(o for o in split if o.cost * gain < whole.cost)] for name, (whole, *split) in found.items()}


def least_error(options: Mapping[str, Sequence[Option]], cost: Callable[[Option], float], budget: float) -> dict[str, Option] | None:
    """Choose one option per layer with a small total error and a total cost within ``budget``; None if no choice is within it.

    The smallest Lagrange multiplier on the cost is found at which the best choice is within the budget (Everett 1963). No other choice of
    the same total cost has a smaller error.
    """

    largest = max(o.error for os in options.values() for o in os) or 1.0  # errors are in the units of the network's outputs, squared

    def at(price: float) -> dict[str, Option]:
        return {name: min(os, key=lambda o: o.error / largest + price * cost(o) / budget) for name, os in options.items()}

    low, high = 0.0, 1e9
    if sum(map(cost, at(high).values())) > budget:
        return None
    for _ in range(80):
        middle = math.sqrt(max(low, 1e-9) * high)
        low, high = (low, middle) if sum(map(cost, at(middle).values())) <= budget else (middle, high)
    return at(high)

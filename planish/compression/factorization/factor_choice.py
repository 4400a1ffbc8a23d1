"""The ways in which layers can be split, what each costs and loses, and which to take."""

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

_LEVELS = 12  # ranks tried of each method
_MULTIPLE = 8  # ranks are multiples of this, as vectorised kernels like them
_AUTO: tuple[Method, ...] = ("svd", "spatial", "tucker")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Factors:
    """How one layer is split: ``{method: spatial, ranks: [32]}``.

    Args:
        method: the decomposition.
        ranks: one; of ``tucker`` two, of the input and of the output side.
    """

    method: Method
    ranks: tuple[Annotated[int, Field(ge=1)], ...]


@dataclass(frozen=True)
class Option:
    """One way to split a layer, or to leave it.

    Args:
        factors: None to leave it whole.
        lost: share of the layer's energy that is lost, before anything is fitted.
        error: that loss on a scale that all layers share.
        parameters: weights, biases left out.
        latency_ms: None where nothing was measured.
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
    """Ranks worth trying, in even steps up to where a split layer has as many weights; multiples of 8 where there is room for them."""
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
    """Those that make sense for a layer: along an axis of one pixel there is nothing to take apart."""
    wanted = _AUTO if method == "auto" else (method,)
    if shape.kernel == (1, 1):
        return tuple(m for m in wanted if m in ("svd", "lu"))
    return tuple(m for m in wanted if m != "spatial" or min(shape.kernel) > 1)


def options_of(weight: Tensor, place: Place, method: Method | Literal["auto"], seen: Moments | None) -> list[Option]:
    """All ways of a layer, the whole one first.

    Args:
        weight: ``(out, in, kh, kw)``.
        place: where the layer stands.
        method: one, or ``auto`` for those that pay.
        seen: None to go by the weights alone, every layer counting alike.
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
    """Options with their latency, without those that are not faster than the whole layer by what counts as a difference."""

    def variant(place: Place, option: Option) -> Variant:
        f = option.factors
        row = (place.shape,) if f is None else chain(place.shape, f.method, f.ranks)
        return Variant(row, place.size, place.shape.in_channels, precision)

    times = iter(layer_latencies([variant(places[name], o) for name, some in options.items() for o in some], runtime))
    found = {name: [replace(o, latency_ms=next(times)) for o in some] for name, some in options.items()}
    gain = 1 + SMALLEST_DIFFERENCE / 100
    return {name: [whole, *(o for o in split if o.cost * gain < whole.cost)] for name, (whole, *split) in found.items()}


def least_error(options: Mapping[str, Sequence[Option]], cost: Callable[[Option], float], budget: float) -> dict[str, Option] | None:
    """One option a layer, so that the sum of costs is within ``budget`` and that of errors small; None where none is cheap enough.

    A price on cost is raised until the best choice at that price is cheap enough (Everett 1963): no other choice of that cost errs less.
    """

    def at(price: float) -> dict[str, Option]:
        return {name: min(os, key=lambda o: o.error + price * cost(o) / budget) for name, os in options.items()}

    low, high = 0.0, 1e9
    if sum(map(cost, at(high).values())) > budget:
        return None
    for _ in range(80):
        middle = math.sqrt(max(low, 1e-9) * high)
        low, high = (low, middle) if sum(map(cost, at(middle).values())) <= budget else (middle, high)
    return at(high)

"""Low-rank factorization: a layer is replaced by several smaller ones, at ranks that are measured to be faster."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from planish.artifact import Artifact, Step
from planish.compression.calibration import calibration_batches
from planish.compression.factorization.factor_choice import Factors, Option, least_error, methods_for, options_of, timed
from planish.compression.factorization.factor_layers import Place, find_layers, replacement, split, weight_of, weight_shape
from planish.compression.factorization.factors import METHODS, Method, full_ranks
from planish.compression.graph.submodules import replace_submodule
from planish.compression.reconstruction.layer_moments import Moments, follow_batch_norm, moments, refit
from planish.devices.layer_latency import Precision
from planish.errors import TechniqueError
from planish.evaluation.size import macs
from planish.progress import note
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

_CALIBRATION_IMAGES = 256


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Factorize:
    """Replace convolutions and linear layers by several smaller ones (low rank) where that is measured to be faster.

    The candidate factorizations of each layer are timed against the original layer in the runtime, at its input size; a slower one is never
    chosen. Exactly one of ``speedup``, ``parameter_reduction``, ``energy`` and ``layers`` sets the compression. Fine-tune or distil
    afterwards.

    Args:
        speedup: target speed-up of the layers together; ranks are chosen for the least total error of the layers.
        parameter_reduction: share of the layers' weights to remove; ranks are chosen in the same way.
        energy: each layer gets the cheapest option that keeps this share of its energy.
        layers: the factorization of each layer by name, chosen elsewhere; nothing is timed.
        method: one method for all layers, or ``auto``: the best of ``svd``, ``spatial`` and ``tucker`` for each. ``lu`` has the form of
            ``svd`` and a larger error; ``cp`` takes long to fit, on a ResNet-20 ten times as long. See ``factors.factorise``.
        data_aware: minimise the error of the outputs on calibration images instead of the error of the weights. It gained 2 dB at the
            outputs of a ResNet-20 with a speed-up of 2, and lost 6 to 13 dB on a MobileNetV2, where False is the better choice.
        runtime: runtime in which layers are timed; None to use the number of weights as the cost.
        precision: precision in which layers are timed; ``int8`` if the plan has an ``int8`` step.

    Example:
        >>> print(Factorize(speedup=2))
        low rank for 2x
    """

    speedup: float | None = Field(default=None, gt=1)
    parameter_reduction: float | None = Field(default=None, gt=0, lt=1)
    energy: float | None = Field(default=None, gt=0, le=1)
    layers: dict[str, Factors] | None = None
    method: Method | Literal["auto"] = "auto"
    data_aware: bool = True
    runtime: str | None = "onnxruntime"
    precision: Precision = "fp32"

    name: ClassVar[str] = "factorize"
    reference: ClassVar[str] = (
        "Zhang et al. 2016, arXiv:1505.06798; Jaderberg et al. 2014, arXiv:1405.3866; Kim et al. 2016, arXiv:1511.06530"
    )
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",), "weights": ("dense",)}

    @model_validator(mode="after")
    def _one_rule(self) -> Factorize:
        given = [n for n in ("speedup", "parameter_reduction", "energy", "layers") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of speedup, parameter_reduction, energy and layers is given, not {' and '.join(given) or 'none'}"
            )
        if self.speedup is not None and self.runtime is None:
            raise ValueError("a speedup is measured, so it needs a runtime")
        return self

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def __str__(self) -> str:
        if self.speedup is not None:
            return f"low rank for {self.speedup:g}x"
        if self.parameter_reduction is not None:
            return f"low rank −{100 * self.parameter_reduction:.0f} %"
        return f"low rank, energy {100 * self.energy:g} %" if self.energy is not None else f"low rank in {len(self.layers or ())} layers"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Factorize layers.

        Raises:
            TechniqueError: no layer can be factorized, no layer gets faster, or the target cannot be reached.
        """
        module = copy.deepcopy(artifact.module).eval()
        device = next(module.parameters()).device
        module.cpu()
        spec = artifact.input_spec
        example = torch.zeros(1, spec.channels, spec.height, spec.width)
        places, whole = find_layers(module, example)
        if self.layers is not None:
            _check(self.layers, places, whole)
            places = {name: places[name] for name in self.layers}
        for name in places:
            if not bool(torch.isfinite(module.get_submodule(name).weight).all()):
                raise TechniqueError(f"the weights of {name} are not finite", "a layer is split by its values", "train the network again")
        batches = calibration_batches(artifact, task, _CALIBRATION_IMAGES)
        seen = moments(module, {n: module.get_submodule(n) for n in places}, batches()) if self.data_aware else {}
        chosen, notes = (dict(self.layers), "") if self.layers is not None else self._choose(module, places, seen)
        rows = {name: split(module.get_submodule(name), factors.method, factors.ranks, seen.get(name)) for name, factors in chosen.items()}
        if self.data_aware:
            refit(module, {n: module.get_submodule(n) for n in rows}, rows, batches())
        refused = _replace(module, rows, example)
        chosen = {name: factors for name, factors in chosen.items() if name not in refused}
        if not chosen:
            raise TechniqueError(
                f"the network does not run with any of its layers split: {', '.join(refused)}",
                "its code must call its layers and not reach into them",
                "prune channels or quantize instead",
            )
        follow_batch_norm(artifact.module, module, lambda: (images for images, _ in batches()))
        for name, part in artifact.module.named_modules():
            module.get_submodule(name).train(part.training)  # parents come first, so each submodule ends in its own mode
        kinds = Counter(f.method for f in chosen.values())
        notes += (
            f"{len(chosen)} layers split ({', '.join(f'{m} {n}' for m, n in kinds.items())}); "
            f"parameters {_count(artifact.module):,} → {_count(module):,}, "
            f"MACs {macs(artifact.module, spec).value:,.0f} → {macs(module, spec).value:,.0f}"
        )
        if refused:
            notes += f". Left whole, as the network's code reaches into them: {', '.join(refused)}"
            note(f"factorisation left {len(refused)} layers whole: the network's code reaches into them")
        structure = {
            "layers": {n: {"method": f.method, "ranks": list(f.ranks), "bias": rows[n][-1].bias is not None} for n, f in chosen.items()}
        }
        params = hyper_parameters(self)
        return artifact.with_step(Step(self.name, params, self.changes, structure, notes), module=module.to(device))

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Factorize the same layers of a freshly built network; changes and returns ``module``.

        Raises:
            TechniqueError: the network is not the one the structure was recorded from.
        """
        for name, found in structure["layers"].items():
            layer = dict(module.named_modules()).get(name)
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                raise TechniqueError(f"the network has no layer {name!r} to split", "a structure fits the network it was recorded from")
            replace_submodule(module, name, replacement(layer, found["method"], tuple(found["ranks"]), found["bias"]))
        return module

    def _choose(self, module: nn.Module, places: Mapping[str, Place], seen: Mapping[str, Moments]) -> tuple[dict[str, Factors], str]:
        """Choose the layers to factorize and their factors; also returns a note on the measured times."""
        options = {
            name: options_of(weight_of(module.get_submodule(name)), place, self.method, seen.get(name)) for name, place in places.items()
        }
        if self.runtime is not None:
            options = timed(options, places, self.runtime, self.precision)
        if self.energy is not None:
            picked = {name: min((o for o in some if o.lost <= 1 - self.energy), key=lambda o: o.cost) for name, some in options.items()}
        else:
            picked = self._within_budget(options)
        chosen = {name: option.factors for name, option in picked.items() if option.factors is not None}
        if not chosen:
            raise TechniqueError(
                f"no layer of this network {f'is faster in {self.runtime}' if self.runtime else 'has fewer weights'} when it is split so",
                "a factorisation that does not pay is not made",
                "prune channels instead, or allow a larger error",
            )
        if self.runtime is None:
            return chosen, ""
        before, after = sum(some[0].cost for some in options.values()), sum(option.cost for option in picked.values())
        return chosen, f"layers timed in {self.runtime} ({self.precision}): {before:.3g} → {after:.3g} ms together; "

    def _within_budget(self, options: Mapping[str, Sequence[Option]]) -> dict[str, Option]:
        cost: Callable[[Option], float]
        if self.parameter_reduction is not None:
            what, cost, share = "weights", lambda o: float(o.parameters), 1 - self.parameter_reduction
        else:
            assert self.speedup is not None
            what, cost, share = "time", lambda o: o.cost, 1 / self.speedup
        total = sum(cost(some[0]) for some in options.values())
        picked = least_error(options, cost, share * total)
        if picked is None:
            least = sum(min(map(cost, some)) for some in options.values()) / total
            raise TechniqueError(
                f"splitting can bring the layers to {least:.0%} of their {what}, not to {share:.0%}",
                "only forms with fewer weights that are faster than the layer are taken",
                f"ask for parameter_reduction {1 - least:.2f} or less"
                if self.parameter_reduction is not None
                else f"ask for speedup {1 / least:.2f} or less",
            )
        return picked


def _check(layers: Mapping[str, Factors], places: Mapping[str, Place], whole: Mapping[str, str]) -> None:
    if not layers:
        raise TechniqueError("no layers are named", "each is given a method and ranks", "for example {fc: {method: svd, ranks: [32]}}")
    for name, factors in layers.items():
        if name not in places:
            raise TechniqueError(
                f"{name!r} cannot be split: {whole.get(name, 'the network has no such layer')}",
                "convolutions without groups and linear layers can",
                f"for example {next(iter(places))!r}",
            )
        shape = places[name].shape
        full = full_ranks(factors.method, weight_shape(shape))
        possible = methods_for(factors.method, shape)
        if not possible or len(factors.ranks) != len(full) or any(r > f for r, f in zip(factors.ranks, full, strict=True)):
            raise TechniqueError(
                f"{name}: {factors.method} with ranks {list(factors.ranks)}",
                f"its kernel is {shape.kernel}, its full ranks are {list(full)}" + ("" if possible else ", and 1x1 layers take svd or lu"),
                f"methods are {', '.join(METHODS)}",
            )


def _replace(module: nn.Module, rows: Mapping[str, nn.Sequential], example: Tensor) -> list[str]:
    """Replace layers by their factors, except where the network then does not run; returns the names of the exceptions."""
    refused = []
    for name, row in rows.items():
        layer = module.get_submodule(name)
        replace_submodule(module, name, row)
        try:
            with torch.no_grad():
                module(example)
        except (AttributeError, TypeError, RuntimeError):  # the code reads a weight or a size that the factors do not have
            replace_submodule(module, name, layer)
            refused.append(name)
    return refused


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())

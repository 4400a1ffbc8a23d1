"""Channel pruning to a target speed-up: the width of each layer is chosen by measured latency and measured sensitivity."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from planish.artifact import Artifact, Step
from planish.compression.calibration import calibration_batches
from planish.compression.factorization.factor_choice import Factors
from planish.compression.factorization.factor_layers import Form, find_layers, ranks_of, shape_of
from planish.compression.factorization.factorize import Factorize
from planish.compression.graph import structure as structures
from planish.compression.graph.structure import ChannelGraph, Group
from planish.compression.pruning.channel_pruning import ChannelPruning, choose
from planish.compression.pruning.importance import Importance, unit_scores
from planish.compression.pruning.sensitivity import form_sensitivity, forms_of, rounding_sensitivity, width_sensitivity
from planish.compression.pruning.width_choice import Choice, least_error, time_of
from planish.compression.pruning.width_costs import LayerForm, faster_forms, width_costs
from planish.compression.quantization.int8 import FLOAT_LAYERS
from planish.compression.reconstruction.layer_moments import moments
from planish.decisions import decide
from planish.devices.layer_latency import Precision, Variant, layer_latencies, multiplications
from planish.errors import TechniqueError
from planish.models.storage import fingerprint
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

_KEPT = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)  # candidate shares of a layer's channels to keep, the unpruned layer first
_IMAGES = 128
_MOMENT_BATCHES = 2  # batches of calibration images that the outputs of layers are followed on, forward and backward


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LatencyPruning:
    """Remove channels until the layers are ``speedup`` times as fast in the runtime, with the least change of the outputs.

    The sensitivity of each layer is measured by masking its channels on calibration images (the change of the outputs), and the latency of
    each width by timing layers in the runtime. An integer program chooses all widths together. Distil afterwards.

    Args:
        speedup: target speed-up of the layers together. The speed-up of the whole network is somewhat smaller, as it does other work too.
        runtime: runtime in which layers are timed.
        precision: precision in which layers are timed; ``int8`` if the plan has an ``int8`` step.
        threads: number of threads of the runtime.
        batch_size: batch size at which layers are timed.
        importance: how the channels of a layer are ranked, see ``importance.IMPORTANCES``.
        round_to: widths become multiples of this.
        low_rank: also allow layers to be factorized (see ``factorize``) where that changes the outputs less than removing channels.
        mixed_precision: allow layers to stay float where quantizing them changes the outputs too much for the time it saves; an ``int8``
            step later in the plan leaves them in float.
        cost: ``latency``, or ``macs`` to count MACs instead of timing layers, as most tools do; for comparison.

    Example:
        >>> print(LatencyPruning(speedup=2))
        channels pruned for 2x
    """

    speedup: float = Field(gt=1)
    runtime: str = "onnxruntime"
    precision: Precision = "fp32"
    threads: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1, ge=1)
    importance: Importance = "l2"
    round_to: int = Field(default=8, ge=1)
    low_rank: bool = False
    mixed_precision: bool = False
    cost: Literal["latency", "macs"] = "latency"

    @model_validator(mode="after")
    def _integers(self) -> LatencyPruning:
        if self.mixed_precision and self.precision != "int8":
            raise ValueError("mixed_precision is for a plan that goes on to int8, so precision is int8")
        return self

    name: ClassVar[str] = "latency_pruning"
    reference: ClassVar[str] = "Yang et al. 2018, NetAdapt, arXiv:1804.03230; Shen et al. 2021, HALP, arXiv:2110.10811"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = ChannelPruning.requires

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def __str__(self) -> str:
        more = ["ranks"] * self.low_rank + ["precisions"] * self.mixed_precision
        what = " and ".join(["channels", *more]) + " chosen" if more else "channels pruned"
        return f"{what} for {self.speedup:g}x" + (" fewer MACs" if self.cost == "macs" else "")

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Choose the width of each layer and prune.

        Raises:
            TechniqueError: no channels can be removed, or the speed-up cannot be reached.
        """
        if self.low_rank and artifact.facts["weights"] != "dense":
            raise TechniqueError("splitting layers would lose the network's zeros", "low_rank is for dense weights", "leave it out")
        spec, module = artifact.input_spec, copy.deepcopy(artifact.module).cpu().eval()
        batches = calibration_batches(artifact, task, _IMAGES)
        example = torch.randn(1, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
        graph = structures.trace(module, example)
        decided = _decisions(graph)
        if not decided:
            raise TechniqueError(
                "no channel of this network can be removed exactly",
                "widths are what this technique chooses",
                "use a network with batch norm, or quantization instead",
            )
        images = torch.cat([images for images, _ in batches()])
        scores = unit_scores(self.importance, module, graph, batches, task.loss)
        cuts = [choose(graph, scores, 1 - share, "uniform", self.round_to) for share in _KEPT]
        gone = [[_units(groups, cut) for cut in cuts] for groups in decided.values()]
        known = fingerprint(module), hashlib.sha256(images.numpy().tobytes()).hexdigest()  # shared by all speed-ups of one network
        errors = np.array(
            _once("widths", (*known, self.importance, self.round_to), lambda: width_sensitivity(module, graph, gone, images, task).tolist())
        )
        layer_forms: dict[str, dict[LayerForm, float]] = {}
        if self.low_rank:
            layer_forms = self._split_forms(module, example, batches, images, task, known)
        if self.mixed_precision:
            layer_forms = _with_float(layer_forms, _once("rounding", known, lambda: rounding_sensitivity(module, images, task)))
        kept = np.array([[1 - len(u) / sum(len(g.units) for g in gs) for u in us] for gs, us in zip(decided.values(), gone, strict=True)])
        costs, layers = width_costs(module, example, graph, list(decided.values()), kept, self.precision, self._times, layer_forms)
        uncut = Choice([0] * len(decided), [0] * len(costs))
        whole = time_of(costs, uncut)
        choice = least_error(errors, costs, whole / self.speedup)
        if choice is None:
            fastest = time_of(costs, replace(uncut, widths=[len(_KEPT) - 1] * len(decided)))
            raise TechniqueError(
                f"pruning to {100 * _KEPT[-1]:g} % of all channels makes the layers {whole / fastest:.1f}x as fast, not {self.speedup:g}x",
                "that is the least a layer keeps",
                "ask for less, and combine it with a smaller input or INT8",
            )
        ratios = {name: 1 - _KEPT[k] for name, k in zip(decided, choice.widths, strict=True)}
        chosen = {name: mine[form] for (name, mine), form in zip(layers, choice.forms, strict=True)}
        split_up = {name: layer_form.form for name, layer_form in chosen.items() if layer_form.form is not None}
        changed, structure, notes = self._apply(artifact, task, ratios, split_up)
        if self.mixed_precision:
            structure[FLOAT_LAYERS] = [name for name, layer_form in chosen.items() if layer_form.is_float]
            notes += f"; to stay float: {', '.join(structure[FLOAT_LAYERS]) or 'none'}"
        what = "multiplications" if self.cost == "macs" else f"layers timed in {self.runtime} ({self.precision}), ms"
        shares = ", ".join(f"{name} {100 * (1 - ratio):g} %" for name, ratio in ratios.items())
        notes = f"{what}: {whole:.3g} → {time_of(costs, choice):.3g} together; {notes}; kept: {shares}"
        return artifact.with_step(Step(self.name, hyper_parameters(self), self.changes, structure, notes), module=changed.module)

    def _apply(
        self, artifact: Artifact, task: Task, ratios: Mapping[str, float], split_up: Mapping[str, Form]
    ) -> tuple[Artifact, dict[str, Any], str]:
        """Prune and factorize as chosen; also returns the structure for ``rebuild`` and the notes."""
        changed = ChannelPruning(pruning_ratio=0, importance=self.importance, round_to=self.round_to, pruning_ratios=ratios).apply(
            artifact, task
        )
        structure, notes = {"channels": changed.lineage.steps[-1].structure}, changed.lineage.steps[-1].notes
        if split_up:
            shapes = {name: shape_of(layer) for name, layer in changed.module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
            factors = {name: Factors(form.method, ranks_of(form, shapes[name])) for name, form in split_up.items()}
            changed = Factorize(layers=factors).apply(changed, task)
            structure["factors"] = changed.lineage.steps[-1].structure
            notes += "; " + changed.lineage.steps[-1].notes
        return changed, structure, notes

    def _split_forms(
        self,
        module: nn.Module,
        example: Tensor,
        batches: Callable[[], Iterable[tuple[Tensor, Any]]],
        images: Tensor,
        task: Task,
        known: tuple[str, str],
    ) -> dict[str, dict[LayerForm, float]]:
        """The factorizations that are faster than their layers, and the sensitivity to each."""
        places, _ = find_layers(module, example)
        forms = faster_forms(module, example, {name: forms_of(place) for name, place in places.items()}, self.precision, self._times)

        def measured() -> list[tuple[str, str, float, float]]:
            seen = moments(module, {name: module.get_submodule(name) for name in forms}, islice(batches(), _MOMENT_BATCHES))
            found = form_sensitivity(module, places, forms, seen, images, task)
            return [(name, form.method, form.share, error) for name, errors in found.items() for form, error in errors.items()]

        sensitivity: dict[str, dict[LayerForm, float]] = {}
        for name, method, share, error in _once("ranks", (*known, forms), measured) if forms else []:
            sensitivity.setdefault(name, {})[LayerForm(Form(method, share))] = error
        return sensitivity

    def _times(self, variants: Sequence[Variant]) -> list[float]:
        if self.cost == "macs":
            return [multiplications(v) / 1e6 for v in variants]
        return layer_latencies(variants, self.runtime, threads=self.threads, batch=self.batch_size)

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Give a freshly built network the sizes of the pruned one; changes and returns ``module``."""
        module = structures.rebuild(module, structure["channels"])
        return Factorize.rebuild(module, structure["factors"]) if "factors" in structure else module


def _decisions(graph: ChannelGraph) -> dict[str, list[Group]]:
    """Groups by the name used in ``ChannelPruning.pruning_ratios``; groups of the same name get the same width."""
    decided: dict[str, list[Group]] = {}
    for group in graph.groups:
        if group.name:
            decided.setdefault(group.name, []).append(group)
    return decided


def _with_float(layer_forms: Mapping[str, Mapping[LayerForm, float]], rounding: Mapping[str, float]) -> dict[str, dict[LayerForm, float]]:
    """Add the sensitivity to rounding to every form in INT8, and add the unfactorized float layer, whose sensitivity is 0."""
    return {
        name: {LayerForm(): sensitivity, LayerForm(is_float=True): 0.0}
        | {layer_form: error + sensitivity for layer_form, error in layer_forms.get(name, {}).items()}
        for name, sensitivity in rounding.items()
    }


def _once(what: str, of: tuple[object, ...], find: Callable[[], Any]) -> Any:
    """What ``find()`` measured the first time, within a run and its resumption or else within this process.

    Args:
        what: what is measured.
        of: what the measurement depends on.
        find: measures; returns JSON values.
    """
    key = hashlib.sha256(repr(of).encode()).hexdigest()[:32]

    def measured() -> Any:
        known = _known(what, key)
        if not known:
            known.append(find())
        return known[0]

    return decide(f"sensitivity of {what}:{key}", measured)


@lru_cache(maxsize=32)  # three for each network; a search prunes several that differ in their blocks
def _known(what: str, key: str) -> list[Any]:
    """A list, cached in this process, to which ``_once`` adds its result."""
    return []


def _units(groups: Sequence[Group], cut: Mapping[Group, Sequence[int]]) -> list[int]:
    return [unit for group in groups for unit in cut[group]]

"""Replacement of whole blocks of a trained network by cheaper ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from planish.artifact import Artifact, Step
from planish.compression.calibration import calibration_batches
from planish.compression.graph.call_record import CallRecord
from planish.compression.graph.prefix_cache import PrefixCache
from planish.compression.graph.submodules import replace_submodule
from planish.compression.pruning.divergence import Divergence
from planish.compression.pruning.width_choice import FIXED, Cost, least_error, time_of
from planish.compression.pruning.width_costs import layer_variants
from planish.compression.replacement.block_fit import fit_block, maps_of, seconds_of_step
from planish.compression.replacement.kinds import KINDS, Structure, made
from planish.compression.replacement.places import BlockPlace, find_places
from planish.deadline import seconds_left
from planish.decisions import decide
from planish.devices.layer_latency import Precision, layer_latencies
from planish.errors import TechniqueError
from planish.evaluation.latency import SMALLEST_DIFFERENCE
from planish.models.batch_norm import reestimate_batch_norm
from planish.models.storage import fingerprint
from planish.progress import Stage
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

    Block = tuple[nn.Module, Structure]
    Tried = dict[tuple[str, str], Block]  # by place and kind

_IMAGES = 512
_SHARE = 0.1  # of the time left, for training all replacements


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BlockReplacement:
    """Replace blocks by cheaper ones until the layers are ``speedup`` times as fast in the runtime, with the least change of the outputs.

    Blocks are regions with one feature map in and one out: residual blocks, inverted residuals, convolutions with their norm and
    activation. What may stand in for each is tried: nothing, a 1x1 convolution, one 3x3 convolution, a depthwise-separable one, the block
    with half of the channels inside, with 3x3 kernels, without squeeze-and-excitation, with ReLU. Each is trained alone against the outputs
    of the block, on images whose labels are not used. Its cost is the measured latency of its layers, its sensitivity the change of the
    network's outputs when it stands in alone; an integer program chooses all of them together. Distil afterwards.

    Args:
        speedup: target speed-up of the layers together. The speed-up of the whole network is somewhat smaller, as it does other work too.
        kinds: replacements to try, see ``replacement.kinds``; all of them if empty.
        steps: training steps of each replacement, of 32 images.
        seconds: approximate limit of the training of all replacements together, at most a tenth of the time left; it shortens ``steps``.
        runtime: runtime in which layers are timed.
        precision: precision in which layers are timed; ``int8`` if the plan has an ``int8`` step.
        threads: number of threads of the runtime.
        batch_size: batch size at which layers are timed.
        seed: seed of new weights.

    Example:
        >>> print(BlockReplacement(speedup=2))
        blocks replaced for 2x
    """

    speedup: float = Field(gt=1)
    kinds: tuple[str, ...] = ()
    steps: int = Field(default=200, ge=0)
    seconds: float = Field(default=120.0, gt=0)
    runtime: str = "onnxruntime"
    precision: Precision = "fp32"
    threads: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1, ge=1)
    seed: int = 0

    name: ClassVar[str] = "block_replacement"
    reference: ClassVar[str] = "Molchanov et al. 2021, LANA, arXiv:2107.10624; Moons et al. 2020, DONNA, arXiv:2012.08859"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",), "weights": ("dense",)}

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def __str__(self) -> str:
        return f"blocks replaced for {self.speedup:g}x"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Choose what stands in for each block, and replace.

        Raises:
            TechniqueError: there is no block that anything faster could stand in for, or the speed-up cannot be reached.
        """
        module = copy.deepcopy(artifact.module).cpu().eval()
        batches = [images for images, _ in calibration_batches(artifact, task, _IMAGES)()]
        places = {place.name: place for place in find_places(module, batches[0][:2])}
        tried, ms = self._faster(module, places)
        if not tried:
            raise TechniqueError(
                "no block of this network can be replaced by a faster one",
                f"{len(places)} blocks were found, and every replacement has the same shape of input and output",
                "use latency_pruning",
            )
        errors = self._trained(module, places, tried, batches, task)
        whole = sum(self._timed(layer_variants(module, batches[0][:1], self.precision)))
        chosen = self._choose(errors, ms, whole)
        blocks = [
            {"place": TypeAdapter(BlockPlace).dump_python(places[name], mode="json"), "kind": kind, "structure": dict(tried[name, kind][1])}
            for name, kind in chosen.items()
        ]
        changed = copy.deepcopy(artifact.module)
        for name, kind in chosen.items():
            old = changed.get_submodule(name)
            device = next((p.device for p in (*old.parameters(), *changed.parameters())), torch.device("cpu"))
            replace_submodule(changed, name, tried[name, kind][0].to(device).train(old.training))
        reestimate_batch_norm(changed, (images.to(next(changed.parameters()).device) for images in batches))
        saved = sum(ms[name, ""] - ms[name, kind] for name, kind in chosen.items())
        named = ", ".join(f"{name} by {kind}" for name, kind in chosen.items())
        notes = (
            f"layers timed in {self.runtime} ({self.precision}), ms: {whole:.3g} → {whole - saved:.3g} together; "
            f"{len(chosen)} of {len(places)} blocks replaced: {named}"
        )
        step = Step(self.name, hyper_parameters(self), self.changes, {"blocks": blocks}, notes)
        return artifact.with_step(step, module=changed)

    def _faster(self, module: nn.Module, places: Mapping[str, BlockPlace]) -> tuple[Tried, dict[tuple[str, str], float]]:
        """The replacements that are measurably faster than their blocks, and the milliseconds of each; ``""`` is the block itself."""
        tried: Tried = {}
        layers = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for name, place in places.items():
                block = module.get_submodule(name)
                layers[name, ""] = layer_variants(block, torch.zeros(1, *place.given), self.precision)
                for kind in self.kinds or KINDS:
                    found = made(kind, block, place)
                    if found is None:
                        continue
                    tried[name, kind] = found[0].eval(), found[1]
                    layers[name, kind] = layer_variants(found[0], torch.zeros(1, *place.given), self.precision)
        times = iter(self._timed([variant for each in layers.values() for variant in each]))
        ms = {key: sum(next(times) for _ in each) for key, each in layers.items()}
        gain = 1 + SMALLEST_DIFFERENCE / 100
        faster = {(name, kind): found for (name, kind), found in tried.items() if ms[name, kind] * gain < ms[name, ""]}
        return faster, ms

    def _timed(self, variants: Sequence[Any]) -> list[float]:
        return layer_latencies(variants, self.runtime, threads=self.threads, batch=self.batch_size)

    def _trained(
        self, module: nn.Module, places: Mapping[str, BlockPlace], tried: Tried, batches: Sequence[Tensor], task: Task
    ) -> dict[tuple[str, str], float]:
        """Train each replacement, in place, and return the sensitivity to it."""
        record = CallRecord(module, batches[0][:1])
        start = {name: record.calls[name][0].start for name, _ in tried}
        cache, known_as = PrefixCache(module, batches, record), fingerprint(module)[:16]
        order = sorted(start, key=start.__getitem__)
        with Stage("training replacements", len(tried)) as stage:
            for name in order:
                cache.advance(start[name])
                given, wanted = maps_of(module, name, batches, cache)
                for kind in [kind for other, kind in tried if other == name]:
                    block = tried[name, kind][0]
                    known = f"{known_as}:{name}:{kind}:{self.steps}:{self.seconds:g}"
                    steps = decide(f"steps of a replacement:{known}", partial(self._steps, block, given, wanted, len(tried)))
                    fit_block(block, given, wanted, steps, self.seed)
                    stage.advance()
        divergence = Divergence(module, torch.cat(list(batches)), task, lambda _: {key: start[key[0]] for key in tried})
        errors = {}
        for name, kind in divergence.changes("measuring sensitivity to replacements"):
            block = module.get_submodule(name)
            replace_submodule(module, name, tried[name, kind][0])
            try:
                errors[name, kind] = divergence(module)
            finally:
                replace_submodule(module, name, block)
        return errors

    def _steps(self, block: nn.Module, given: Tensor, wanted: Tensor, count: int) -> int:
        """The training steps of one of ``count`` replacements for which there is time."""
        if not self.steps or not any(True for _ in block.parameters()):
            return self.steps
        in_time = min(self.seconds, _SHARE * seconds_left()) / count / seconds_of_step(block, given, wanted)
        return min(self.steps, int(in_time))

    def _choose(self, errors: Mapping[tuple[str, str], float], ms: Mapping[tuple[str, str], float], whole: float) -> dict[str, str]:
        """The kind that replaces each block, for those that are replaced."""
        names = list(dict.fromkeys(name for name, _ in errors))
        kinds = {name: ["", *(kind for other, kind in errors if other == name)] for name in names}
        most = max(map(len, kinds.values()))
        options = {name: [*each, *[""] * (most - len(each))] for name, each in kinds.items()}  # the block itself again fills up
        table = np.array([[errors.get((name, kind), 0.0) for kind in options[name]] for name in names])
        costs = [Cost(i, FIXED, np.array([[[ms[name, kind]] for kind in options[name]]])) for i, name in enumerate(names)]
        rest = whole - sum(ms[name, ""] for name in names)
        costs.append(Cost(FIXED, FIXED, np.array([[[rest]]])))
        choice = least_error(table, costs, whole / self.speedup)
        if choice is None:
            fastest = rest + sum(min(ms[name, kind] for kind in options[name]) for name in names)
            raise TechniqueError(
                f"the fastest replacements make the layers {whole / fastest:.1f}x as fast, not {self.speedup:g}x",
                "blocks without a faster replacement stay",
                "ask for less, and combine it with latency_pruning, a smaller input or INT8",
            )
        assert time_of(costs, choice) <= whole / self.speedup * 1.001
        picked = {name: options[name][k] for name, k in zip(names, choice.widths, strict=True)}
        return {name: kind for name, kind in picked.items() if kind}

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Replace the same blocks in a freshly built network; changes and returns ``module``."""
        for block in structure["blocks"]:
            place = BlockPlace(**block["place"])
            found = made(block["kind"], module.get_submodule(place.name), place, block["structure"])
            if found is None:
                kind = f"{block['kind']!r} cannot stand in for {place.name}"
                raise TechniqueError(kind, "a structure fits the network it was recorded from")
            replace_submodule(module, place.name, found[0].train(module.get_submodule(place.name).training))
        return module

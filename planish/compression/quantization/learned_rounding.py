"""Low-bit weights with learned rounding: each weight is rounded up or down to preserve the outputs of its layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.utils import parametrize

from planish.artifact import Artifact, Step
from planish.compression.calibration import calibration_images
from planish.errors import TechniqueError
from planish.models.folding import fold_batch_norm
from planish.models.quantized import LAYERS, best_scale, bounds, store_integers
from planish.models.strided import SafeStrides
from planish.progress import Stage
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

_STRETCH = 1.2  # the sigmoid is stretched to -0.1 .. 1.1 and clipped, so that it reaches 0 and 1 exactly
_CACHE_BYTES = 2**30  # limit for the cached inputs and outputs of one unit


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LearnedRounding:
    """Quantize weights to 8, 4 or 2 bits with one scale per output channel; each is rounded up or down so that outputs change least.

    Layer by layer, in the order in which they run, rounding is optimised on calibration images without labels: the outputs of a layer on
    the inputs from the quantized layers before it must match its outputs in the float network. With ``block`` granularity, all layers of a
    residual block (or similar) are optimised together, so that they can compensate for each other. The first and the last layer have 8
    bits.

    The size of the saved network corresponds to the bits. It computes in float: the runtimes have no 4-bit or 2-bit convolution, so by
    itself it is not faster. ``qat`` after it (``epochs=0`` to calibrate only) gives an INT8 file with the same integers.

    Args:
        bits: 8, 4 or 2.
        granularity: ``layer`` (AdaRound) or ``block`` (like BRECQ, with squared error); layers outside blocks are optimised alone.
        calibration_images: number of images, spread evenly; fewer are used where the feature maps of a layer would take too much memory.
        steps: Adam steps per layer or block.
        batch_size: images per step.
        learning_rate: learning rate of the rounding variables.
        seed: seed of the sampling of images.

    Example:
        >>> print(LearnedRounding(bits=4))
        4-bit weights, rounding learned by layer
    """

    bits: Literal[8, 4, 2] = 4
    granularity: Literal["layer", "block"] = "layer"
    calibration_images: int = Field(default=256, ge=1)
    steps: int = Field(default=500, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=0.02, gt=0)
    seed: int = 0

    name: ClassVar[str] = "learned_rounding"
    reference: ClassVar[str] = "Nagel et al. 2020, arXiv:2004.10568; Li et al. 2021, arXiv:2102.05426"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",), "weights": ("dense",)}

    @property
    def changes(self) -> dict[str, str]:
        return {"precision": f"int{self.bits}_weights"}

    def __str__(self) -> str:
        return f"{self.bits}-bit weights, rounding learned by {self.granularity}"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Quantize the weights.

        Raises:
            TechniqueError: there is nothing to quantize, or the network's values are not finite.
        """
        original = copy.deepcopy(artifact.module).eval().requires_grad_(False)
        fold_batch_norm(original)
        for part in original.modules():
            if isinstance(getattr(part, "inplace", None), bool):
                part.inplace = False  # in-place operations would overwrite the cached inputs
        module = copy.deepcopy(original)
        with Stage("reading calibration images", min(self.calibration_images, len(task.split("calibration")))) as stage:
            batches = list(calibration_images(artifact, task, self.calibration_images, stage))
        layers = in_run_order(module, batches[0][:1], lambda m: isinstance(m, LAYERS))
        if not layers:
            raise TechniqueError("the network has no convolution and no linear layer", "their weights are what is rounded", "leave it out")
        bits = {name: self.bits if 0 < number < len(layers) - 1 else 8 for number, name in enumerate(layers)}
        nearest = learned = 0.0
        units = _units(module, layers, self.granularity, batches[0][:1])
        with Stage("learning to round", len(units)) as stage:
            for unit, inside in units.items():
                before, after = self._reconstruct(original, module, unit, inside, bits, batches)
                nearest, learned = nearest + before, learned + after
                stage.advance()
        module.requires_grad_(True)
        notes = (
            f"{len(layers)} layers in {len(units)} {'blocks and layers' if self.granularity == 'block' else 'layers'}; "
            f"mean squared error of their outputs, summed: {nearest:.3g} rounded to the nearest, {learned:.3g} learned"
        )
        params = hyper_parameters(self)
        return artifact.with_step(Step(self.name, params, self.changes, {"bits": bits}, notes), module=module)

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Fold batch norm and create the integer buffers of a freshly built network; their values are loaded with the weights."""
        fold_batch_norm(module.eval())
        for name, bits in structure["bits"].items():
            layer = module.get_submodule(name)
            weight: Any = layer.weight
            store_integers(layer, torch.ones_like(weight), torch.ones(len(weight)), bits)
        return module

    def _reconstruct(
        self, original: nn.Module, module: nn.Module, unit: str, inside: Sequence[str], bits: Mapping[str, int], batches: Sequence[Tensor]
    ) -> tuple[float, float]:
        """Learn and store the rounding of the layers of one unit; returns the errors of nearest and of learned rounding."""
        outputs, inputs = _seen(original, unit, batches)[1], _seen(module, unit, batches)[0]
        if not bool(torch.isfinite(outputs).all() and torch.isfinite(inputs).all()):
            raise TechniqueError(f"{unit} computes values that are not finite", "there is nothing to come close to", "train it again")
        part = module.get_submodule(unit)
        rounded: dict[str, Rounding] = {}
        for name in inside:
            layer: Any = module.get_submodule(name)
            rounded[name] = Rounding(layer.weight, best_scale(layer.weight, bits[name]), bits[name])
            parametrize.register_parametrization(layer, "weight", rounded[name])

        def error() -> float:
            with torch.no_grad():
                parts = (slice(i, i + self.batch_size) for i in range(0, len(inputs), self.batch_size))
                return sum(float((part(inputs[p]) - outputs[p]).square().sum()) for p in parts) / outputs.numel()

        for rounding in rounded.values():
            rounding.nearest()
        before, kept = error(), {name: rounding.integers() for name, rounding in rounded.items()}
        for rounding in rounded.values():
            rounding.begin()
        self._learn(part, list(rounded.values()), inputs, outputs)
        for rounding in rounded.values():
            rounding.decided = True
        after = error()
        if after <= before:
            kept = {name: rounding.integers() for name, rounding in rounded.items()}
        for name, rounding in rounded.items():
            store_integers(module.get_submodule(name), kept[name], rounding.scale, bits[name])
        return before, min(before, after)

    def _learn(self, part: nn.Module, rounded: Sequence[Rounding], inputs: Tensor, outputs: Tensor) -> None:
        optimizer = torch.optim.Adam([rounding.up for rounding in rounded], lr=self.learning_rate)
        generator = torch.Generator().manual_seed(self.seed)
        scale = outputs.square().mean().clamp(min=1e-12)  # so that the regularization has the same weight in every unit
        for step in range(self.steps):
            chosen = torch.randint(len(inputs), (min(self.batch_size, len(inputs)),), generator=generator)
            with SafeStrides():
                found = part(inputs[chosen])
            loss = (found - outputs[chosen]).square().mean() / scale
            progress = step / self.steps
            if progress >= 0.2:
                sharpness = 2 + 18 * (1 - (progress - 0.2) / 0.8)
                loss = loss + 0.01 * sum(r.undecided(sharpness) for r in rounded) / len(rounded)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class Rounding(nn.Module):
    """Parametrization of a weight while its rounding is learned: ``scale * (floor(weight / scale) + h)`` with h between 0 and 1.

    Args:
        weight: the layer's float weight.
        scale: scale of each output channel ``(out,)``.
        bits: bit width of the weight.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bits: int) -> None:
        super().__init__()
        self.weight, self.bits, self.decided = weight.detach(), bits, False
        self.scale = scale
        exact = self.weight / scale.reshape(-1, *[1] * (weight.ndim - 1))
        self.down = exact.floor()
        self.rest = exact - self.down
        self.up = nn.Parameter(torch.zeros_like(weight))
        self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """Initialise h to the remainder of rounding down, so that the weight starts at its float value."""
        self.up.copy_(torch.logit((self.rest.clamp(0.01, 0.99) + 0.1) / _STRETCH))
        self.decided = False

    @torch.no_grad()
    def nearest(self) -> None:
        self.up.copy_(self.rest - 0.5 + 1e-6)
        self.decided = True

    def h(self) -> Tensor:
        return (torch.sigmoid(self.up) * _STRETCH - 0.1).clamp(0, 1)

    def undecided(self, sharpness: float) -> Tensor:
        """The regularization term of AdaRound, which is 0 when every h is 0 or 1."""
        return (1 - (2 * self.h() - 1).abs().pow(sharpness)).mean()

    def integers(self) -> Tensor:
        return (self.down + (self.up >= 0)).clamp(*bounds(self.bits))

    def forward(self, weight: Tensor) -> Tensor:
        values = self.integers() if self.decided else (self.down + self.h()).clamp(*bounds(self.bits))
        return values * self.scale.reshape(-1, *[1] * (weight.ndim - 1))


def in_run_order(module: nn.Module, images: Tensor, wanted: Callable[[nn.Module], bool]) -> list[str]:
    """The names of the modules for which ``wanted`` returns True and that run exactly once, in the order in which they are called."""
    calls: list[str] = []
    handles = [
        m.register_forward_pre_hook(lambda *_, name=name: calls.append(name)) for name, m in module.named_modules() if name and wanted(m)
    ]
    try:
        with torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in dict.fromkeys(calls) if calls.count(name) == 1]


def _units(module: nn.Module, layers: Sequence[str], granularity: str, images: Tensor) -> dict[str, list[str]]:
    """The units that are optimised together: names of modules, each with the names of the layers in it.

    A block is an outermost module that is not a mere container, takes and returns one tensor, and holds at least two layers but not all.
    """
    units: dict[str, list[str]] = {name: [name] for name in layers}
    if granularity == "layer":
        return units
    singles: set[str] = set()

    def watch(m: nn.Module, inputs: Any, output: Any, name: str) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            singles.add(name)

    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    names = in_run_order(module, images, lambda m: not isinstance(m, containers))
    handles = [module.get_submodule(n).register_forward_hook(lambda m, i, o, n=n: watch(m, i, o, n)) for n in names]
    with torch.no_grad():
        module(images)
    for handle in handles:
        handle.remove()
    blocks: list[str] = []
    for name in names:
        inside = [layer for layer in layers if layer.startswith(f"{name}.")]
        if name in singles and 2 <= len(inside) < len(layers) and not any(name.startswith(f"{block}.") for block in blocks):
            blocks.append(name)
    found: dict[str, list[str]] = {}
    for layer in layers:
        unit = next((block for block in blocks if layer.startswith(f"{block}.")), layer)
        found.setdefault(unit, []).append(layer)
    return found


def _seen(module: nn.Module, unit: str, batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The inputs and outputs of the unit on the images, or on as many of them as fit in memory."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    class Enough(Exception):
        pass

    def keep(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        inputs.append(given[0].detach().clone())  # may be changed in place later
        outputs.append(made.detach().clone())
        raise Enough

    part = module.get_submodule(unit)
    handle = part.register_forward_hook(keep)
    kept = 0
    try:
        for images in batches:
            try:
                with torch.no_grad():
                    module(images)
            except Enough:
                kept += inputs[-1].nbytes + outputs[-1].nbytes
            if kept > _CACHE_BYTES:
                break
    finally:
        handle.remove()
    return torch.cat(inputs), torch.cat(outputs)

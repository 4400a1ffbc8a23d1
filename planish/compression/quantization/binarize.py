"""Binary and ternary weights, and binary activations, trained with a straight-through estimator."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.utils import parametrize

from planish.artifact import Artifact, Step
from planish.compression.calibration import calibration_images
from planish.compression.graph.submodules import replace_submodule
from planish.compression.quantization.learned_rounding import in_run_order
from planish.data.augmentation.policy import Augmentation
from planish.errors import TechniqueError
from planish.models.quantized import LAYERS, SMALLEST, LearnedScale, store_integers
from planish.progress import Stage
from planish.technique import hyper_parameters
from planish.training import Distill

if TYPE_CHECKING:
    from planish.task import Task

_CALIBRATION_IMAGES = 64


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Binarize:
    """Train weights of -1 and 1 (``binary``, 1 bit) or -1, 0 and 1 (``ternary``, stored in 2 bits) with a learned scale per output channel.

    With binary activations, the inputs of these layers also take only two values per channel, above and below a learned threshold. The
    first and the last layer are not changed. The original model is the teacher. Batch norm is not folded, as it recentres the outputs.

    The saved network is smaller but not faster: the runtimes have no binary convolution and compute in float.

    Args:
        weights: ``binary`` or ``ternary``.
        activations: ``float`` or ``binary``; the latter causes a large accuracy drop.
        epochs: passes over the training images.
        learning_rate: peak learning rate of AdamW.
        batch_size: images per step.
        augmentation: a strength, or operations with their strengths: ``{"rotate": 15, "noise": 10}``.
        flip: whether augmentation includes horizontal flips; False for digits, letters, arrows.
        max_seconds: time limit; training is shortened to fit. None for no limit.
        seed: seed of shuffling and augmentation.

    Example:
        >>> print(Binarize(weights="ternary"))
        ternary weights
    """

    weights: Literal["binary", "ternary"] = "binary"
    activations: Literal["float", "binary"] = "float"
    epochs: int = Field(default=5, ge=1)
    learning_rate: float = Field(default=0.001, gt=0)
    batch_size: int = Field(default=128, ge=2)
    augmentation: Augmentation = "light"
    flip: bool = True
    max_seconds: float | None = Field(default=None, gt=0)
    seed: int = 0

    name: ClassVar[str] = "binarize"
    reference: ClassVar[str] = (
        "Rastegari et al. 2016, arXiv:1603.05279; Li and Liu 2016, arXiv:1605.04711; Zhu et al. 2017, arXiv:1612.01064"
    )
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",), "weights": ("dense",)}

    @property
    def changes(self) -> dict[str, str]:
        return {"precision": "binary" if self.activations == "binary" else f"{self.weights}_weights"}

    def __str__(self) -> str:
        return f"{self.weights} weights" + (", binary activations" if self.activations == "binary" else "")

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Binarize the network and train it.

        Raises:
            TechniqueError: there is no layer between the first and the last.
            TrainingError: training failed.
        """
        module = copy.deepcopy(artifact.module)
        with Stage("reading calibration images", _CALIBRATION_IMAGES) as stage:
            images = list(calibration_images(artifact, task, _CALIBRATION_IMAGES, stage))
        module.eval()
        names = in_run_order(module, images[0][:1], lambda m: isinstance(m, LAYERS))[1:-1]
        if not names:
            raise TechniqueError(
                "the network has at most two layers", "the first and the last stay in higher precision", "use quantization instead"
            )
        for name in names:
            layer: Any = module.get_submodule(name)
            start = BinaryScale(layer.weight) if self.weights == "binary" else LearnedScale(ternary_scale(layer.weight), -1, 1)
            parametrize.register_parametrization(layer, "weight", start)
        if self.activations == "binary":
            _split_activations(module, names, images)
        distill = Distill(
            epochs=self.epochs,
            optimizer="adamw",
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            augmentation=self.augmentation,
            flip=self.flip,
            max_seconds=self.max_seconds,
            seed=self.seed,
        )
        trained = distill.apply(replace(artifact, module=module, original=artifact.original or artifact), task)
        with torch.no_grad():
            for name in names:
                layer = _layer(trained.module, name)
                learned: Any = layer.parametrizations.weight
                scale = learned[0].scale()
                values = (learned() / scale.reshape(-1, *[1] * (learned.original.ndim - 1))).round()
                store_integers(layer, values, scale, self._bits)
        notes = f"{len(names)} of {len(names) + 2} layers; {trained.lineage.steps[-1].notes}"
        structure = {"layers": names, "bits": self._bits, "activations": self.activations}
        params = hyper_parameters(self)
        return artifact.with_step(Step(self.name, params, self.changes, structure, notes), module=trained.module)

    @property
    def _bits(self) -> int:
        return 1 if self.weights == "binary" else 2

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Create buffers for integers and thresholds in a freshly built network; their values are loaded with the weights."""
        for name in structure["layers"]:
            layer: Any = module.get_submodule(name)
            weight = layer.weight
            store_integers(layer, torch.ones_like(weight), torch.ones(len(weight)), structure["bits"])
            if structure["activations"] == "binary":
                replace_submodule(module, name, nn.Sequential(BinaryActivation(layer), layer))
        return module


class BinaryScale(nn.Module):
    """Parametrization of a weight during training: its sign times a learned scale, initially the channel's mean magnitude."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(weight.detach().flatten(1).abs().mean(1).clamp(min=SMALLEST).log())

    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def forward(self, weight: Tensor) -> Tensor:
        sign = torch.where(weight >= 0, 1.0, -1.0)
        # not weight + (sign - weight).detach(), which rounds to 0 or 2 for very large weights
        return (sign + (weight - weight.detach())) * self.scale().reshape(-1, *[1] * (weight.ndim - 1))


class BinaryActivation(nn.Module):
    """Binary activation: ``size`` above a threshold and ``-size`` below, per channel; gradients pass within ``size`` of the threshold.

    Args:
        layer: the layer that reads the activation.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        shape = (layer.in_channels, 1, 1) if isinstance(layer, nn.Conv2d) else (layer.in_features,)
        self.threshold, self.size = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return torch.where(x >= self.threshold, self.size, -self.size)
        near = ((x - self.threshold) / self.size.abs().clamp(min=SMALLEST)).clamp(-1, 1)
        return self.size * (near + (torch.where(x >= self.threshold, 1.0, -1.0) - near).detach())


def ternary_scale(weight: Tensor) -> Tensor:
    """The mean magnitude of weights above 0.7 times the mean magnitude, per output channel (Li and Liu 2016, section 2.2)."""
    size = weight.detach().flatten(1).abs()
    beyond = size > 0.7 * size.mean(1, keepdim=True)
    return ((size * beyond).sum(1) / beyond.sum(1).clamp(min=1)).clamp(min=SMALLEST)


@torch.no_grad()
def _split_activations(module: nn.Module, names: list[str], batches: Iterable[Tensor]) -> None:
    """Insert a ``BinaryActivation`` before each layer; its initial threshold is the mean input, its size the mean absolute deviation."""
    seen: dict[str, Tensor] = {}
    layers: dict[str, Any] = {name: module.get_submodule(name) for name in names}
    handles = [layer.register_forward_pre_hook(_keeper(seen, name)) for name, layer in layers.items()]
    module(next(iter(batches)))
    for handle in handles:
        handle.remove()
    for name, layer in layers.items():
        binary = BinaryActivation(layer).to(layer.weight.device)
        channels = seen[name].transpose(0, 1).flatten(1) if isinstance(layer, nn.Conv2d) else seen[name].flatten(0, -2).T
        mean = channels.mean(1)
        binary.threshold.copy_(mean.reshape(binary.threshold.shape))
        distance = (channels - mean[:, None]).abs().mean(1).clamp(min=1e-3)
        binary.size.copy_(distance.reshape(binary.size.shape))
        replace_submodule(module, name, nn.Sequential(binary, layer))


def _keeper(seen: dict[str, Tensor], name: str) -> Any:
    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name] = inputs[0].clone()

    return keep


def _layer(module: nn.Module, name: str) -> Any:
    found = module.get_submodule(name)
    return found[1] if isinstance(found, nn.Sequential) else found

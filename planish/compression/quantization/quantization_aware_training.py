"""Quantization-aware training: the network is trained with the same rounding as in its INT8 file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn
from torch.nn.utils import parametrize

from planish.artifact import Artifact, Step
from planish.compression.calibration import calibration_images
from planish.compression.quantization.fake_quantization import QuantizedGraph, calibrate, place
from planish.data.augmentation.policy import Augmentation
from planish.models.quantized import LearnedScale, best_scale, bounds, integers, packed_weight, store_integers
from planish.progress import Stage
from planish.technique import hyper_parameters
from planish.training import Distill
from planish.training.settings import MixedPrecision

if TYPE_CHECKING:
    from planish.task import Task

_BIAS_STEPS = 2.0**24  # integer kernels store a bias in 32 bits, in steps of input scale times weight scale; 24 bits leave it room to grow


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeAware:
    """Quantize to INT8 in PyTorch: scales are calibrated and then trained together with the weights; the original model is the teacher.

    Weights are signed with one scale per output channel, activations unsigned with one scale and zero point per tensor (8 bits each, or
    fewer for weights with ``weight_bits``). Quantizers are placed where our INT8 files have Q/DQ nodes, and ``to_onnx`` exports them
    unchanged, so no ``int8`` step follows. Batch norm is folded before training. Weights that are integers already (``learned_rounding``)
    are not changed; only the scales of activations and the biases are trained.

    Weights below 8 bits make the saved network smaller, not faster: the runtimes have no convolution for them, so ONNX files store them as
    8-bit integers. The first and the last layer always have 8 bits, or 7 with ``weight_bits=7``.

    Args:
        weight_bits: 8, 4 or 2; 7 for processors whose integer kernels overflow with 8 (see ``Int8``), in every layer, stored in 8.
        calibration_images: number of calibration images, spread evenly over the split, that set the initial ranges of activations.
        epochs: passes over the training images; 0 only calibrates.
        learning_rate: peak learning rate.
        batch_size: images per step.
        augmentation: a strength, or operations with their strengths: ``{"rotate": 15, "noise": 10}``.
        flip: whether augmentation includes horizontal flips; False for digits, letters, arrows.
        max_seconds: time limit; training is shortened to fit. None for no limit.
        mixed_precision: see ``FitSettings``.
        seed: seed of shuffling and augmentation.

    Example:
        >>> print(QuantizeAware(epochs=2))
        INT8 learned in 2 epochs
    """

    weight_bits: Literal[8, 7, 4, 2] = 8
    calibration_images: int = Field(default=256, ge=1)
    epochs: int = Field(default=2, ge=0)
    learning_rate: float = Field(default=0.0002, gt=0)
    batch_size: int = Field(default=128, ge=2)
    augmentation: Augmentation = "light"
    flip: bool = True
    max_seconds: float | None = Field(default=None, gt=0)
    mixed_precision: MixedPrecision = "auto"
    seed: int = 0

    name: ClassVar[str] = "qat"
    reference: ClassVar[str] = "Esser et al. 2020, arXiv:1902.08153; Bhalgat et al. 2020, arXiv:2004.09576"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "format": ("torch",),
        "precision": ("fp32", "int8_weights", "int4_weights", "int2_weights"),
        "weights": ("dense",),
    }

    @property
    def changes(self) -> dict[str, str]:
        return {"precision": "int8"}

    def __str__(self) -> str:
        bits = "" if self.weight_bits == 8 else f" with {self.weight_bits}-bit weights"
        return f"INT8{bits} " + (f"learned in {self.epochs} epoch{'s' if self.epochs > 1 else ''}" if self.epochs else "calibrated")

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Quantize the network and train it.

        Raises:
            TechniqueError: the network cannot be traced, or there is nothing to quantize.
            TrainingError: training failed.
        """
        spec = artifact.input_spec
        graph = place(artifact.module, spec.channels, spec.height, spec.width)
        with Stage("calibrating INT8", min(self.calibration_images, len(task.split("calibration")))) as stage:
            calibrate(graph, calibration_images(artifact, task, self.calibration_images, stage))
        bits = _learn_weights(graph, self.weight_bits)
        notes = f"{len(graph.layers())} layers and {len(graph.quantizers())} tensors quantized, calibrated on {stage.done} images"
        if self.epochs:
            for quantizer in graph.quantizers().values():
                quantizer.learn()
            trained = self._train(replace(artifact, module=graph, original=artifact.original or artifact), task)
            graph, notes = trained.module, f"{notes}; {trained.lineage.steps[-1].notes}"
        _settle(graph, bits)
        step = Step(
            self.name,
            hyper_parameters(self),
            self.changes,
            {"bits": bits, "input": [spec.channels, spec.height, spec.width]},
            notes,
        )
        return artifact.with_step(step, module=graph)

    def _train(self, artifact: Artifact, task: Task) -> Artifact:
        distill = Distill(
            epochs=self.epochs,
            optimizer="adamw",  # its step sizes suit weights, biases and scales
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            augmentation=self.augmentation,
            flip=self.flip,
            max_seconds=self.max_seconds,
            mixed_precision=self.mixed_precision,
            seed=self.seed,
        )
        return distill.apply(artifact, task)

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Insert quantizers and integer weights into a freshly built network; their values are loaded with the weights."""
        graph = place(module, *structure["input"])
        for name, layer, _ in graph.layers():
            if name in structure["bits"]:
                weight = layer.weight.detach()
                store_integers(layer, torch.ones_like(weight), torch.ones(len(weight)), structure["bits"][name])
        return graph


def _learn_weights(graph: QuantizedGraph, weight_bits: int) -> dict[str, int]:
    """Give every float weight a learned scale; returns the bit width of each such layer."""
    layers = graph.layers()
    bits = {}
    for number, (name, layer, quantizer) in enumerate(layers):
        if packed_weight(layer) is not None:
            continue
        bits[name] = weight_bits if 0 < number < len(layers) - 1 or weight_bits == 7 else 8
        learned = LearnedScale(best_scale(layer.weight, bits[name]), *bounds(bits[name]))
        if layer.bias is not None:  # keeps the bias in range in channels with very small weights
            learned.least = torch.maximum(learned.least, layer.bias.detach().abs() / (quantizer.scale * _BIAS_STEPS))
        parametrize.register_parametrization(layer, "weight", learned)
    return bits


@torch.no_grad()
def _settle(graph: QuantizedGraph, bits: Mapping[str, int]) -> None:
    """Store the learned integers, scales and zero points."""
    for quantizer in graph.quantizers().values():
        quantizer.settle()
    for name, layer, _ in graph.layers():
        if name in bits:
            weight: Any = layer.parametrizations.weight  # type: ignore[union-attr]
            scale = weight[0].scale()
            store_integers(layer, integers(weight.original, scale, bits[name]), scale, bits[name])

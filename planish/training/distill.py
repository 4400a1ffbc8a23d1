"""Distillation: the network that a plan started from teaches what the plan has made of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn
from torch.nn import functional

from planish.artifact import Artifact, InputSpec, Step
from planish.data.augmentation import Strength
from planish.errors import TechniqueError
from planish.technique import describe
from planish.training.fit import fit
from planish.training.settings import FitSettings

if TYPE_CHECKING:
    from planish.task import Task


_EMA_DECAY = 0.99  # the average of the last hundred steps' weights allows high rates and small batches, which recover more


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Distill:
    """Fine-tunes with the original model as the teacher, which wins back accuracy that pruning or a smaller input has cost.

    The loss is ``(1 - weight) * loss on the targets + weight * KL(teacher, student)``, both softened by ``temperature`` and the KL
    multiplied by its square. Where there is no earlier model, this is plain fine-tuning. Where teacher and student see images of
    different sizes, images are loaded and augmented at the larger one and shrunk (antialiased) for the other, so both see the same view.
    Weights that were pruned stay zero, and shared ones are trained as one.

    Args:
        epochs: times every training image is seen.
        learning_rate: at its highest; after warming up for a tenth of the epochs it falls to 0 along a cosine. A network that was trained
            from scratch stands 0.1, pretrained weights are forgotten at such a rate.
        temperature: softens the teacher's probabilities.
        weight: of the teacher against the targets.
        batch_size: images a step.
        augmentation: strength.
        flip: whether augmentation mirrors left to right; False for digits, letters, arrows.
        weight_decay: on weights.
        max_seconds: the schedule is shortened to end in that time; None for as long as it takes.
        seed: of order and augmentation.

    Reference: Hinton, Vinyals, Dean 2015 (arXiv:1503.02531).
    """

    name: ClassVar[str] = "distill"
    reference: ClassVar[str] = "Hinton et al. 2015, arXiv:1503.02531"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    epochs: int = Field(default=5, ge=1)
    learning_rate: float = Field(default=0.05, gt=0)
    temperature: float = Field(default=4.0, gt=0)
    weight: float = Field(default=0.9, ge=0, le=1)
    batch_size: int = Field(default=64, ge=2)
    augmentation: Strength = "light"
    flip: bool = True
    weight_decay: float = Field(default=1e-4, ge=0)
    max_seconds: float | None = Field(default=None, gt=0)
    seed: int = 0

    def __str__(self) -> str:
        return f"distilled {self.epochs} epoch{'s' if self.epochs > 1 else ''}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Train a copy of the artifact's network.

        Raises:
            TechniqueError: the teacher sees other channels or another normalisation than the student.
            TrainingError: training went wrong.
        """
        begun = time.monotonic()
        student: nn.Module = artifact.module
        original, spec = artifact.original, artifact.input_spec
        teacher: nn.Module | None = None
        if original is not None:
            _check_same_view(original, artifact)
            teacher = original.module
            spec = InputSpec(spec.channels, max(spec.height, original.input_spec.height), max(spec.width, original.input_spec.width))
            student, teacher = _resized(student, artifact.input_spec, spec), _resized(original.module, original.input_spec, spec)
        settings = FitSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_epochs=self.epochs / 10,
            ema_decay=_EMA_DECAY,
            augmentation=self.augmentation,
            flip=self.flip,
            seed=self.seed,
        )
        fitted = fit(
            student,
            task,
            spec,
            artifact.preprocessing if original is None else original.preprocessing,
            settings,
            teacher=teacher,
            distillation_weight=self.weight,
            temperature=self.temperature,
            deadline=None if self.max_seconds is None else begun + self.max_seconds,
            validate=False,
            weights=artifact.facts["weights"],
        )
        module = fitted.module[1] if isinstance(fitted.module, _Resized) else fitted.module
        step = Step(
            technique=self.name,
            params={key: value for key, value in describe(self).items() if key != "name"},
            structure={"epochs": round(fitted.epochs, 2)},
            notes=f"{fitted.epochs:.3g} epochs in {fitted.seconds:.0f} s, loss {fitted.history[-1].train_loss:.3f}"
            + (", ended by its time limit" if fitted.stopped == "deadline" else ""),
        )
        return artifact.with_step(step, module=module)


class _Shrink(nn.Module):
    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, self.size, mode="bilinear", antialias=True)


class _Resized(nn.Sequential):
    """A network behind a resize, so that it takes the other one's images."""


def _resized(module: nn.Module, own: InputSpec, given: InputSpec) -> nn.Module:
    return module if own == given else _Resized(_Shrink(own.height, own.width), module)


def _check_same_view(teacher: Artifact, student: Artifact) -> None:
    if teacher.input_spec.channels != student.input_spec.channels:
        raise TechniqueError(
            f"the teacher sees {teacher.input_spec.channels} channels, the student {student.input_spec.channels}", "both must see the same"
        )
    for what in ("mean", "std", "resize"):
        ours, theirs = getattr(student.preprocessing, what), getattr(teacher.preprocessing, what)
        if ours != theirs:
            raise TechniqueError(f"the teacher's {what} is {theirs}, the student's {ours}", "both must see the same images")

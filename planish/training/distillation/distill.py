"""Fine-tuning with distillation, in which the original network is the teacher of its compressed form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from planish.artifact import Artifact, InputSpec, Step
from planish.data.augmentation.policy import Augmentation
from planish.errors import PlanishError, TechniqueError, first_line
from planish.files.workspace import resume_file
from planish.models.storage import fingerprint, load_artifact
from planish.technique import hyper_parameters
from planish.training.distillation.feature_transfer import FeatureRecorder, FeatureStudent
from planish.training.ensembles import Ensemble
from planish.training.fit import FitRun, Teacher, fit
from planish.training.recipe import load_recipe
from planish.training.resizing import Resized, resized
from planish.training.schedules.freezing import Freeze
from planish.training.settings import FitSettings, MixedPrecision

if TYPE_CHECKING:
    from planish.task import Task


_EMA_DECAY = 0.99  # averaging over about 100 steps allows high learning rates and small batches, which recover more accuracy


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Distill:
    """Fine-tunes with the original model as the teacher, to recover accuracy lost by pruning or by a smaller input.

    The loss is ``(1 - weight) * loss on the targets + weight * KL(teacher, student)``, where the KL divergence is that of probabilities
    softened by ``temperature``, multiplied by its square. Without an original model or named teachers, this is plain fine-tuning. If the
    networks take images of different sizes, images are loaded and augmented at the largest size and shrunk (antialiased) for the others, so
    that all get the same view. Pruned weights stay zero, and shared weights stay equal.

    Args:
        method: ``logits`` alone; ``decoupled``, in which the divergence among the wrong classes has full weight however high the
            probability of the right class is; ``feature`` or ``attention``, in which feature maps of the first teacher are matched as well.
        teachers: folders of trained models (``planish train``) used as teachers, whose probabilities are averaged; empty for the original.
        epochs: number of passes over the training images.
        optimizer: ``sgd``, or ``adamw``, which needs a learning rate about 100 times smaller.
        learning_rate: peak learning rate; after warming up for a tenth of the epochs it falls to 0 along a cosine. A network trained from
            scratch tolerates 0.1; pretrained weights are forgotten at such a rate.
        temperature: temperature that softens the teacher's probabilities.
        weight: weight of the teacher relative to the targets.
        batch_size: images per step.
        augmentation: a strength, or operations with their strengths: ``{"rotate": 15, "noise": 10}``.
        flip: whether augmentation includes horizontal flips; False for digits, letters, arrows.
        weight_decay: weight decay.
        freeze: which layers are not trained, see ``FitSettings``.
        start_scale: size of the first images as a share of the full one, see ``FitSettings``.
        max_seconds: time limit to which the schedule is shortened; None for no limit.
        mixed_precision: see ``FitSettings``.
        seed: seed of shuffling and augmentation.

    Reference: Hinton, Vinyals, Dean 2015 (arXiv:1503.02531); decoupled: Zhao et al. 2022 (arXiv:2203.08679); feature: Romero et al. 2015
    (arXiv:1412.6550); attention: Zagoruyko and Komodakis 2017 (arXiv:1612.03928).
    """

    name: ClassVar[str] = "distill"
    reference: ClassVar[str] = "Hinton et al. 2015, arXiv:1503.02531"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    method: Literal["logits", "decoupled", "feature", "attention"] = "logits"
    teachers: tuple[str, ...] = ()
    epochs: int = Field(default=5, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.05, gt=0)
    temperature: float = Field(default=4.0, gt=0)
    weight: float = Field(default=0.9, ge=0, le=1)
    batch_size: int = Field(default=64, ge=2)
    augmentation: Augmentation = "light"
    flip: bool = True
    weight_decay: float = Field(default=1e-4, ge=0)
    freeze: Freeze = "none"
    start_scale: float = Field(default=1.0, gt=0, le=1)
    max_seconds: float | None = Field(default=None, gt=0)
    mixed_precision: MixedPrecision = "auto"
    seed: int = 0

    def __str__(self) -> str:
        return f"distilled {self.epochs} epoch{'s' if self.epochs > 1 else ''}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    @property
    def settings(self) -> FitSettings:
        """Settings of the training; those of the recipe ``recovery`` by default."""
        return FitSettings(
            epochs=self.epochs,
            optimizer=self.optimizer,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_epochs=self.epochs / 10,
            ema_decay=_EMA_DECAY,
            augmentation=self.augmentation,
            flip=self.flip,
            freeze=self.freeze,
            start_scale=self.start_scale,
            mixed_precision=self.mixed_precision,
            seed=self.seed,
        )

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Train a copy of the artifact's network.

        Raises:
            TechniqueError: a teacher cannot be loaded, or differs from the student in classes, channels, normalisation or resizing; or
                ``feature`` or ``attention`` has no teacher.
            TrainingError: training failed.
        """
        teachers = self._teachers(artifact)
        specs = [a.input_spec for a in (artifact, *teachers)]
        spec = InputSpec(specs[0].channels, max(s.height for s in specs), max(s.width for s in specs))
        how = artifact.preprocessing.normalisation
        student = resized(artifact.module, artifact.input_spec, spec, how)
        taught_by = [resized(t.module, t.input_spec, spec, how) for t in teachers]
        teacher: Teacher | None = None
        if self.method in ("feature", "attention"):
            if not teachers:
                raise TechniqueError(
                    f"{self.method} transfer without a teacher", "it compares maps with a teacher's", "name one in teachers"
                )
            example = torch.zeros(2, spec.channels, spec.height, spec.width)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                student = FeatureStudent(student, taught_by[0], example, self.method)
            taught_by[0] = FeatureRecorder(taught_by[0], student.teacher_layers)
        if teachers:
            together = taught_by[0] if len(teachers) == 1 else _averaged(taught_by, spec)
            teacher = Teacher(together, self.weight, self.temperature, self.method == "decoupled")
        fitted = fit(
            student,
            task,
            spec,
            artifact.preprocessing,
            self.settings,
            teacher=teacher,
            run=FitRun(resume_file(f"training-{fingerprint(student)[:16]}.checkpoint"), self.max_seconds, validate=False),
            weights=artifact.facts["weights"],
        )
        module = fitted.module.network if isinstance(fitted.module, FeatureRecorder) else fitted.module
        module = module.network if isinstance(module, Resized) else module
        step = Step(
            technique=self.name,
            params=hyper_parameters(self),
            structure={"epochs": round(fitted.epochs, 4), "seconds": round(fitted.seconds, 2), "step_seconds": fitted.step_seconds},
            notes=f"{fitted.epochs:.3g} epochs in {fitted.seconds:.0f} s, loss {fitted.history[-1].train_loss:.3f}"
            + (", ended by its time limit" if fitted.stopped == "deadline" else ""),
        )
        return artifact.with_step(step, module=module)

    def _teachers(self, artifact: Artifact) -> list[Artifact]:
        teachers = [] if artifact.original is None or self.teachers else [artifact.original]
        for folder in self.teachers:
            try:
                teachers.append(load_artifact(Path(folder)))
            except PlanishError as error:
                raise TechniqueError(f"the teacher {folder} cannot be loaded: {error}") from error
        for teacher in teachers:
            _check_same_view(teacher, artifact)
        return teachers


def _averaged(networks: list[nn.Module], spec: InputSpec) -> Ensemble:
    together = Ensemble(networks)
    try:
        with torch.no_grad():
            together(torch.zeros(1, spec.channels, spec.height, spec.width))
    except Exception as error:  # maps of detectors, or outputs of different sizes
        raise TechniqueError(
            f"{len(networks)} teachers cannot be averaged: {first_line(error)}", "all must return logits of one size", "name one"
        ) from error
    return together


def _check_same_view(teacher: Artifact, student: Artifact) -> None:
    if teacher.module is None:
        raise TechniqueError(f"the teacher is an {teacher.format} file", "a teacher is a PyTorch network")
    if teacher.class_names != student.class_names:
        raise TechniqueError(
            f"the teacher knows {', '.join(teacher.class_names[:5])}, ...; the student {', '.join(student.class_names[:5])}, ...",
            "both must know the same classes, in the same order",
        )
    if teacher.input_spec.channels != student.input_spec.channels:
        raise TechniqueError(
            f"the teacher sees {teacher.input_spec.channels} channels, the student {student.input_spec.channels}", "both must see the same"
        )
    for what in ("mean", "std", "normalisation", "resize"):
        ours, theirs = getattr(student.preprocessing, what), getattr(teacher.preprocessing, what)
        if ours != theirs:
            raise TechniqueError(f"the teacher's {what} is {theirs}, the student's {ours}", "both must see the same images")


def recovery_of(recipe: str, **given: Any) -> Distill:
    """``Distill`` with the optimizer and batch size of a task's recipe and half its learning rate; the defaults if the task has none.

    Args:
        recipe: name of the task's recipe, see ``Task.recipe``; may be empty.
        given: other fields of ``Distill``.
    """
    if not recipe:
        return Distill(**given)
    own = load_recipe(recipe).training
    optimizer: Literal["sgd", "adamw"] = "adamw" if own.optimizer == "adamw" else "sgd"
    return Distill(optimizer=optimizer, learning_rate=own.learning_rate / 2, batch_size=own.batch_size, **given)

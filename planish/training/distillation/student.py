"""Replacement of the network by another architecture, as the student for distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import nn

from planish.artifact import Artifact, Source, Step
from planish.errors import ModelError, TechniqueError
from planish.files.trust import require_trust
from planish.models.detection.levels import TrainingBoxes
from planish.models.factories import RUNS_PYTHON
from planish.models.zoo import build, create, factory_file
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Student:
    """Replaces the network by a newly initialised one, to be trained by a following ``Distill`` with the original as the teacher.

    Args:
        model: name of the network: ``resnet8``, ``torchvision:mobilenet_v2``, ``timm:...``, ``FILE.py:factory``.
        seed: seed of its initial weights.

    Reference: Hinton, Vinyals, Dean 2015 (arXiv:1503.02531).
    """

    model: str
    seed: int = 0

    name: ClassVar[str] = "student"
    reference: ClassVar[str] = "Hinton et al. 2015, arXiv:1503.02531"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        return f"student {self.model}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Build the student.

        Raises:
            TechniqueError: there is no such network, or it does not run on such images.
            TrustError: the model is a Python file that is not trusted.
        """
        spec = artifact.input_spec
        try:
            if file := factory_file(self.model):
                require_trust(file, RUNS_PYTHON)  # plans are read from files, so naming the file in one is no proof of trust
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                created = create(
                    self.model,
                    task=artifact.lineage.source.task,
                    num_classes=len(artifact.class_names),
                    channels=spec.channels,
                    image_size=(spec.height, spec.width),
                    training=TrainingBoxes(lambda _: (spec.height, spec.width), detections=artifact.lineage.source.detections),
                )
        except ModelError as error:
            raise TechniqueError(
                f"the student cannot be built: {error}", "it is a network by name", "see planish.models.names()"
            ) from error
        structure = TypeAdapter(Source).dump_python(created.source, mode="json")
        params = hyper_parameters(self)
        step = Step(self.name, params, self.changes, structure, "; ".join(created.notes))
        return artifact.with_step(step, module=created.module.eval())

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Build the student without its weights; ``module``, the replaced network, is not used."""
        return build(TypeAdapter(Source).validate_python(dict(structure)))

"""The outputs of any network as they are, for images without labels: detectors of others, heatmaps, embeddings, images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.evaluation.metrics.explained_variance import OutputTargets, explained_variance
from planish.evaluation.statistics.intervals import bootstrap_mean
from planish.measurement import Metric
from planish.task import OUTPUTS, PLAIN_LOSS, AugmentSettings
from planish.tasks.base import BaseTask, ReadmeText

if TYPE_CHECKING:
    import torch
    from torch import nn

    from planish.artifact import InputSpec, Outputs
    from planish.measurement import Measurement
    from planish.task import Augment, Kind, LossSettings

_METRIC = Metric("explained_variance")


@dataclass(frozen=True)
class RawOutputs(BaseTask):
    """The float outputs of a network, judged by how much of the variance of the original's outputs a smaller one explains.

    Networks are trained by a teacher alone: there is no other loss.

    Args:
        splits: the four splits; targets are ``OutputTargets``, and None for each training image.
        class_names: names of the outputs.
    """

    name: str = OUTPUTS
    largest_side: int = 640
    whole_image: bool = True

    @property
    def annotations(self) -> Kind:
        return "classes"

    @property
    def primary_metric(self) -> Metric:
        return _METRIC

    @property
    def readme(self) -> ReadmeText:
        return ReadmeText("network", "for name, values in y.items(): print(name, values.shape, values.mean())")

    def answers(self, outputs: Outputs, spec: InputSpec) -> OutputTargets:
        return OutputTargets(outputs)

    def batch_targets(self, targets: Any, rows: Any, spec: InputSpec) -> torch.Tensor:
        """Return zeros ``(n,)``, which stand for no targets."""
        import torch

        return torch.zeros(len(rows))

    def augment(self, spec: InputSpec, settings: AugmentSettings) -> Augment:
        """Return the augmentation of images as in ``augmentation.policy``; the teacher sees the same images."""
        from planish.data.augmentation.policy import augment

        settings.require_only(self.name)
        change = augment(spec, settings.augmentation, settings.flip)
        return lambda images, targets, generator: (change(images, generator), targets)

    def loss(self, network: nn.Module, outputs: Any, targets: Any, settings: LossSettings = PLAIN_LOSS) -> torch.Tensor:
        """Return 0: what the outputs should be is known from the teacher only."""
        from planish.models.outputs import flattened

        return 0 * flattened(outputs).float().mean()

    def distillation_loss(self, network: nn.Module, outputs: Any, teacher: Any, temperature: float, targets: Any = None) -> torch.Tensor:
        """Return the error relative to the spread of the teacher's outputs, see ``unexplained``."""
        from planish.models.raw_outputs import unexplained

        return unexplained(outputs, teacher)

    def decode(self, outputs: Outputs) -> Any:
        """Return the outputs themselves."""
        return outputs

    def guessing(self, targets: Any) -> float:
        """Return 0, the explained variance of outputs that do not depend on the image."""
        return 0.0

    def scores(self, outputs: Outputs, targets: Any) -> Any:
        """Return the explained variance of each image, the mean over the outputs, see ``explained_variance``."""
        found = explained_variance(outputs, targets)
        return np.mean([found[name] for name in found], axis=0)

    def metrics(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Return the explained variance."""
        return {_METRIC.name: _measured(self.scores(outputs, targets))}

    def per_class(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Return the explained variance of each output, if there are several."""
        found = explained_variance(outputs, targets)
        return {name: _measured(scores) for name, scores in found.items()} if len(found) > 1 else {}


def _measured(scores: Any) -> Measurement:
    return _METRIC.measured(bootstrap_mean(scores), len(scores))

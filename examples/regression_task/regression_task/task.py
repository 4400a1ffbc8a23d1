"""The task: loss, metrics and answers of a network that returns a number for each value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planish.evaluation.statistics.intervals import Interval, bootstrap_mean
from planish.measurement import Measurement, Metric
from planish.task import PLAIN_LOSS, AugmentSettings, LossSettings
from planish.tasks.base import PLAIN, BaseTask, ReadmeText, ResponseOptions
from regression_task.data import read_numbers

if TYPE_CHECKING:
    import torch
    from torch import nn

    from planish.artifact import InputSpec, Outputs
    from planish.task import Augment, Reader
    from planish.tasks.localisation import View

_RESAMPLES = 1000
_UNIT = re.compile(r"\[(.+)\]\s*$")


@dataclass(frozen=True)
class Regression(BaseTask):
    """Numbers of an image. A network's outputs, named ``logits`` in files, are the values themselves, in their unit.

    Args:
        splits: the four splits; targets are float32 ``(N, K)``.
        class_names: of the values: ``width [mm]``. All have one unit, which is that of the errors.
    """

    name: str = "regression"
    recipe: str = str(Path(__file__).with_name("regression.yaml"))
    largest_side: int = 224
    whole_image: bool = True  # cropping would change what is measured

    @property
    def annotations(self) -> Reader:
        return read_numbers

    @property
    def primary_metric(self) -> Metric:
        units = {found[1] if (found := _UNIT.search(name)) else "" for name in self.class_names}
        return Metric("mean_absolute_error", units.pop() if len(units) == 1 else "", higher_is_better=False)

    @property
    def readme(self) -> ReadmeText:
        return ReadmeText("model that gives numbers", 'print(dict(zip(b["class_names"], logits[0].tolist())))', "logits")

    def batch_targets(self, targets: Any, rows: Any, spec: InputSpec) -> torch.Tensor:
        """The values, float32 ``(n, K)``."""
        import torch

        return torch.as_tensor(np.asarray(targets, np.float32)[rows])

    def augment(self, spec: InputSpec, settings: AugmentSettings) -> Augment:
        """Brightness and contrast, unless it is ``none``: what moves or turns images might change their values."""
        settings.require_only(self.name)

        def change(images: torch.Tensor, targets: Any, generator: torch.Generator) -> tuple[torch.Tensor, Any]:
            if settings.augmentation == "none":
                return images, targets
            import torch

            gain, shift = (torch.rand((len(images), 1, 1, 1), generator=generator).to(images.device) for _ in range(2))
            return (images * (0.8 + 0.4 * gain) + 20 * (shift - 0.5)).clamp(0, 255).to(torch.uint8), targets

        return change

    def loss(self, network: nn.Module, outputs: Any, targets: torch.Tensor, settings: LossSettings = PLAIN_LOSS) -> torch.Tensor:
        """Smooth L1 of the error in standard deviations of the training values."""
        from torch.nn import functional

        scale = outputs.new_tensor(self._scale)
        return functional.smooth_l1_loss(outputs / scale, targets / scale)

    def distillation_loss(
        self, network: nn.Module, outputs: Any, teacher: torch.Tensor, temperature: float, targets: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The same, with the teacher's values in place of the targets."""
        return self.loss(network, outputs, teacher)

    def decode(self, outputs: Outputs) -> Any:
        """Values, ``(N, K)``."""
        return outputs["logits"]

    def guessing(self, targets: Any) -> float:
        """The mean absolute error of the median."""
        values = np.asarray(targets, np.float64)
        return float(np.abs(values - np.median(values, axis=0)).mean())

    def scores(self, outputs: Outputs, targets: Any) -> Any:
        """The absolute error of each image, the mean of its values'."""
        return self._errors(outputs, targets).mean(axis=1)

    def metrics(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Mean absolute error; the same of each value; root mean squared error; R²."""
        errors, metric = self._errors(outputs, targets), self.primary_metric
        found = [metric.measured(bootstrap_mean(errors.mean(axis=1)), len(errors))]
        if len(self.class_names) > 1:
            for name, column in zip(self.class_names, errors.T, strict=True):
                found.append(metric.measured(bootstrap_mean(column), len(errors), f"mean_absolute_error_of_{_UNIT.sub('', name).strip()}"))
        square = bootstrap_mean((errors**2).mean(axis=1))
        found.append(metric.measured(Interval(*(max(0.0, end) ** 0.5 for end in square)), len(errors), "root_mean_squared_error"))
        found.append(Metric("r2", "").measured(r2(self.decode(outputs), targets), len(errors)))
        return {m.name: m for m in found}

    def responses(self, outputs: Outputs, views: Sequence[View], asked: ResponseOptions = PLAIN) -> list[dict[str, Any]]:
        """``values``: each by its name."""
        return [{"values": dict(zip(self.class_names, map(float, row), strict=True))} for row in self.decode(outputs)]

    def statistics(self, outputs: Outputs) -> list[tuple[dict[str, float], str | None]]:
        """Each value by its name."""
        return [(dict(zip(self.class_names, map(float, row), strict=True)), None) for row in self.decode(outputs)]

    def _errors(self, outputs: Outputs, targets: Any) -> npt.NDArray[np.float64]:
        return np.abs(np.asarray(self.decode(outputs), np.float64) - np.asarray(targets, np.float64))

    @cached_property
    def _scale(self) -> list[float]:
        spread = np.asarray(self.splits["train"].targets, np.float64).std(axis=0)
        return [float(value) or 1.0 for value in spread]


def r2(preds: npt.ArrayLike, targets: npt.ArrayLike, seed: int = 0) -> Interval:
    """The share of the variance that is explained, the mean over the values, bootstrapped over images.

    Args:
        preds: ``(N, K)``.
        targets: ``(N, K)``.
        seed: of the bootstrap.
    """
    said, truth = np.asarray(preds, np.float64), np.asarray(targets, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(truth), (_RESAMPLES, len(truth)))

    def of(rows: Any) -> float:
        unexplained = ((truth[rows] - said[rows]) ** 2).sum(axis=0)
        variance = ((truth[rows] - truth[rows].mean(axis=0)) ** 2).sum(axis=0)
        return float((1 - unexplained / np.maximum(variance, 1e-12)).mean())

    value = of(np.arange(len(truth)))
    low, high = np.percentile([of(rows) for rows in drawn], [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))

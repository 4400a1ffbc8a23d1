"""Parameters that are passed together from the commands to the jobs they start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from planish.units import ImageSize

if TYPE_CHECKING:
    from torch import nn

    from planish.training.recipe import Recipe

TrainMode = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class ModelSettings:
    """A network and its input.

    Args:
        model: ``resnet20``, ``torchvision:NAME``, ``timm:NAME``, ``FILE.py:factory``, a network, or the path of a file.
        weights: ``imagenet`` or a file; None for random ones, or if the factory loads them itself.
        image_size: input size in pixels, or ``HEIGHTxWIDTH``; None for the size of the images.
        resize: how images are brought to that size; None squashes images that are roughly square and crops others.
        mean: mean the network expects, on the 0..1 scale, one value or one per channel; None if its weights define it.
        std: standard deviation the network expects, given like ``mean``.
        task: name of the task; None to determine it from the annotations.
        metric: the metric that must not drop, see ``Task.with_metric``; None for the task's own.
    """

    model: str | nn.Module = "resnet20"
    weights: str | Path | None = None
    image_size: ImageSize | None = None
    resize: Literal["squash", "crop"] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    task: str | None = None
    metric: str | None = None

    @property
    def name(self) -> str:
        """As given by the user; for a network, the name of its class."""
        return self.model if isinstance(self.model, str) else type(self.model).__name__


@dataclass(frozen=True)
class RecipeSettings:
    """How a network is trained.

    Args:
        recipe: a recipe, the name of one that comes with the package, or a YAML file; None for one that suits the weights and the task.
        changes: overrides of its values: ``training.epochs=10``, ``norm=group``.
    """

    recipe: Recipe | str | Path | None = None
    changes: Sequence[str] = ()


@dataclass(frozen=True)
class OriginalSettings:
    """How the original of a comparison or a search is trained.

    Args:
        epochs: maximum number of epochs; None for a default that the budget may reduce.
        augmentation: augmentation of training images.
        train_mode: whether to train it; ``auto`` trains it unless it was already trained on these classes.
    """

    epochs: int | None = None
    augmentation: Literal["none", "light", "standard"] = "light"
    train_mode: TrainMode = "auto"


@dataclass(frozen=True)
class GoalSettings:
    """The goal of a search as the user writes it; see ``planish.goal.Goal``.

    Args:
        max_drop: maximum drop of the primary metric, in its unit; None for one point.
        max_latency: maximum latency of one batch: ``5ms``, or milliseconds.
        max_size: maximum size of the shipped files: ``4MB``, or bytes.
        risk: accepted probability that the drop on new images is above the maximum; None for 0.2.
        max_change: for images without labels, in place of ``max_drop``: maximum share of the original's answers that change, in percent.
    """

    max_drop: float | None = None
    max_latency: str | float | None = None
    max_size: str | float | None = None
    risk: float | None = None
    max_change: float | None = None


@dataclass(frozen=True)
class DeploymentTarget:
    """Where a file runs, and how.

    Args:
        runtime: name of the runtime; ``auto`` for the fastest.
        threads: number of threads of the runtime.
        batch: batch size.
    """

    runtime: str = "auto"
    threads: int = 1
    batch: int = 1


@dataclass(frozen=True)
class RunSettings:
    """Where a job stores its results, and which resources it may use.

    Args:
        out: output folder; None for one under ``runs/``.
        resume: continue the job in that folder.
        budget: total wall-clock time: ``20m``, or seconds.
        skip_bad: skip broken images.
        seed: seed of everything random.
    """

    out: str | Path | None = None
    resume: bool = False
    budget: str | float | None = None
    skip_bad: bool = False
    seed: int = 0

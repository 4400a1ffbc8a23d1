"""Parameters that travel together from the commands to the jobs they start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

    from planish.training.recipe import Recipe

TrainMode = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class ModelSettings:
    """Which network, and how it is fed.

    Args:
        model: ``resnet20``, ``torchvision:NAME``, ``timm:NAME``, ``FILE.py:factory``, a network, or the path of a file.
        weights: ``imagenet`` or a file; None for fresh ones, or where the factory loads them itself.
        image_size: pixels of its input; None for the images' own size.
        resize: how images come to that size; None squashes images that are about square and crops others.
        mean: that it expects to be subtracted, one value per channel or one for all, on the 0..1 scale; None where its weights define it.
        std: likewise, that it expects to be divided by.
        task: None for what the data is annotated for.
    """

    model: str | nn.Module = "resnet20"
    weights: str | Path | None = None
    image_size: int | None = None
    resize: Literal["squash", "crop"] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    task: str | None = None

    @property
    def name(self) -> str:
        """As it was named; of a network its class."""
        return self.model if isinstance(self.model, str) else type(self.model).__name__


@dataclass(frozen=True)
class RecipeSettings:
    """How a network is trained.

    Args:
        recipe: a recipe, the name of one that comes with the package, or a YAML file; None for one that fits weights and task.
        changes: of its values: ``training.epochs=10``, ``norm=group``.
    """

    recipe: Recipe | str | Path | None = None
    changes: Sequence[str] = ()


@dataclass(frozen=True)
class OriginalSettings:
    """How the original of a comparison or a search comes about.

    Args:
        epochs: at most; None for defaults that the budget may cut short.
        augmentation: of training images.
        train_mode: ``auto`` trains it unless it was already trained on these classes.
    """

    epochs: int | None = None
    augmentation: Literal["none", "light", "standard"] = "light"
    train_mode: TrainMode = "auto"


@dataclass(frozen=True)
class GoalSettings:
    """The goal of a search as it is written; see ``planish.goal.Goal``.

    Args:
        max_drop: that may be lost of the primary metric, in its unit; None for one point.
        max_latency: of one batch: ``5ms``, or milliseconds.
        max_size: of the files that ship: ``4MB``, or bytes.
    """

    max_drop: float | None = None
    max_latency: str | float | None = None
    max_size: str | float | None = None


@dataclass(frozen=True)
class DeploymentTarget:
    """Where a file runs, and how.

    Args:
        runtime: its name; ``auto`` for the fastest.
        threads: of the runtime.
        batch: images in a batch.
    """

    runtime: str = "auto"
    threads: int = 1
    batch: int = 1


@dataclass(frozen=True)
class RunSettings:
    """Where a job keeps its results, and what it may use.

    Args:
        out: its folder; None for one under ``runs/``.
        resume: go on with what is in it.
        budget: wall-clock time for everything: ``20m``, or seconds.
        skip_bad: leave broken images out.
        seed: of everything random.
    """

    out: str | Path | None = None
    resume: bool = False
    budget: str | float | None = None
    skip_bad: bool = False
    seed: int = 0

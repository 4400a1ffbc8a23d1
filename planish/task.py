"""What is to be learned: images and targets, loss, metrics and decoding. Concrete tasks live in ``planish.tasks``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from planish.errors import DataError, TrainingError
from planish.measurement import Metric

if TYPE_CHECKING:
    import torch
    from torch import nn

    from planish.artifact import InputSpec, Outputs, Pixels, Preprocessing
    from planish.data.augmentation.policy import Augmentation
    from planish.data.sources.inventory import Inventory
    from planish.data.sources.source import DataSource
    from planish.measurement import Measurement
    from planish.tasks.base import Asked, Lines
    from planish.tasks.localisation import View

    Augment = Callable[[torch.Tensor, Any, torch.Generator], tuple[torch.Tensor, Any]]

SplitName = Literal["train", "calibration", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "calibration", "validation", "test")
LossKind = Literal["cross_entropy", "focal"]
ClassWeights = Literal["none", "balanced"]
Kind = Literal["classes", "boxes", "masks", "maps"]
"""What images are labelled with: a class each, boxes, boxes with masks, or a class for each pixel."""
USUAL_TASKS: dict[Kind, str] = {"classes": "classification", "boxes": "detection", "masks": "instance", "maps": "semantic"}
"""What images with annotations of a kind are used for where no task is named."""


@dataclass(frozen=True)
class LossSettings:
    """What a training wishes of the loss; the fields are those of ``FitSettings``, where they are explained and checked."""

    kind: LossKind = "cross_entropy"
    focal_gamma: float = 2.0
    class_weights: ClassWeights = "none"
    label_smoothing: float = 0.0


PLAIN_LOSS = LossSettings()


@dataclass(frozen=True)
class AugmentSettings:
    """What a training wishes of augmentation; the fields are those of ``FitSettings``, where they are explained and checked."""

    augmentation: Augmentation = "light"
    flip: bool = True
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mosaic: float = 0.0
    copy_paste: float = 0.0

    def require_only(self, task: str, *usable: str) -> None:
        """Refuse ways of mixing images that a task has no use for, instead of training without them.

        Raises:
            TrainingError: one that is not among ``usable`` is asked for.
        """
        asked = {name: getattr(self, name) for name in ("mixup_alpha", "cutmix_alpha", "mosaic", "copy_paste")}
        if wrong := [f"{name}={value:g}" for name, value in asked.items() if value and name not in usable]:
            raise TrainingError(f"{', '.join(wrong)} for {task}", f"images are mixed there by {' or '.join(usable)}", "set it to 0")


class Split(Protocol):
    """A fixed, ordered list of images with their targets."""

    @property
    def keys(self) -> Sequence[str]:
        """One stable name per image: its path below the data folder."""
        ...

    @property
    def targets(self) -> Any:
        """One target per image, indexable: class numbers int64 ``(N,)``, ``Objects``, label maps, or numbers float32 ``(N, K)``."""
        ...

    def __len__(self) -> int: ...

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Pixels:
        """All images as the model is fed them, uint8 ``(N, H, W, C)``; memory-mapped, so slicing is cheap and the whole need not fit."""
        ...

    def file_bytes(self, index: int) -> bytes:
        """The image file as it lies on disk."""
        ...


class Task(Protocol):
    """Everything that depends on what is learned. Nothing outside ``planish.tasks`` asks which task it is.

    ``planish.tasks.base.BaseTask`` has the members that have a sensible default. Others add tasks through the entry point
    ``planish.tasks``: the name of the task, and its class, which is called with the splits and the class names.

    The four splits are disjoint, except that calibration is part of train. Validation chooses; test is read once, at the end.
    """

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the outputs; a network gets as many outputs."""
        ...

    @property
    def annotations(self) -> Kind | Reader:
        """What its images are labelled with, in the layouts that Planish reads; or a function that reads what a user names as data."""
        ...

    @property
    def primary_metric(self) -> str | Metric:
        """The metric that decides; a name alone where it is in percent and higher is better."""
        ...

    @property
    def recipe(self) -> str:
        """Name of the recipe that a training follows where none is named; empty where that hangs on weights and the number of images."""
        ...

    @property
    def largest_side(self) -> int:
        """Pixels that a model is fed where nobody says how many, at most."""
        ...

    @property
    def whole_image(self) -> bool:
        """Whether places in an image are learned, so that nothing of it may be cut off."""
        ...

    def split(self, name: SplitName) -> Split: ...

    def uncapped(self) -> Task:
        """The task whose metrics count all predictions of an image, however many, as is right for images of any size."""
        ...

    def batch_targets(self, targets: Any, rows: Any, spec: InputSpec) -> Any:
        """The targets of some images of a split as the loss takes them: tensors, or a list of dicts of tensors.

        Args:
            targets: ``Split.targets``.
            rows: numbers of the images, int64 ``(n,)``.
            spec: size of the images that they go with.
        """
        ...

    def augment(self, spec: InputSpec, settings: AugmentSettings) -> Augment:
        """A function from uint8 images ``(N, C, H, W)``, their ``batch_targets`` and a generator to both, changed at random."""
        ...

    def loss(self, network: nn.Module, outputs: Any, targets: Any, settings: LossSettings = PLAIN_LOSS) -> torch.Tensor:
        """Training loss, a scalar, the mean over images.

        Args:
            network: that gave the outputs; detectors know how to read their own.
            outputs: a tensor, or tensors by name.
            targets: as ``batch_targets`` or ``augment`` gives them.
            settings: wishes.
        """
        ...

    def distillation_loss(self, network: nn.Module, outputs: Any, teacher: Any, temperature: float, targets: Any = None) -> torch.Tensor:
        """How far the student's outputs are from the teacher's, a scalar on the scale of ``loss``; decoupled where targets are given."""
        ...

    def decode(self, outputs: Outputs) -> Any:
        """Named model outputs to predictions, one per image."""
        ...

    def guessing(self, targets: Any) -> float:
        """Mean score that is reached without looking at the images."""
        ...

    def scores(self, outputs: Outputs, targets: Any) -> Any:
        """One score per image, float64 ``(N,)``, whose mean is the primary metric in its unit, and 0 to 1 where that is percent.

        Paired comparisons are made of them."""
        ...

    def metrics(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """All metrics with their intervals, the primary one first."""
        ...

    def per_class(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """One number per class, by its name; classes that are not there are left out."""
        ...

    def errors(self, outputs: Outputs, targets: Any, against: Outputs | None = None) -> dict[str, Measurement]:
        """What goes wrong, by kind: ``lost_to_...``, the points that repairing it would bring, ``n`` counts; nothing without kinds.

        Args:
            outputs: of the model.
            targets: of the same images.
            against: what another model says of them: numbers are then how much more is lost than by that one, paired.
        """
        ...

    def draw(self, pixels: Pixels, outputs: Outputs | None, targets: Any) -> Pixels | None:
        """Images with what a model says of them drawn in, or, without outputs, with their targets.

        Args:
            pixels: ``(n, H, W, C)``.
            outputs: of these images; None for the targets.
            targets: of these images.

        Returns:
            uint8 ``(n, h, w, 3)``; None where a word says it all.
        """
        ...

    def responses(self, outputs: Outputs, views: Sequence[View], asked: Asked = ...) -> list[dict[str, Any]]:
        """What a service says of each image, as plain JSON.

        Args:
            outputs: of the model.
            views: where the model's pixels lie in the images that were sent, N.
            asked: of the answer.
        """
        ...

    @property
    def options(self) -> tuple[str, ...]:
        """What a request may ask of an answer: ``why`` of one class with its ``confidence``, ``threshold`` of objects."""
        ...

    def response_classes(self, answer: Mapping[str, Any]) -> list[str]:
        """The classes in an answer, one for each time it is told; a service counts them."""
        ...

    def detected_boxes(self, outputs: Outputs) -> list[list[dict[str, Any]]]:
        """``class``, ``confidence`` and ``shares`` of the objects of each image, for whoever labels it; none where there are no boxes."""
        ...

    def statistics(self, outputs: Outputs) -> list[tuple[dict[str, float], str | None]]:
        """Numbers by name, and one class or None, of each image: what drift is looked for in."""
        ...

    @property
    def readme(self) -> Lines:
        """What a bundle's README says of the task."""
        ...


Reader = Callable[[Path, "Inventory"], "DataSource"]
"""From a path to the images below it with what they are labelled with; it tells the inventory what it uses and leaves out."""
TaskFactory = Callable[[Mapping[SplitName, Split], tuple[str, ...]], Task]


@cache
def installed_tasks() -> dict[str, TaskFactory]:
    """What other packages add through the entry point ``planish.tasks``, by the task's name."""
    return {entry.name: entry.load() for entry in entry_points(group="planish.tasks")}


def annotations_for(task: str) -> Kind | Reader:
    """What images for a task are labelled with, or a function of its own that reads them.

    Raises:
        DataError: there is no such task.
    """
    for kind, usual in USUAL_TASKS.items():
        if task == usual:
            return kind
    installed = installed_tasks()
    if task not in installed:
        names = ", ".join((*USUAL_TASKS.values(), *installed))
        raise DataError(f"there is no task {task!r}", f"tasks are {names}", "install the package that adds it")
    return installed[task]({}, ()).annotations


def one_class_each(targets: Any) -> bool:
    """Whether targets are class numbers, one per image, int ``(N,)``."""
    return getattr(getattr(targets, "dtype", None), "kind", "") in ("i", "u") and targets.ndim == 1


def metric_of(task: Task) -> Metric:
    """The metric that decides, with its unit and direction."""
    return Metric.named(task.primary_metric)

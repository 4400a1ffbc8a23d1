"""The task protocol: splits, targets, loss, metrics and decoding. Concrete tasks are in ``planish.tasks``."""

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
    from planish.tasks.base import ReadmeText, ResponseOptions
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

OUTPUTS = "outputs"
"""The task of any network whose outputs are compared as they are, on images without labels."""


@dataclass(frozen=True)
class LossSettings:
    """Settings of the loss; the fields are those of ``FitSettings``, where they are documented and validated."""

    kind: LossKind = "cross_entropy"
    focal_gamma: float = 2.0
    class_weights: ClassWeights = "none"
    label_smoothing: float = 0.0
    logit_adjustment: float | None = None


PLAIN_LOSS = LossSettings()


@dataclass(frozen=True)
class AugmentSettings:
    """Settings of augmentation; the fields are those of ``FitSettings``, where they are documented and validated."""

    augmentation: Augmentation = "light"
    flip: bool = True
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mosaic: float = 0.0
    copy_paste: float = 0.0

    def require_only(self, task: str, *usable: str) -> None:
        """Reject augmentations that mix images and that the task does not support, instead of silently ignoring them.

        Args:
            task: name of the task, for the message.
            usable: names of the supported settings, for example ``mosaic``.

        Raises:
            TrainingError: a setting that is not in ``usable`` is not 0.
        """
        asked = {name: getattr(self, name) for name in ("mixup_alpha", "cutmix_alpha", "mosaic", "copy_paste")}
        if wrong := [f"{name}={value:g}" for name, value in asked.items() if value and name not in usable]:
            raise TrainingError(f"{', '.join(wrong)} for {task}", f"images are mixed there by {' or '.join(usable)}", "set it to 0")


class Split(Protocol):
    """A fixed, ordered list of images with their targets."""

    @property
    def keys(self) -> Sequence[str]:
        """One stable name per image: its path relative to the data folder."""
        ...

    @property
    def targets(self) -> Any:
        """One target per image, indexable: class indices int64 ``(N,)``, ``Objects``, label maps, or numbers float32 ``(N, K)``."""
        ...

    def __len__(self) -> int: ...

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Pixels:
        """Return all images as model input, uint8 ``(N, H, W, C)``; memory-mapped, so slicing is cheap and they need not fit in memory."""
        ...

    def file_bytes(self, index: int) -> bytes:
        """Return the content of the image file."""
        ...


class Task(Protocol):
    """Everything that differs between tasks; code outside ``planish.tasks`` does not depend on a specific task.

    ``planish.tasks.base.BaseTask`` implements the members that have a sensible default. Other packages add tasks through the entry point
    ``planish.tasks``: the name of the task, and its class, which is called with the splits and the class names.

    The four splits are disjoint, except that calibration is part of train. All choices are made on validation; test is read once, at the
    end.
    """

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the outputs; a network has one output per name."""
        ...

    @property
    def annotations(self) -> Kind | Reader:
        """Kind of annotation, in one of the layouts that Planish reads; or a function that reads the user's data."""
        ...

    @property
    def primary_metric(self) -> str | Metric:
        """The metric that candidates are compared by; a name is enough if it is in percent and higher is better."""
        ...

    def with_metric(self, name: str) -> Task:
        """Return the task with another primary metric, to which scores, guessing and all comparisons then refer.

        Args:
            name: as the user writes it: ``macro_f1``, ``map50``, ``recall:hat``.

        Raises:
            GoalError: the task has no such metric, or there is no such class.
        """
        ...

    @property
    def recipe(self) -> str:
        """Name of the default training recipe; empty if the default depends on the weights and the number of images."""
        ...

    @property
    def largest_side(self) -> int:
        """Maximum of the default input size, in pixels."""
        ...

    @property
    def whole_image(self) -> bool:
        """Whether the task is a localisation task, for which images must not be cropped."""
        ...

    def split(self, name: SplitName) -> Split: ...

    def uncapped(self) -> Task:
        """Return the task with metrics that count all predictions of an image without a limit, as is right for large images."""
        ...

    def batch_targets(self, targets: Any, rows: Any, spec: InputSpec) -> Any:
        """Return the targets of a batch in the form that the loss expects: tensors, or a list of dicts of tensors.

        Args:
            targets: ``Split.targets``.
            rows: indices of the images, int64 ``(n,)``.
            spec: size of the images in the batch.
        """
        ...

    def augment(self, spec: InputSpec, settings: AugmentSettings) -> Augment:
        """Return a function that takes uint8 images ``(N, C, H, W)``, their ``batch_targets`` and a generator, and augments both."""
        ...

    def loss(self, network: nn.Module, outputs: Any, targets: Any, settings: LossSettings = PLAIN_LOSS) -> torch.Tensor:
        """Compute the training loss, a scalar: the mean over images.

        Args:
            network: the network that gave the outputs; detectors need it to interpret them.
            outputs: a tensor, or tensors by name.
            targets: targets from ``batch_targets`` or ``augment``.
            settings: settings of the loss.
        """
        ...

    def distillation_loss(self, network: nn.Module, outputs: Any, teacher: Any, temperature: float, targets: Any = None) -> torch.Tensor:
        """Compute the distance of the student's outputs from the teacher's, a scalar on the scale of ``loss``.

        If targets are given, a task that supports it uses decoupled distillation.
        """
        ...

    def decode(self, outputs: Outputs) -> Any:
        """Convert model outputs to predictions, one per image."""
        ...

    def answers(self, outputs: Outputs, spec: InputSpec) -> Any:
        """Return outputs as targets, one per image: those of the original take the place of labels on images without any.

        Args:
            outputs: outputs of the original.
            spec: size of its input.

        Raises:
            GoalError: the task has no such targets.
        """
        ...

    def guessing(self, targets: Any) -> float:
        """Return the mean score of a model that guesses without using the images.

        Raises:
            DataError: the primary metric is not defined on these targets.
        """
        ...

    def scores(self, outputs: Outputs, targets: Any) -> Any:
        """Return one score per image, float64 ``(N,)``, for paired comparisons.

        Their mean is the primary metric, in its unit, or on the 0..1 scale if the metric is in percent.
        """
        ...

    def effective_images(self, targets: Any) -> float | None:
        """Return the number of images that the primary metric rests on, if it is computed from counts of images of some classes.

        A paired difference is at least as uncertain as if one of these images was won and another one lost; None sets no such limit.
        """
        ...

    def metrics(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Return all metrics with their intervals, the primary one first."""
        ...

    def per_class(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Return one measurement per class, by name; classes that do not occur are omitted."""
        ...

    def errors(self, outputs: Outputs, targets: Any, against: Outputs | None = None) -> dict[str, Measurement]:
        """Return the cost of each kind of error, ``lost_to_...``: the points that fixing all errors of that kind would gain.

        ``n`` is the number of errors. Empty for tasks that do not distinguish kinds of errors.

        Args:
            outputs: outputs of the model.
            targets: targets of the same images.
            against: outputs of another model on the same images; the measurements are then paired differences: how many more points are
                lost than by that model.
        """
        ...

    def draw(self, pixels: Pixels, outputs: Outputs | None, targets: Any) -> Pixels | None:
        """Draw the model's predictions into the images, or the targets if there are no outputs.

        Args:
            pixels: images ``(n, H, W, C)``.
            outputs: outputs for these images; None to draw the targets.
            targets: targets of these images.

        Returns:
            uint8 ``(n, h, w, 3)``; None for tasks with nothing to draw.
        """
        ...

    def responses(self, outputs: Outputs, views: Sequence[View], asked: ResponseOptions = ...) -> list[dict[str, Any]]:
        """Return the JSON response of a service for each image.

        Args:
            outputs: outputs of the model.
            views: for each of the N images, which part of the image that was sent the model received.
            asked: options of the request.
        """
        ...

    @property
    def options(self) -> tuple[str, ...]:
        """Options that a request may set: ``why`` (explain the predicted class), ``threshold`` (minimum score of objects)."""
        ...

    def response_classes(self, answer: Mapping[str, Any]) -> list[str]:
        """Return the classes in a response, once per occurrence; a service counts them."""
        ...

    def detected_boxes(self, outputs: Outputs) -> list[list[dict[str, Any]]]:
        """Return ``class``, ``confidence`` and ``shares`` (the normalized box) of each object, by image, to pre-label images.

        Empty lists for tasks without boxes.
        """
        ...

    def statistics(self, outputs: Outputs) -> list[tuple[dict[str, float], str | None]]:
        """Return, for each image, the statistics that drift detection monitors: numbers by name, and one class or None."""
        ...

    @property
    def readme(self) -> ReadmeText:
        """Texts about the task for the README of a bundle."""
        ...


Reader = Callable[[Path, "Inventory"], "DataSource"]
"""From a path to the images below it with what they are labelled with; it tells the inventory what it uses and leaves out."""
TaskFactory = Callable[[Mapping[SplitName, Split], tuple[str, ...]], Task]


@cache
def installed_tasks() -> dict[str, TaskFactory]:
    """Return the tasks that other packages add through the entry point ``planish.tasks``, by name."""
    return {entry.name: entry.load() for entry in entry_points(group="planish.tasks")}


def annotations_for(task: str) -> Kind | Reader:
    """Return the kind of annotation of a task, or the task's own function that reads its data.

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
    """Whether targets are class indices, one per image, int ``(N,)``."""
    return getattr(getattr(targets, "dtype", None), "kind", "") in ("i", "u") and targets.ndim == 1


def metric_of(task: Task) -> Metric:
    """Return the primary metric of a task, with its unit and direction."""
    return Metric.named(task.primary_metric)

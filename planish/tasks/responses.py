"""What a service says of an image: a task's outputs as plain JSON, by the task's name, as a bundle has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from planish.errors import BundleError
from planish.task import Task
from planish.tasks.base import PLAIN, Asked
from planish.tasks.registry import registered

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.tasks.localisation import View

__all__ = ["PLAIN", "Asked", "detected_boxes", "options", "response_classes", "responses"]


def responses(task: str, outputs: Outputs, class_names: Sequence[str], views: Sequence[View], asked: Asked = PLAIN) -> list[dict[str, Any]]:
    """One object an image.

    Classification: ``{"class", "confidence", "classes": [{"name", "confidence"}, ...]}``. The others: ``height`` and ``width`` of the
    image in pixels, and for detection and instances ``objects``: ``[{"class", "confidence", "box", "shares"}, ...]``, boxes as left, top,
    right and bottom, in pixels and normalized to the image's sides, instances with a ``mask``, too; for semantic segmentation the mean
    ``confidence`` and ``regions``: ``[{"class", "share", "confidence", "mask"}, ...]``, the largest first. Masks are in COCO's compressed
    run lengths, of the image's size. Other tasks define their own.

    Args:
        task: its name, as in a bundle.
        outputs: of the model, by name, first axis N.
        class_names: in the order of the outputs.
        views: where the model's pixels lie in the images that were sent, N.
        asked: of the answer.

    Raises:
        BundleError: there is no such task here.
    """
    return _named(task, class_names).responses(outputs, views, asked)


def response_classes(task: str, answer: Mapping[str, Any]) -> list[str]:
    """The names of the classes in an answer, one for each time it is told."""
    return _named(task).response_classes(answer)


def detected_boxes(task: str, outputs: Outputs, class_names: Sequence[str]) -> list[list[dict[str, Any]]]:
    """What a person who labels an image may begin with: ``class``, ``confidence`` and ``shares`` of each object of each image; none where
    the task has no boxes."""
    return _named(task, class_names).detected_boxes(outputs)


def options(task: str) -> tuple[str, ...]:
    """What a request may ask for: ``why`` where an image has one class, so that it can be said which pixels mattered for it; ``threshold``
    where objects have a score."""
    return _named(task).options


def _named(task: str, class_names: Sequence[str] = ()) -> Task:
    kinds = registered()
    if task not in kinds:
        raise BundleError(
            f"the bundle is for the task {task!r}",
            f"answers are known for {', '.join(kinds)}",
            "update Planish, or install the package that adds the task",
        )
    return kinds[task]({}, tuple(class_names))

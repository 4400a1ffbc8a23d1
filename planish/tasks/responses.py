"""Predictions as plain JSON, by the name of the task as in a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from planish.errors import BundleError
from planish.task import Task
from planish.tasks.base import PLAIN, ResponseOptions
from planish.tasks.registry import registered

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.tasks.localisation import View

__all__ = ["PLAIN", "ResponseOptions", "detected_boxes", "options", "response_classes", "responses"]


def responses(
    task: str, outputs: Outputs, class_names: Sequence[str], views: Sequence[View], asked: ResponseOptions = PLAIN
) -> list[dict[str, Any]]:
    """Return one JSON object per image.

    Classification: ``{"class", "confidence", "classes": [{"name", "confidence"}, ...]}``. The other tasks: ``height`` and ``width`` of the
    image in pixels. Detection and instance segmentation add ``objects``: ``[{"class", "confidence", "box", "shares"}, ...]``. Boxes are
    left,
    top, right and bottom, ``box`` in pixels and ``shares`` normalized to the image's sides; instances also have a ``mask``. Semantic
    segmentation adds the mean ``confidence`` and ``regions``: ``[{"class", "share", "confidence", "mask"}, ...]``, the largest first.
    Masks are
    in COCO's compressed run-length encoding, at the size of the image. Tasks of other packages define their own responses.

    Args:
        task: name of the task, as in a bundle.
        outputs: outputs of the model by name, first axis N.
        class_names: in the order of the outputs.
        views: N views, which map the model's input to the images that were sent.
        asked: options of the request.

    Raises:
        BundleError: the task is not registered.
    """
    return _named(task, class_names).responses(outputs, views, asked)


def response_classes(task: str, answer: Mapping[str, Any]) -> list[str]:
    """Return the class names in a response, once for each time they occur."""
    return _named(task).response_classes(answer)


def detected_boxes(task: str, outputs: Outputs, class_names: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return pre-annotations for labelling: ``class``, ``confidence`` and ``shares`` of each object of each image; none without boxes."""
    return _named(task, class_names).detected_boxes(outputs)


def options(task: str) -> tuple[str, ...]:
    """Return the options that a request may set.

    ``why`` if an image has one class, to show which pixels mattered for it; ``threshold`` if objects have a score.
    """
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

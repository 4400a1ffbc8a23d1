"""What a service says of an image: a task's outputs as plain JSON. All that it must know of the task is asked here, by the task's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.errors import BundleError
from planish.evaluation.drawing import LEAST_SCORE
from planish.evaluation.metrics.classification import probabilities
from planish.tasks.localisation import View, objects, regions

if TYPE_CHECKING:
    from planish.artifact import Outputs


@dataclass(frozen=True)
class Asked:
    """What a request may ask of an answer.

    Args:
        top: at most that many classes of an image, the surest first.
        threshold: objects that are less sure are not told.
    """

    top: int = 5
    threshold: float = LEAST_SCORE


PLAIN = Asked()


def answers(task: str, outputs: Outputs, class_names: Sequence[str], views: Sequence[View], asked: Asked = PLAIN) -> list[dict[str, Any]]:
    """One object an image.

    Classification: ``{"class", "confidence", "classes": [{"name", "confidence"}, ...]}``. The others: ``height`` and ``width`` of the
    image in pixels, and for detection and instances ``objects``: ``[{"class", "confidence", "box", "shares"}, ...]``, boxes as left, top,
    right and bottom, in pixels and normalized to the image's sides, instances with a ``mask``, too; for semantic segmentation the mean
    ``confidence`` and ``regions``: ``[{"class", "share", "confidence", "mask"}, ...]``, the largest first. Masks are in COCO's compressed
    run lengths, of the image's size.

    Args:
        task: its name, as in a bundle.
        outputs: of the model, by name, first axis N.
        class_names: in the order of the outputs.
        views: where the model's pixels lie in the images that were sent, N.
        asked: of the answer.

    Raises:
        BundleError: nothing is known of such a task here.
    """
    return _voice(task).say(outputs, class_names, views, asked)


def classes_told(task: str, answer: dict[str, Any]) -> list[str]:
    """The names of the classes in an answer, one for each time it is told."""
    return _voice(task).told(answer)


def boxes_told(task: str, outputs: Outputs, class_names: Sequence[str]) -> list[list[dict[str, Any]]]:
    """What a person who labels an image may begin with: ``class``, ``confidence`` and ``shares`` of each object of each image; none where
    the task has no boxes."""
    if not _voice(task).boxes:
        return [[] for _ in next(iter(outputs.values()))]
    plain = {name: values for name, values in outputs.items() if name != "masks"}
    views = [View(1, 1)] * len(next(iter(plain.values())))
    found = _objects(plain, class_names, views, PLAIN)
    return [[{name: one[name] for name in ("class", "confidence", "shares")} for one in answer["objects"]] for answer in found]


def options(task: str) -> tuple[str, ...]:
    """What a request may ask for: ``why`` where an image has one class, so that it can be said which pixels mattered for it; ``threshold``
    where things are told that are more or less sure."""
    return _voice(task).options


@dataclass(frozen=True)
class _Voice:
    say: Callable[[Outputs, Sequence[str], Sequence[View], Asked], list[dict[str, Any]]]
    told: Callable[[dict[str, Any]], list[str]]
    options: tuple[str, ...]
    boxes: bool = False


def _classes(outputs: Outputs, class_names: Sequence[str], views: Sequence[View], asked: Asked) -> list[dict[str, Any]]:
    found = []
    for row in probabilities(outputs["logits"]):
        surest = [{"name": class_names[i], "confidence": float(row[i])} for i in np.argsort(-row, kind="stable")[: asked.top]]
        found.append({"class": surest[0]["name"], "confidence": surest[0]["confidence"], "classes": surest})
    return found


def _objects(outputs: Outputs, class_names: Sequence[str], views: Sequence[View], asked: Asked) -> list[dict[str, Any]]:
    return [
        {"height": view.height, "width": view.width, "objects": objects(image, class_names, view, asked.threshold)}
        for image, view in zip(_images(outputs), views, strict=True)
    ]


def _regions(outputs: Outputs, class_names: Sequence[str], views: Sequence[View], asked: Asked) -> list[dict[str, Any]]:
    return [
        {
            "height": view.height,
            "width": view.width,
            "confidence": float(image["confidence"].mean()),
            "regions": regions(image, class_names, view),
        }
        for image, view in zip(_images(outputs), views, strict=True)
    ]


def _images(outputs: Outputs) -> list[dict[str, Any]]:
    return [{name: values[i] for name, values in outputs.items()} for i in range(len(next(iter(outputs.values()))))]


def _voice(task: str) -> _Voice:
    if task not in _VOICES:
        raise BundleError(f"the bundle is for the task {task!r}", f"answers are known for {', '.join(_VOICES)}", "update Planish")
    return _VOICES[task]


_OBJECTS = _Voice(_objects, lambda answer: [one["class"] for one in answer["objects"]], ("threshold",), boxes=True)
_VOICES = {
    "classification": _Voice(_classes, lambda answer: [answer["class"]], ("why",)),
    "detection": _OBJECTS,
    "instance": _OBJECTS,
    "semantic": _Voice(_regions, lambda answer: [one["class"] for one in answer["regions"]], ()),
}

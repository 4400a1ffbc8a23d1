"""Base class with defaults for tasks; ``planish.task.Task`` is the protocol that a task must implement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from planish.errors import GoalError
from planish.evaluation.drawing import LEAST_SCORE

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Outputs, Pixels
    from planish.measurement import Measurement
    from planish.task import Split, SplitName
    from planish.tasks.localisation import View


@dataclass(frozen=True)
class ResponseOptions:
    """Options of a request.

    Args:
        top: maximum number of classes of an image, the most likely first.
        threshold: objects with a lower score are left out.
    """

    top: int = 5
    threshold: float = LEAST_SCORE


PLAIN = ResponseOptions()


@dataclass(frozen=True)
class ReadmeText:
    """Text for a bundle's README that depends on the task.

    Args:
        what: kind of model, as in "A ... with N classes".
        printed: line of Python that prints the prediction, given ``y``, the image's outputs by name, and ``b``, the contents of
            ``bundle.json``.
        output: name of the only output that the line uses, as a variable of its own; empty if it uses several.
    """

    what: str
    printed: str
    output: str = ""


@dataclass(frozen=True)
class BaseTask:
    """Task members that have a sensible default.

    Args:
        splits: the four splits; empty for a task that only reads outputs, as in a service.
        class_names: in the order of the outputs.
    """

    splits: Mapping[SplitName, Split]
    class_names: tuple[str, ...]

    @property
    def recipe(self) -> str:
        """Name of the task's own recipe; none by default."""
        return ""

    @property
    def whole_image(self) -> bool:
        return False

    @property
    def options(self) -> tuple[str, ...]:
        """Options that a request may set; none by default."""
        return ()

    @property
    def readme(self) -> ReadmeText:
        return ReadmeText("model", "print({name: values.shape for name, values in y.items()})")

    def split(self, name: SplitName) -> Split:
        return self.splits[name]

    def uncapped(self) -> Self:
        return self

    def with_metric(self, name: str) -> Self:
        """Refuse another metric; a task with several of them overrides this."""
        raise GoalError(f"--metric {name}", "this task has a single metric, which is always used", "omit it")

    def answers(self, outputs: Outputs, spec: InputSpec) -> Any:
        """Refuse images without labels; a task whose outputs can take the place of labels overrides this."""
        raise GoalError(f"images without labels for {type(self).__name__}", "its targets are not made from outputs", "label them")

    def effective_images(self, targets: Any) -> float | None:
        """Return None: the uncertainty is that of the scores."""
        return None

    def per_class(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Return the metric of each class; none by default."""
        return {}

    def errors(self, outputs: Outputs, targets: Any, against: Outputs | None = None) -> dict[str, Measurement]:
        """Return the kinds of errors; none by default."""
        return {}

    def draw(self, pixels: Pixels, outputs: Outputs | None, targets: Any) -> Pixels | None:
        """Draw predictions or targets on the images; not supported by default."""
        return None

    def responses(self, outputs: Outputs, views: Sequence[View], asked: ResponseOptions = PLAIN) -> list[dict[str, Any]]:
        """Return the outputs of each image by name."""
        return [{name: values[i].tolist() for name, values in outputs.items()} for i in range(len(views))]

    def response_classes(self, answer: Mapping[str, Any]) -> list[str]:
        """Return the class names in a response; none by default."""
        return []

    def detected_boxes(self, outputs: Outputs) -> list[list[dict[str, Any]]]:
        """Return the boxes of each image; none by default."""
        return [[] for _ in next(iter(outputs.values()))]

    def statistics(self, outputs: Outputs) -> list[tuple[dict[str, float], str | None]]:
        """Return the values of each image that are monitored for drift, and its class; none by default."""
        return [({}, None) for _ in next(iter(outputs.values()))]


def images_of(outputs: Outputs) -> list[dict[str, Any]]:
    """Split batched outputs into the outputs of each image, by name."""
    return [{name: values[i] for name, values in outputs.items()} for i in range(len(next(iter(outputs.values()))))]

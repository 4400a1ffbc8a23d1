"""What most tasks have in common, to inherit from; ``planish.task.Task`` is what a task must have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from planish.evaluation.drawing import LEAST_SCORE

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels
    from planish.measurement import Measurement
    from planish.task import Split, SplitName
    from planish.tasks.localisation import View


@dataclass(frozen=True)
class Asked:
    """What a request may ask of an answer.

    Args:
        top: at most that many classes of an image, the most likely first.
        threshold: objects with a lower score are left out.
    """

    top: int = 5
    threshold: float = LEAST_SCORE


PLAIN = Asked()


@dataclass(frozen=True)
class Lines:
    """What a bundle's README says of its task.

    Args:
        what: "A ... of so many classes".
        printed: a line that prints what was found, from ``y``, the image's outputs by name, and ``b``, what ``bundle.json`` holds.
        output: the one output that the line reads, by its own name; empty where it reads several.
    """

    what: str
    printed: str
    output: str = ""


@dataclass(frozen=True)
class BaseTask:
    """The members of a task that have a sensible default.

    Args:
        splits: the four splits; empty for a task that only reads outputs, as a service does.
        class_names: in the order of the outputs.
    """

    splits: Mapping[SplitName, Split]
    class_names: tuple[str, ...]

    @property
    def recipe(self) -> str:
        """None of its own."""
        return ""

    @property
    def whole_image(self) -> bool:
        return False

    @property
    def options(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def readme(self) -> Lines:
        return Lines("model", "print({name: values.shape for name, values in y.items()})")

    def split(self, name: SplitName) -> Split:
        return self.splits[name]

    def uncapped(self) -> Self:
        return self

    def per_class(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Nothing."""
        return {}

    def errors(self, outputs: Outputs, targets: Any, against: Outputs | None = None) -> dict[str, Measurement]:
        """No kinds of errors."""
        return {}

    def draw(self, pixels: Pixels, outputs: Outputs | None, targets: Any) -> Pixels | None:
        """Nothing is drawn."""
        return None

    def responses(self, outputs: Outputs, views: Sequence[View], asked: Asked = PLAIN) -> list[dict[str, Any]]:
        """The outputs by name."""
        return [{name: values[i].tolist() for name, values in outputs.items()} for i in range(len(views))]

    def response_classes(self, answer: Mapping[str, Any]) -> list[str]:
        """None."""
        return []

    def detected_boxes(self, outputs: Outputs) -> list[list[dict[str, Any]]]:
        """None."""
        return [[] for _ in next(iter(outputs.values()))]

    def statistics(self, outputs: Outputs) -> list[tuple[dict[str, float], str | None]]:
        """None."""
        return [({}, None) for _ in next(iter(outputs.values()))]


def images_of(outputs: Outputs) -> list[dict[str, Any]]:
    """The outputs of each image, by name."""
    return [{name: values[i] for name, values in outputs.items()} for i in range(len(next(iter(outputs.values()))))]

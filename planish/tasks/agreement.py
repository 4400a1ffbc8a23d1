"""Classification of images without labels, judged by the answers of the original network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from planish.errors import GoalError
from planish.evaluation.metrics.classification import checked, percent, share
from planish.evaluation.metrics.image_scores import guessing_score, image_scores
from planish.tasks.classification import Classification

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.measurement import Measurement

AGREEMENT = "agreement"
"""Share of the images, in percent, that get the same answer as from the original: the class with the highest logit."""


@dataclass(frozen=True)
class Agreement(Classification):
    """Classification whose targets are the answers of the original network; its metric is the agreement with them.

    Args:
        splits: the four splits; targets are the original's answers, int64 ``(N,)``.
        class_names: in the order of the logits.
    """

    metric: str = AGREEMENT

    def with_metric(self, name: str) -> Agreement:
        """Refuse other metrics, which need labels."""
        raise GoalError(f"--metric {name} for images without labels", "what is measured there is agreement with the original", "omit it")

    def guessing(self, targets: Any) -> float:
        """Return the agreement of a model that always gives the most frequent answer."""
        return guessing_score("accuracy", targets, self.class_names)

    def scores(self, outputs: Outputs, targets: Any) -> Any:
        """Return 1.0 where the answer is that of the original, else 0.0."""
        return image_scores("accuracy", outputs["logits"], targets, self.class_names)

    def metrics(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Return the agreement alone: other metrics of classification would be of labels."""
        logits, answers = checked(outputs["logits"], targets, len(self.class_names))
        return {AGREEMENT: percent(AGREEMENT, len(answers), share(logits.argmax(axis=1) == answers))}

    def per_class(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Return the agreement on the images of each answer of the original."""
        return {name: replace(measured, name=AGREEMENT) for name, measured in super().per_class(outputs, targets).items()}

"""Single-label image classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planish.data.class_balance import ADJUSTED_METRIC, UNBALANCED, class_ratio
from planish.evaluation.metrics.classification import classification_metrics, per_class_accuracy, probabilities
from planish.evaluation.metrics.image_scores import OF_CLASS, class_metric, effective_images, guessing_score, image_scores
from planish.measurement import Metric
from planish.task import PLAIN_LOSS, AugmentSettings
from planish.tasks.base import PLAIN, BaseTask, ReadmeText, ResponseOptions
from planish.tasks.metric_names import parse_metric

if TYPE_CHECKING:
    import torch
    from torch import nn

    from planish.artifact import InputSpec, Outputs
    from planish.measurement import Measurement
    from planish.task import Augment, Kind, LossSettings
    from planish.tasks.localisation import View

AUXILIARY_WEIGHT = 0.3
_METRICS = {name: name for name in ("accuracy", "balanced_accuracy", "log_loss")} | {"macro_f1": "f1_macro", "auroc": "auroc_macro"}


@dataclass(frozen=True)
class Classification(BaseTask):
    """One class per image. Models return logits ``(N, classes)``, exported files name them ``logits``.

    Args:
        splits: the four splits; targets are int64 ``(N,)``.
        class_names: in the order of the logits.
        metric: name of the primary metric, see ``image_scores``.
    """

    name: str = "classification"
    recipe: str = ""
    largest_side: int = 224
    whole_image: bool = False
    metric: str = "accuracy"

    @property
    def primary_metric(self) -> str | Metric:
        return Metric(self.metric, "nats", higher_is_better=False) if self.metric == "log_loss" else self.metric

    def with_metric(self, name: str) -> Classification:
        return replace(self, metric=parse_metric(name, self.name, _METRICS, OF_CLASS, self.class_names))

    @property
    def annotations(self) -> Kind:
        return "classes"

    @property
    def options(self) -> tuple[str, ...]:
        return ("why",)

    @property
    def readme(self) -> ReadmeText:
        return ReadmeText("classifier", 'print(b["class_names"][int(logits[0].argmax())])', "logits")

    def batch_targets(self, targets: Any, rows: Any, spec: InputSpec) -> torch.Tensor:
        """Return class indices, int64 ``(n,)``."""
        import torch  # slow to import, and not needed by a service that only formats responses

        return torch.as_tensor(np.asarray(targets)[rows])

    def answers(self, outputs: Outputs, spec: InputSpec) -> Any:
        """Return the class with the highest logit, int64 ``(N,)``."""
        return outputs["logits"].argmax(axis=1).astype(np.int64)

    def augment(self, spec: InputSpec, settings: AugmentSettings) -> Augment:
        """Return the augmentation, see ``augmentation.policy``.

        Mixup and CutMix give float images and targets of probabilities ``(N, classes)``.
        """
        from planish.data.augmentation.policy import augment, mixup_cutmix

        settings.require_only(self.name, "mixup_alpha", "cutmix_alpha")
        change = augment(spec, settings.augmentation, settings.flip)
        mix = None
        if settings.mixup_alpha or settings.cutmix_alpha:
            mix = mixup_cutmix(len(self.class_names), settings.mixup_alpha, settings.cutmix_alpha)

        def apply(images: torch.Tensor, targets: Any, generator: torch.Generator) -> tuple[torch.Tensor, Any]:
            images = change(images, generator)
            return (images, targets) if mix is None else mix(images.float(), targets, generator)

        return apply

    def loss(self, network: nn.Module, outputs: Any, targets: torch.Tensor, settings: LossSettings = PLAIN_LOSS) -> torch.Tensor:
        """Return the cross-entropy or focal loss.

        The focal loss multiplies the term of each class by ``(1 - p)^gamma``, which gives low weight to examples that are already
        classified well.

        ``targets`` are class indices ``(N,)`` or probabilities ``(N, classes)``; one-hot probabilities give the same loss as indices.
        Class weights multiply the term of each class as well, and the sum is divided by the number of images, not by their total weight
        as in ``torch.nn.functional.cross_entropy``: balanced weights average 1 over the training images, so a batch estimates their mean
        loss.

        Logit adjustment adds the logarithm of each class's share of the training images to its logit, times its strength; None for 1 if
        classes are unbalanced and the primary metric is balanced accuracy, else for 0 (Menon et al. 2021, arXiv:2007.07314).

        If the network returns several outputs in training, the loss of each auxiliary classifier is added with weight 0.3 (Szegedy et
        al. 2014, arXiv:1409.4842).

        T.-Y. Lin et al., Focal loss for dense object detection, 2017 (arXiv:1708.02002).
        """
        from planish.models.outputs import logits_and_auxiliary

        logits, auxiliary = logits_and_auxiliary(outputs, len(self.class_names))
        loss = self._cross_entropy(logits, targets, settings)
        for other in auxiliary:
            loss = loss + AUXILIARY_WEIGHT * self._cross_entropy(other, targets, settings)
        return loss

    def _cross_entropy(self, outputs: torch.Tensor, targets: torch.Tensor, settings: LossSettings) -> torch.Tensor:
        import torch
        import torch.nn.functional as F

        if strength := self._usual_adjustment if settings.logit_adjustment is None else settings.logit_adjustment:
            outputs = outputs + strength * torch.as_tensor(self._log_shares, dtype=outputs.dtype, device=outputs.device)
        if settings.kind == "cross_entropy" and settings.class_weights == "none":
            return F.cross_entropy(outputs, targets, label_smoothing=settings.label_smoothing)
        classes = outputs.shape[1]
        parts = F.one_hot(targets, classes).to(outputs.dtype) if targets.ndim == 1 else targets
        parts = (1 - settings.label_smoothing) * parts + settings.label_smoothing / classes
        log = F.log_softmax(outputs, dim=1)
        if settings.class_weights == "balanced":
            parts = parts * torch.as_tensor(self._balanced_weights, dtype=log.dtype, device=log.device)
        if settings.kind == "focal":
            missing = -torch.expm1(log)  # 1 - p, exact where p is nearly 1; at 0 its power has no gradient
            parts = parts * missing.clamp_min(torch.finfo(log.dtype).tiny) ** settings.focal_gamma
        return -(parts * log).sum(1).mean()

    def distillation_loss(
        self, network: nn.Module, outputs: Any, teacher: torch.Tensor, temperature: float, targets: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the KL divergence of the softened distributions, averaged over images, times T² (Hinton et al. 2015, arXiv:1503.02531).

        With targets it is decoupled knowledge distillation (Zhao et al. 2022, arXiv:2203.08679). The KL divergence is the sum of the
        divergence between target class and all others, and the divergence among the other classes times the teacher's probability of
        them. Here this factor is 1, so that a confident teacher still conveys which classes the image resembles.
        """
        import torch
        import torch.nn.functional as F

        from planish.models.outputs import logits_and_auxiliary

        outputs, _ = logits_and_auxiliary(outputs, teacher.shape[1])
        student_log = F.log_softmax(outputs / temperature, dim=1)
        teacher_log = F.log_softmax(teacher / temperature, dim=1)
        if targets is None:
            return F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * temperature**2
        right = F.one_hot(targets, outputs.shape[1]).bool()
        binary = [torch.stack([log[right], log.masked_fill(right, -torch.inf).logsumexp(1)], 1) for log in (student_log, teacher_log)]
        others = [F.log_softmax(log[~right].view(len(log), -1), dim=1) for log in (student_log, teacher_log)]
        divergences = [F.kl_div(ours, theirs, reduction="batchmean", log_target=True) for ours, theirs in (binary, others)]
        return torch.stack(divergences).sum() * temperature**2

    def decode(self, outputs: Outputs) -> Any:
        """Return the most likely class, int64 ``(N,)``."""
        return np.argmax(outputs["logits"], axis=1)

    def guessing(self, targets: Any) -> float:
        """Return the score of drawing classes by their frequency, or of always predicting one; see ``guessing_score``."""
        return guessing_score(self.metric, targets, self.class_names)

    def effective_images(self, targets: Any) -> float | None:
        return effective_images(self.metric, targets, self.class_names)

    def scores(self, outputs: Outputs, targets: Any) -> Any:
        """Return 1.0 where the top class is right, else 0.0, for accuracy; for other metrics see ``image_scores``."""
        return image_scores(self.metric, outputs["logits"], targets, self.class_names)

    def metrics(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        found = classification_metrics(outputs["logits"], np.asarray(targets), self.class_names)
        first = found.get(self.metric) or class_metric(self.metric, outputs["logits"], targets, self.class_names)
        return {self.metric: first} | found

    def per_class(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Return the accuracy of each class that has images."""
        found = per_class_accuracy(outputs["logits"], np.asarray(targets), self.class_names)
        return {name: measured for name, measured in found.items() if measured.n}

    def responses(self, outputs: Outputs, views: Sequence[View], asked: ResponseOptions = PLAIN) -> list[dict[str, Any]]:
        """Return ``class``, ``confidence``, and ``classes``: ``name`` and ``confidence`` of the most likely ones."""
        found = []
        for row in probabilities(outputs["logits"]):
            surest = [{"name": self.class_names[i], "confidence": float(row[i])} for i in np.argsort(-row, kind="stable")[: asked.top]]
            found.append({"class": surest[0]["name"], "confidence": surest[0]["confidence"], "classes": surest})
        return found

    def response_classes(self, answer: Mapping[str, Any]) -> list[str]:
        return [answer["class"]]

    def statistics(self, outputs: Outputs) -> list[tuple[dict[str, float], str | None]]:
        """Return ``confidence``, ``entropy``, ``energy``, and the class; see ``drift_statistics``."""
        logits = outputs["logits"].astype(np.float64)
        p = probabilities(logits)
        confidence = p.max(axis=1)
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
        energy = logits.max(axis=1) - np.log(confidence)
        values = zip(confidence.tolist(), entropy.tolist(), energy.tolist(), logits.argmax(axis=1), strict=True)
        return [({"confidence": c, "entropy": h, "energy": e}, self.class_names[int(top)]) for c, h, e, top in values]

    @cached_property
    def _usual_adjustment(self) -> float:
        """The strength of logit adjustment if none is set."""
        return float(self.metric == ADJUSTED_METRIC and "train" in self.splits and class_ratio(self._counts) >= UNBALANCED)

    @cached_property
    def _counts(self) -> npt.NDArray[np.int64]:
        """The number of training images of each class, ``(classes,)``."""
        return np.bincount(self.splits["train"].targets, minlength=len(self.class_names))

    @cached_property
    def _log_shares(self) -> npt.NDArray[np.float64]:
        """The logarithm of each class's share of the training images, ``(classes,)``; a class without images counts as having one."""
        counts = np.maximum(self._counts, 1)
        return np.asarray(np.log(counts / counts.sum()))

    @cached_property
    def _balanced_weights(self) -> npt.NDArray[np.float64]:
        """``n / (classes * count)`` over the training images, ``(classes,)``, as in scikit-learn; 1 for a class without images."""
        counts = self._counts
        return np.where(counts > 0, counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), 1.0)

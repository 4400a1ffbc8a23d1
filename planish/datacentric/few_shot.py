"""Few-shot evaluation of a frozen network's features: a linear classifier, trained on a few images per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn

from planish.data import require_classes
from planish.errors import DataError, GoalError
from planish.evaluation.metrics.classification import percent
from planish.evaluation.statistics.intervals import Floats, mean_over_seeds, over_seeds
from planish.evaluation.torch_predictor import TorchPredictor
from planish.measurement import Measurement
from planish.models.heads.stem_and_classifier import find_classifier
from planish.progress import Stage, collecting_notes
from planish.settings import ModelSettings
from planish.training.prepare import prepare_job
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Pixels, Preprocessing

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Shot:
    """Accuracy of a linear classifier for one number of images per class.

    Args:
        per_class: images per class.
        accuracy: accuracy on validation, mean over draws; the interval covers images and draws, see ``statistics.over_seeds``.
        gain: difference to the previous row in points, for the same draws; the intervals of all rows hold jointly. None in the first
            row.
    """

    per_class: int
    accuracy: Measurement
    gain: Measurement | None = None


@dataclass(frozen=True, config=_STRICT)
class FewShot:
    """Accuracy for different numbers of images per class.

    Args:
        draws: number of random draws of training images in each row.
        guessing: accuracy of always predicting the most frequent class, in percent.
        shots: results, by increasing number of images per class.
        notes: decisions made on the user's behalf.
    """

    data: str
    model: str
    weights: str
    draws: int
    guessing: float
    shots: list[Shot]
    notes: list[str] = field(default_factory=list)


def few_shot(
    data: str | Path,
    *,
    shots: Sequence[int] = (1, 5, 10),
    model: str = "mobilenet_v2",
    weights: str | Path | None = "imagenet",
    image_size: ImageSize | None = None,
    draws: int = 10,
    skip_bad: bool = False,
    seed: int = 0,
) -> FewShot:
    """Measure the accuracy of a linear classifier on the features of a frozen network, trained on a few images per class.

    Features are the input of the network's last layer, scaled to unit length, and the classifier is multinomial logistic regression, as
    in Y. Tian et al., Rethinking few-shot image classification: a good embedding is all you need?, 2020 (arXiv:2003.11539). It is
    evaluated on validation.

    Args:
        data: a folder, a manifest or a built-in name.
        shots: numbers of images per class; larger draws contain the smaller ones.
        model: a name or ``FILE.py:factory``.
        weights: ``imagenet`` or a file.
        image_size: input size in pixels, or ``HEIGHTxWIDTH``; None for the size of the images, at most 224.
        draws: number of random draws of training images; a single draw does not show how much the result depends on the images.
        skip_bad: skip broken images.
        seed: seed of the split and the draws.

    Raises:
        GoalError: a number of images or draws is below 1, or there are no weights.
        DataError: a class has fewer training images than requested.
    """
    wanted = sorted(set(shots))
    if not wanted or wanted[0] < 1 or draws < 1:
        raise GoalError(f"{list(shots)} images per class, {draws} draws", "at least one of each", "for example --shots 1,5,10")
    if weights is None:
        raise GoalError("a network without weights", "features of fresh weights say nothing", "--weights imagenet, or a file")
    require_classes(data, "a classifier on features")
    with collecting_notes() as notes:
        job = prepare_job(data, ModelSettings(model, weights, image_size), skip_bad=skip_bad, seed=seed)
        train, validation = (job.task.split(name) for name in ("train", "validation"))
        smallest = int(np.bincount(train.targets).min())
        if wanted[-1] > smallest:
            name = job.task.class_names[int(np.bincount(train.targets).argmin())]
            raise DataError(
                f"{wanted[-1]} images per class", f"class {name!r} has {smallest} training images", f"--shots with at most {smallest}"
            )
        spec, preprocessing = job.artifact.input_spec, job.artifact.preprocessing
        known, judged = (features(job.artifact.module, spec, preprocessing, s.images(spec, preprocessing)) for s in (train, validation))
    classes = len(job.task.class_names)
    scores = np.zeros((len(wanted), draws, len(validation)))
    with Stage("learning classifiers", draws * len(wanted)) as stage:
        for draw in range(draws):
            order = np.random.default_rng((seed, draw)).permutation(len(train))
            rank = _rank_in_class(train.targets[order])
            for i, per_class in enumerate(wanted):
                rows = order[rank < per_class]
                weight, bias = logistic_regression(known[rows], train.targets[rows], classes)
                scores[i, draw] = (judged @ weight.T + bias).argmax(axis=1) == validation.targets
                stage.advance()
    found: list[Shot] = []
    for i, per_class in enumerate(wanted):
        accuracy = percent("accuracy", scores[i].size, mean_over_seeds(scores[i]))
        level = 1 - 0.05 / max(1, len(wanted) - 1)
        gain = percent("difference", scores[i].size, over_seeds(scores[i], scores[i - 1], level), unit="points") if i else None
        found.append(Shot(per_class, accuracy, gain))
    guessing = 100 * float(np.bincount(validation.targets).max()) / len(validation)
    return FewShot(str(data), model, str(weights), draws, guessing, found, notes)


def features(module: nn.Module, spec: InputSpec, preprocessing: Preprocessing, images: Pixels) -> Floats:
    """Return the input of the network's classifier for each image; feature maps are averaged over positions. Scaled to unit length.

    Args:
        module: takes normalized float images ``(N, C, H, W)``.
        spec: input of the network.
        preprocessing: normalization.
        images: uint8 ``(N, H, W, C)``.

    Returns:
        float64 ``(N, features)``.

    Raises:
        ModelError: the network has no linear classifier.
    """
    name, _ = find_classifier(module, spec.channels, (spec.height, spec.width))
    predictor = TorchPredictor.fastest(module, preprocessing)
    kept: list[torch.Tensor] = []

    def keep(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        kept.append(inputs[0].flatten(2).mean(2) if inputs[0].ndim == 4 else inputs[0])

    handle = predictor.module.get_submodule(name).register_forward_pre_hook(keep)
    try:
        with Stage("computing features", len(images)) as stage:
            predictor(images, stage.advance)
    finally:
        handle.remove()
    return F.normalize(torch.cat(kept).double(), dim=1).cpu().numpy()


def logistic_regression(x: npt.ArrayLike, targets: npt.ArrayLike, classes: int, c: float = 1.0) -> tuple[Floats, Floats]:
    """Fit multinomial logistic regression: minimize ``c * sum of cross-entropies + half the sum of squared weights``.

    The biases are not penalized.

    Args:
        x: features ``(N, features)``.
        targets: class indices ``(N,)``.
        classes: number of classes.
        c: inverse regularization strength.

    Returns:
        Weights ``(classes, features)`` and biases ``(classes,)``.
    """
    inputs, wanted = torch.as_tensor(np.asarray(x), dtype=torch.float64), torch.as_tensor(np.asarray(targets), dtype=torch.int64)
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight.T + bias, wanted) + weight.square().sum() / (2 * c * len(wanted))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach().numpy(), bias.detach().numpy()


def _rank_in_class(targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many earlier images have the same class, ``(N,)``."""
    order = np.argsort(targets, kind="stable")
    starts = np.searchsorted(targets[order], targets[order])
    ranks = np.empty(len(targets), dtype=np.int64)
    ranks[order] = np.arange(len(targets)) - starts
    return ranks

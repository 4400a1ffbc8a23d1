"""Preparation of a job: loading the images and creating the model that the user specifies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Normalisation, Preprocessing
from planish.data import Decoding, ImageData, load_images
from planish.data.class_balance import ADJUSTED_METRIC, describe_imbalance
from planish.data.targets.objects import Objects
from planish.errors import GoalError
from planish.evaluation.metrics.matching import COCO_MAX_DETECTIONS
from planish.models import create
from planish.models.detection.levels import TrainingBoxes, nearest_multiples
from planish.progress import note
from planish.settings import ModelSettings
from planish.split_assignment import SplitAssignment, assignment_beside
from planish.task import Task, metric_of, one_class_each
from planish.tasks import require_defined, task_for
from planish.units import has_both_sides, image_sides

DECODE_SIDE = 256  # size in pixels of images cached on disk while the model's input size is not known
_MARGIN = 1.15  # ratio of the size of decoded images to the input size, so that training can crop
_SQUARE = 1.1  # maximum aspect ratio of images that count as square
_MULTIPLE = 8  # of pixels, for height and width if the network has no larger stride


@dataclass(frozen=True)
class Job:
    """Images and a model, ready to work on.

    Args:
        task: the data splits and the learning task.
        artifact: the model, format torch; trained or not.
        data: origin of the images, and what was found in them.
        trained_on_classes: whether the model has weights and a classifier of the right size, so that it may already be trained.
        pretrained: whether the model has given weights.
        notes: messages about what was decided for the user.
        normalisation_known: whether mean and std are those that the weights expect; otherwise they are those of the images.
    """

    task: Task
    artifact: Artifact
    data: ImageData
    trained_on_classes: bool
    pretrained: bool
    notes: tuple[str, ...]
    normalisation_known: bool = False


def prepare_job(
    data: str | Path,
    settings: ModelSettings,
    *,
    normalisation: Normalisation = "dataset",
    skip_bad: bool = False,
    seed: int = 0,
    weights_seed: int | None = None,
    assignment: SplitAssignment | None = None,
) -> Job:
    """Load the images and create a model for them.

    Args:
        data: a folder, a manifest, or a built-in name; see ``planish.data.load_images``.
        settings: network, weights, task, metric and input size. The default size is the typical size of the images, at most
            ``Task.largest_side`` (224 for classification). In localisation tasks with images that are not about square, the input has as
            many pixels in the shape of the images, unless height and width are both given.
        normalisation: by statistics of the dataset or of each image; see ``Preprocessing``.
        skip_bad: whether to skip broken files instead of raising an error.
        seed: seed of the split and of newly initialised weights.
        weights_seed: seed of newly initialised weights, if it shall differ from that of the split.
        assignment: an existing assignment of images to splits, which is kept; None to use the one saved beside the weights file, if any.

    Raises:
        GoalError: the image size is out of range or not a multiple of the network's stride, or the task has no such metric.
        DataError: the images cannot be used.
        ModelError: the model or its weights cannot be used.
    """
    decoding, weights = decoding_for(settings), settings.weights
    if assignment is None and weights is not None:
        assignment = assignment_beside(Path(weights))
    images = load_images(data, seed=seed, skip_bad=skip_bad, decoding=decoding, task=settings.task, assignment=assignment)
    images.require("train", "validation", "test")
    task = task_for(images.task, images.splits, images.class_names, settings.metric)
    if settings.metric is not None:
        require_defined(task, ("validation", "test"))
    _note_imbalance(task)
    return job_of(task, images, settings, normalisation=normalisation, seed=seed if weights_seed is None else weights_seed)


def decoding_for(settings: ModelSettings) -> Decoding:
    """How images are decoded for a network.

    Raises:
        GoalError: the image size is out of range.
    """
    model, asked = settings.model, None if settings.image_size is None else image_sides(settings.image_size)
    channels = _first_channels(model) if isinstance(model, nn.Module) else None
    return Decoding(DECODE_SIDE if asked is None else decode_side_for(max(asked)), channels)


def job_of(task: Task, images: ImageData, settings: ModelSettings, *, normalisation: Normalisation = "dataset", seed: int = 0) -> Job:
    """Create a model for images that are loaded.

    Args:
        task: the learning task of the images.
        images: the images, decoded as ``decoding_for`` specifies.
        settings: see ``prepare_job``.
        normalisation: see ``prepare_job``.
        seed: seed of newly initialised weights.

    Raises:
        ModelError: the model or its weights cannot be used.
    """
    usual = usual_side(images, task.largest_side)
    size = (usual, usual) if settings.image_size is None else image_sides(settings.image_size)
    shaped = task.whole_image and not has_both_sides(settings.image_size)  # as the images
    fitting = partial(sides, size[0], images) if shaped else partial(nearest_multiples, *size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        created = create(
            settings.model,
            task=images.task,
            num_classes=len(images.class_names),
            channels=images.channels,
            image_size=size,
            weights=settings.weights,
            training=TrainingBoxes(fitting, _boxes(task)),
        )
    multiple = max(*created.source.strides, _MULTIPLE, getattr(created.module, "first_stride", None) or 0)
    height, width = fitting(multiple) if task.whole_image else size
    if not shaped and (height, width) != size:
        raise GoalError(
            f"an image size of {size[0]} x {size[1]} pixels for {settings.name}",
            f"height and width are multiples of its stride, {multiple}", f"for example {height}x{width}",
        )  # fmt: skip
    if (height, width) != size:
        note(f"the input size is {height} x {width} pixels: close to the shape of the images, and divisible by the strides")
    preprocessing = Preprocessing(
        decode_side=decoding_for(settings).side,
        resize="squash" if task.whole_image else settings.resize or fitting_resize(images, (height, width)),
        mean=created.mean or images.mean,
        std=created.std or images.std,
        normalisation=normalisation,
    )
    artifact = Artifact(
        format="torch",
        input_spec=InputSpec(images.channels, height, width),
        preprocessing=preprocessing,
        class_names=images.class_names,
        lineage=Lineage(created.source),
        module=created.module.eval(),
    )
    for text in created.notes:
        note(text)
    if created.mean is not None and normalisation != "dataset":
        note(
            "the weights expect images normalised by the statistics of the dataset they were trained on, and "
            f"normalisation={normalisation} uses each image's own, so they start out worse; normalisation=dataset avoids that"
        )
    return Job(
        task=task,
        artifact=artifact,
        data=images,
        trained_on_classes=created.pretrained and not created.new_classifier,
        pretrained=created.pretrained,
        notes=created.notes,
        normalisation_known=created.mean is not None,
    )


def decode_side_for(image_size: int) -> int:
    """The size in pixels at which decoded images are cached for a model with input size ``image_size``."""
    return max(32, round(image_size * _MARGIN))


def usual_side(images: ImageData, largest: int) -> int:
    """The default input size in pixels: the typical size of the images, at most ``largest``; above 32 rounded down to a multiple of 16."""
    side: int = min(largest, round((images.typical_height * images.typical_width) ** 0.5))
    return side - side % 16 if side > 32 else side


def sides(image_size: int, images: ImageData, multiple: int) -> tuple[int, int]:
    """Height and width, multiples of ``multiple``, with about ``image_size`` squared pixels and the typical aspect ratio of the images."""
    high, wide = images.typical_height, images.typical_width
    stretch = 1.0 if max(high, wide) <= _SQUARE * min(high, wide) else (high / wide) ** 0.5
    high, wide = (max(multiple, round(side / multiple) * multiple) for side in (image_size * stretch, image_size / stretch))
    return high, wide


def fitting_resize(images: ImageData, size: tuple[int, int]) -> Literal["squash", "crop"]:
    """The way to resize images to a height and width: ``squash`` if they have about that shape, ``crop`` otherwise."""
    across, along = images.typical_height * size[1], images.typical_width * size[0]
    return "squash" if max(across, along) <= _SQUARE * min(across, along) else "crop"


def _note_imbalance(task: Task) -> None:
    """Report unbalanced classes, and what is done about them."""
    targets = task.split("train").targets
    if not one_class_each(targets) or not (shares := describe_imbalance(targets, task.class_names)):
        return
    if metric_of(task).name == ADJUSTED_METRIC:
        what = "trainings adjust the logits for that, unless class_weights, sampler or logit_adjustment is set"
    else:
        what = "--metric balanced-accuracy makes all count alike, in training too; macro-f1 and recall:CLASS do not hide rare ones either"
    note(f"the classes are unbalanced: {shares}; {what}")


def _boxes(task: Task) -> list[npt.NDArray[np.float32]]:
    """Boxes of the objects in each training image; empty for other targets. Reports if images exceed COCO's detection limit per class."""
    targets = task.split("train").targets
    found = [target for target in targets if isinstance(target, Objects)] if isinstance(targets, Sequence) else []
    crowded = sum(int(np.bincount(one.counted_labels).max(initial=0) > COCO_MAX_DETECTIONS) for one in found)
    if crowded:
        note(
            f"{crowded:,} training images hold more than {COCO_MAX_DETECTIONS} objects of a class, and {task.primary_metric} counts as "
            "many detections per image and class, as COCO's does; planish evaluate --tile counts all"
        )
    return [one.boxes[~one.ignored] for one in found]


def _first_channels(module: nn.Module) -> int | None:
    """Input channels of the first convolution if they are 1 or 3, None otherwise."""
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return first.in_channels if first is not None and first.in_channels in (1, 3) else None

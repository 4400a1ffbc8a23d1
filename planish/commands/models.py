"""Open the model given to a command, together with its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from planish.errors import GoalError, ModelError

if TYPE_CHECKING:
    from planish.data import ImageData
    from planish.runs.open_model import Opened
    from planish.settings import ModelSettings
    from planish.split_assignment import SplitAssignment
    from planish.task import Task
    from planish.training.prepare import Job


def channel_list(values: float | Sequence[float] | None) -> list[float] | None:
    """Convert one value for all channels, or one per channel, to a list."""
    if values is None:
        return None
    return [float(values)] if isinstance(values, (int, float)) else [float(value) for value in values]


def open_with_images(
    network: ModelSettings,
    data: str,
    *,
    seed: int,
    skip_bad: bool,
    runtime: str = "auto",
    teachers: Sequence[SplitAssignment | None] = (),
) -> tuple[Opened, ImageData]:
    """Open a model, and load images into the splits stored with it.

    Args:
        network: the name of a network, with weights and preprocessing; or the path of a saved model, bundle, run or file, without them.
        data: the dataset.
        seed: of the split, if the model does not store one.
        skip_bad: skip broken images instead of raising an error.
        runtime: for exported files.
        teachers: split assignments of teacher models; their training images are kept out of test, too.

    Raises:
        GoalError: weights or preprocessing are given for a saved model, which stores its own.
        ModelError: ``network`` is none of these, or has no trained weights.
    """
    from planish.data import Decoding, load_images
    from planish.progress import note
    from planish.runs.open_model import open_model
    from planish.runs.open_network import open_network
    from planish.split_assignment import assignment_beside, combined

    if is_network(network):
        beside = assignment_beside(Path(network.weights)) if network.weights else None
        return open_network(network, data, seed=seed, skip_bad=skip_bad, assignment=combined([beside, *teachers]))
    refuse_preprocessing(network)
    opened = open_model(network.name, runtime)
    opened = replace(opened, assignment=combined([opened.assignment, *teachers]))
    if opened.assignment is None:
        note(f"{opened.path} keeps no splits: images are split with seed {seed}, and may be in train of the model and in test here")
    images = load_images(
        data, seed=seed, skip_bad=skip_bad, decoding=Decoding(opened.preprocessing.decode_side, opened.input_spec.channels),
        task=opened.task, assignment=opened.assignment, class_names=opened.class_names,
    )  # fmt: skip
    return opened, images


def open_without_labels(network: ModelSettings, data: str, *, seed: int, skip_bad: bool) -> Job:
    """Open a model, and load images without labels; targets are the model's own answers.

    Args:
        network: see ``open_with_images``; with the task ``outputs``, a network of any kind.
        data: a folder with images.
        seed: of the split, if the model does not store one.
        skip_bad: skip broken images instead of raising an error.

    Raises:
        PlanishError: the images or the model cannot be used, or its task has no answers.
    """
    from planish.runs.networks.answers import answered_at_once

    return answered_at_once(open_unanswered(network, data, seed=seed, skip_bad=skip_bad))


def open_unanswered(network: ModelSettings, data: str, *, seed: int, skip_bad: bool) -> Job:
    """Open a model and load images like ``open_without_labels``, but without targets."""
    from planish.data import Decoding, load_unlabelled
    from planish.runs.converted_onnx import converted_job, is_external_onnx
    from planish.runs.external_onnx import file_job
    from planish.runs.networks.raw_outputs import outputs_job
    from planish.runs.open_model import open_model
    from planish.runs.open_network import unlabelled_job
    from planish.task import OUTPUTS
    from planish.training.prepare import Job

    if network.task == OUTPUTS:
        return outputs_job(data, network, skip_bad=skip_bad, seed=seed)
    if is_external_onnx(network.name):
        job = file_job(data, network, skip_bad=skip_bad, seed=seed, unlabelled=True)
        return converted_job(job, Path(network.name))
    if is_network(network):
        return unlabelled_job(data, network, skip_bad=skip_bad, seed=seed)
    refuse_preprocessing(network)
    opened = open_model(network.name)
    if opened.artifact is None:
        raise exported_model(network.name)
    decoding = Decoding(opened.preprocessing.decode_side, opened.input_spec.channels)
    images = load_unlabelled(data, decoding, seed=seed, skip_bad=skip_bad, assignment=opened.assignment)
    images.require("train", "validation", "test")
    images = replace(images, task=opened.task, class_names=opened.class_names)
    return Job(unlabelled_task(images), opened.artifact, images, trained_on_classes=True, pretrained=True, notes=())


def unlabelled_task(images: ImageData) -> Task:
    """Return the task of images whose labels are a model's answers; agreement for a classifier."""
    from planish.tasks import Agreement, Classification, task_for

    if images.task == Classification.name:
        return Agreement(images.splits, images.class_names)
    return task_for(images.task, images.splits, images.class_names)


def exported_model(name: str) -> ModelError:
    """Return the error for an exported model where a network is needed."""
    return ModelError(
        f"{name} is an exported model", "a plan starts from a network in PyTorch", "name a saved model, or a network with --weights"
    )


def is_network(network: ModelSettings) -> bool:
    """Whether the name is that of a network, or an ONNX file from elsewhere, rather than the path of a model that Planish wrote."""
    from planish.runs.converted_onnx import is_external_onnx

    if is_external_onnx(network.name):
        return True
    if Path(network.name).exists() or Path(network.name).suffix in (".onnx", ".xml"):
        return False
    return network.weights is not None or ":" in network.name


def refuse_preprocessing(network: ModelSettings) -> None:
    """Refuse weights and preprocessing for a model that stores its own.

    Raises:
        GoalError: some are given.
    """
    names = ("weights", "mean", "std", "image_size", "resize", "task")
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(network, name) is not None]:
        raise GoalError(
            f"{', '.join(given)} for {network.name}",
            "a saved model keeps its own",
            "only valid with a network's name: FILE.py:factory, timm:NAME, torchvision:NAME",
        )

"""Opening a trained network by its name and weights, which need not have been trained or saved by Planish."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from planish.artifact import Artifact
from planish.data import Decoding, ImageData, load_unlabelled
from planish.errors import GoalError, ModelError
from planish.files.schema import read_versioned
from planish.models.storage import ArtifactDescription
from planish.models.weights.class_count import count_classes
from planish.models.zoo import factory_file
from planish.progress import note
from planish.runs.converted_onnx import is_external_onnx, network_job
from planish.runs.external_onnx import channel_values
from planish.runs.open_model import Opened
from planish.settings import ModelSettings
from planish.split_assignment import SplitAssignment, assignment_beside
from planish.tasks import Agreement, Classification, task_for
from planish.training.prepare import Job, decoding_for, job_of, prepare_job, usual_side
from planish.units import image_sides

_LARGEST_SIDE = Classification({}, ()).largest_side


def open_network(
    network: ModelSettings, data: str | Path, *, seed: int = 0, skip_bad: bool = False, assignment: SplitAssignment | None = None
) -> tuple[Opened, ImageData]:
    """Open a network and the images that it was trained for.

    Args:
        network: the network, its weights and its input; or an ONNX file that Planish did not write.
        data: a folder, a manifest, or a built-in name.
        seed: seed of the split.
        skip_bad: skip broken images.
        assignment: splits of the images to reuse; None for those stored next to the weights.

    Raises:
        ModelError: the network has no trained weights, or its outputs are not the classes of the data.
        GoalError: the normalisation of its images is not known.
    """
    name = network.name
    if is_external_onnx(name):
        return _opened(name, network_job(data, network, skip_bad=skip_bad, seed=seed, assignment=assignment))
    _require_weights(network)
    job = prepare_job(data, network, skip_bad=skip_bad, seed=seed, assignment=assignment)
    if network.weights is not None and not job.trained_on_classes:
        raise ModelError(
            f"the weights {network.weights} have no classifier for the {len(job.data.class_names)} classes of {data}",
            "they must have been trained on these classes",
            f"train it first: planish train {data} --model {name} --weights {network.weights}",
        )
    artifact = with_known_normalisation(job, network)
    spec, how = artifact.input_spec, artifact.preprocessing
    names = ", ".join(artifact.class_names[:4]) + (", ..." if len(artifact.class_names) > 4 else "")
    note(
        f"input of {name}: {spec.height} x {spec.width} pixels ({how.resize}), changed by --image-size and --resize; "
        f"its outputs are taken to be the classes in this order: {names}"
    )
    return _opened(name, replace(job, artifact=artifact))


def unlabelled_job(data: str | Path, network: ModelSettings, *, seed: int = 0, skip_bad: bool = False) -> Job:
    """Load images without labels for a trained network, whose classes are those of its weights.

    The targets are 0 until ``original.answered`` replaces them by the network's answers. Detectors and segmenters are those that Planish
    saved, with the names of their classes.

    Args:
        data: a folder of images without labels.
        network: the network, its weights and its input.
        seed: seed of the split.
        skip_bad: skip broken images.

    Raises:
        DataError: the images cannot be used.
        ModelError: the network has no trained weights, or the number of its classes is not known.
        GoalError: the normalisation of its images is not known.
    """
    _require_weights(network)
    weights, saved = network.weights, _saved_model(network.weights)
    if saved is not None:
        network = _as_saved(network, saved)
    decoding = decoding_for(network) if saved is None else Decoding(saved.preprocessing.decode_side, saved.input_spec.channels)
    beside = assignment_beside(Path(weights)) if weights is not None else None
    images = load_unlabelled(data, decoding, seed=seed, skip_bad=skip_bad, assignment=beside)
    images.require("train", "validation", "test")
    task_name = network.task or (Classification.name if saved is None else saved.lineage.source.task)
    if task_name != Classification.name:
        if saved is None:
            raise ModelError(
                f"the weights {weights} for {task_name}",
                "without labels, the classes are those of a model that Planish saved",
                "give its model.safetensors, beside which its description lies",
            )
        images = replace(images, task=task_name, class_names=saved.class_names)
        job = job_of(task_for(task_name, images.splits, saved.class_names, network.metric), images, network, seed=seed)
        artifact = job.artifact
        return replace(job, artifact=replace(artifact, preprocessing=saved.preprocessing, class_names=saved.class_names))
    side = usual_side(images, _LARGEST_SIDE) if network.image_size is None else max(image_sides(network.image_size))
    count = count_classes(network.model, weights, images.channels, side)
    names = saved.class_names if saved is not None and len(saved.class_names) == count else tuple(map(str, range(count)))
    images = replace(images, class_names=names)
    normalisation = "dataset" if saved is None else saved.preprocessing.normalisation
    job = job_of(Agreement(images.splits, names), images, network, normalisation=normalisation, seed=seed)
    if weights is not None and not job.trained_on_classes:
        raise ModelError(
            f"the weights {weights} have no classifier of {network.name}",
            "without labels, the network gives the answers",
            "give the weights of a trained classifier",
        )
    artifact = with_known_normalisation(job, network)
    spec, how = artifact.input_spec, replace(artifact.preprocessing, decode_side=decoding.side)
    note(f"input of {network.name}: {spec.height} x {spec.width} pixels ({how.resize}), changed by --image-size and --resize")
    return replace(job, artifact=replace(artifact, preprocessing=how))


def _require_weights(network: ModelSettings) -> None:
    if isinstance(network.model, str) and network.weights is None and factory_file(network.model) is None:
        raise ModelError(
            f"{network.name} without weights has random values", "only a trained network is compressed or judged", "add --weights FILE"
        )


def _saved_model(weights: str | Path | None) -> ArtifactDescription | None:
    """The description of the saved model that a weights file belongs to; None if it belongs to none."""
    if weights is None or not Path(weights).is_file():
        return None
    file = Path(weights).parent / "artifact.json"
    return read_versioned(file, ArtifactDescription, "it is as Planish wrote it", "save the model again") if file.is_file() else None


def _as_saved(network: ModelSettings, saved: ArtifactDescription) -> ModelSettings:
    """The network with the input of the saved model, as far as none is given."""
    how = saved.preprocessing
    return replace(
        network,
        image_size=network.image_size or f"{saved.input_spec.height}x{saved.input_spec.width}",
        resize=network.resize or how.resize,
        mean=network.mean or how.mean,
        std=network.std or how.std,
    )


def with_known_normalisation(job: Job, network: ModelSettings) -> Artifact:
    """The job's model with the given mean and standard deviation, or with those that its weights expect.

    Raises:
        GoalError: neither is known.
    """
    artifact = job.artifact
    how, channels = artifact.preprocessing, artifact.input_spec.channels
    given = network.mean is not None or network.std is not None
    if not given and not job.normalisation_known:
        raise GoalError(
            f"it is not known how the images of {network.name} were normalised when it was trained",
            "pixels / 255 have a mean taken off and are divided by a standard deviation",
            "give both, for example --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, or --mean 0 --std 1 for none",
        )
    if given:
        mean = channel_values("mean", network.mean, channels) if network.mean is not None else how.mean
        std = channel_values("std", network.std, channels) if network.std is not None else how.std
        how = replace(how, mean=mean, std=std)
        artifact = replace(artifact, preprocessing=how)
    return artifact


def _opened(name: str, job: Job) -> tuple[Opened, ImageData]:
    artifact, images = job.artifact, job.data
    spec, how = artifact.input_spec, artifact.preprocessing
    opened = Opened(Path(name), "torch", "torch", (), spec, how, artifact.class_names, images.task, artifact, images.assignment)
    return opened, images

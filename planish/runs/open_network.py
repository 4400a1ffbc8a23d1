"""Opening a trained network by its name and weights, which need not have been trained or saved by Planish."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from planish.data import ImageData
from planish.errors import GoalError, ModelError
from planish.models.zoo import factory_file
from planish.progress import note
from planish.runs.converted_onnx import is_external_onnx, network_job
from planish.runs.external_onnx import channel_values
from planish.runs.open_model import Opened
from planish.settings import ModelSettings
from planish.split_assignment import SplitAssignment
from planish.training.prepare import Job, prepare_job


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
    if network.weights is None and factory_file(name) is None:
        raise ModelError(
            f"{name} without weights has random values", "only a trained network is compressed or judged", "add --weights FILE"
        )
    job = prepare_job(data, network, skip_bad=skip_bad, seed=seed, assignment=assignment)
    if network.weights is not None and not job.trained_on_classes:
        raise ModelError(
            f"the weights {network.weights} have no classifier for the {len(job.data.class_names)} classes of {data}",
            "they must have been trained on these classes",
            f"train it first: planish train {data} --model {name} --weights {network.weights}",
        )
    artifact = job.artifact
    spec, how = artifact.input_spec, artifact.preprocessing
    given = network.mean is not None or network.std is not None
    if not given and not job.normalisation_known:
        raise GoalError(
            f"it is not known how the images of {name} were normalised when it was trained",
            "pixels / 255 have a mean taken off and are divided by a standard deviation",
            "give both, for example --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, or --mean 0 --std 1 for none",
        )
    if given:
        mean = channel_values("mean", network.mean, spec.channels) if network.mean is not None else how.mean
        std = channel_values("std", network.std, spec.channels) if network.std is not None else how.std
        how = replace(how, mean=mean, std=std)
        artifact = replace(artifact, preprocessing=how)
    names = ", ".join(artifact.class_names[:4]) + (", ..." if len(artifact.class_names) > 4 else "")
    note(
        f"input of {name}: {spec.height} x {spec.width} pixels ({how.resize}), changed by --image-size and --resize; "
        f"its outputs are taken to be the classes in this order: {names}"
    )
    return _opened(name, replace(job, artifact=artifact))


def _opened(name: str, job: Job) -> tuple[Opened, ImageData]:
    artifact, images = job.artifact, job.data
    spec, how = artifact.input_spec, artifact.preprocessing
    opened = Opened(Path(name), "torch", "torch", (), spec, how, artifact.class_names, images.task, artifact, images.assignment)
    return opened, images

"""Networks whose outputs are compared as they are, on images without labels: detectors of others, heatmaps, embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.compression.calibration import calibration_batches
from planish.data import Decoding, ImageData, load_unlabelled
from planish.errors import GoalError, ModelError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.onnx.external import ExternalModel, metadata_of, read_external
from planish.export.onnx.external_outputs import outputs_of
from planish.files.onnx_reading import onnx_sha256
from planish.models.onnx.networks import network_from_file
from planish.models.onnx.unfolding import fit_batch_norm
from planish.models.outputs import decoded
from planish.models.raw_outputs import identifiers
from planish.progress import note
from planish.runs.external_onnx import channel_values, input_size, tell_preprocessing
from planish.runs.open_network import with_known_normalisation
from planish.settings import ModelSettings
from planish.task import OUTPUTS
from planish.tasks import RawOutputs
from planish.training.prepare import DECODE_SIDE, Job, decode_side_for, decoding_for, job_of, sides, usual_side
from planish.units import image_sides

_STRIDE = 32  # of most networks with several maps, where the image size is not given
_TOLERANCE = 1e-3  # of the largest output: float32 is summed in another order
_COMPARED_IMAGES = 8


def outputs_job(data: str | Path, settings: ModelSettings, *, skip_bad: bool = False, seed: int = 0) -> Job:
    """Load images without labels for a network of any kind; its targets are set by ``original.answered``.

    Args:
        data: a folder of images.
        settings: an ONNX file of another exporter, ``FILE.py:factory`` with weights, or a module; and its preprocessing.
        skip_bad: skip broken images.
        seed: seed of the split.

    Raises:
        DataError: the images cannot be used.
        ModelError: the network cannot be used: it does not run on such images, or a file cannot be converted.
        GoalError: the normalisation of its images is not known, or a metric is given.
    """
    if settings.metric is not None:
        raise GoalError(f"--metric {settings.metric} for raw outputs", "what is measured is the explained variance", "omit it")
    if settings.name.endswith(".onnx"):
        return _of_file(data, settings, skip_bad, seed)
    decoding = decoding_for(settings)
    images = _images(data, decoding, skip_bad, seed)
    if settings.image_size is None:
        height, width = sides(usual_side(images, RawOutputs.largest_side), images, _STRIDE)
        settings = replace(settings, image_size=f"{height}x{width}")
    job = job_of(RawOutputs(images.splits, ()), images, settings, seed=seed)
    artifact = with_known_normalisation(job, settings)
    return _job(replace(artifact, preprocessing=replace(artifact.preprocessing, decode_side=decoding.side)), images)


def _of_file(data: str | Path, settings: ModelSettings, skip_bad: bool, seed: int) -> Job:
    """The job of an ONNX file, whose outputs as a network are those that it has in ONNX Runtime."""
    file = Path(settings.name)
    if "planish.input_spec" in metadata_of(file):
        raise ModelError(f"{file.name} was written by Planish", "its network is the saved model that it was exported from", "give that")
    foreign = read_external(file)
    asked = None if settings.image_size is None else image_sides(settings.image_size)
    known = [side for side in (foreign.height, foreign.width, *(asked or ())) if side is not None]
    decode_side = decode_side_for(max(known)) if known else DECODE_SIDE
    images = _images(data, Decoding(decode_side, foreign.channels), skip_bad, seed)
    usual = max(_STRIDE, usual_side(images, RawOutputs.largest_side) // _STRIDE * _STRIDE)
    spec = InputSpec(3 if images.channels == 3 else 1, *input_size(foreign, asked, usual, file))
    mean, std = channel_values("mean", settings.mean, spec.channels), channel_values("std", settings.std, spec.channels)
    preprocessing = Preprocessing(decode_side, settings.resize or "squash", mean, std)
    tell_preprocessing(file, spec, preprocessing, (), settings.mean is None, settings.std is None, settings.resize is None)
    source = Source(f"{file.resolve().as_posix()}:", 1, spec.channels, sha256=onnx_sha256(file), task=OUTPUTS)
    module = network_from_file(file, source, (spec.height, spec.width)).eval()
    job = _job(Artifact("torch", spec, preprocessing, (), Lineage(source), module=module), images)
    fit_batch_norm(module, (batch for batch, _ in calibration_batches(job.artifact, job.task)()))
    _compare(foreign, job)
    return job


def _compare(foreign: ExternalModel, job: Job) -> None:
    """Require that the network returns what the file returns in ONNX Runtime, for some calibration images.

    Raises:
        ModelError: an output differs.
    """
    artifact = job.artifact
    split = job.data.splits["calibration"].images(artifact.input_spec, artifact.preprocessing)
    rows = np.unique(np.linspace(0, len(split) - 1, min(_COMPARED_IMAGES, len(split))).astype(int))
    images = np.ascontiguousarray(split[rows])
    expected = outputs_of(foreign, artifact.input_spec, artifact.preprocessing, images)
    given = TorchPredictor(artifact.module, artifact.preprocessing)(images)
    for name, values in zip(identifiers(list(expected)), expected.values(), strict=True):
        if name in given and not (
            given[name].shape == values.shape and np.abs(given[name] - values).max() <= _TOLERANCE * np.abs(values).max()
        ):
            raise ModelError(
                f"the network of {foreign.file.name} returns other values than ONNX Runtime for its output {name}",
                "it is converted to torch layers with the same outputs",
            )


def _images(data: str | Path, decoding: Decoding, skip_bad: bool, seed: int) -> ImageData:
    images = load_unlabelled(data, decoding, seed=seed, skip_bad=skip_bad)
    images.require("train", "validation", "test")
    return replace(images, task=OUTPUTS)


def _job(artifact: Artifact, images: ImageData) -> Job:
    """The job of a network with its weights; the names of its outputs take the place of class names."""
    spec, module = artifact.input_spec, artifact.module
    with torch.no_grad():
        found = decoded(module, module(torch.zeros(2, spec.channels, spec.height, spec.width)))
    names = tuple(found)
    note(f"its outputs are {', '.join(f'{name} {tuple(values.shape[1:])}' for name, values in found.items())}")
    images = replace(images, class_names=names)
    task = RawOutputs(images.splits, names)
    return Job(task, replace(artifact, class_names=names), images, trained_on_classes=True, pretrained=True, notes=())

"""External ONNX classifiers as networks: what trains and changes layers then applies to them too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from planish.artifact import Artifact, Lineage, Source
from planish.compression.calibration import calibration_batches
from planish.errors import ModelError, PlanishError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.onnx.external import metadata_of
from planish.export.runtimes.registry import load
from planish.files.onnx_reading import onnx_sha256
from planish.models.onnx.networks import classifier_from_file
from planish.models.onnx.unfolding import fit_batch_norm
from planish.runs.external_onnx import file_job, refuse_training
from planish.settings import ModelSettings
from planish.split_assignment import SplitAssignment
from planish.training.prepare import Job, prepare_job

_TOLERANCE = 1e-3  # of the largest logit: float32 is summed in another order
_COMPARED_IMAGES = 16


def is_external_onnx(name: str) -> bool:
    """Whether a name is the path of an ONNX file that Planish did not write.

    Raises:
        ModelError: it has the name of an ONNX file and is none.
    """
    return Path(name).suffix == ".onnx" and Path(name).is_file() and "planish.input_spec" not in metadata_of(Path(name))


def network_job(
    data: str | Path, settings: ModelSettings, *, skip_bad: bool = False, seed: int = 0, assignment: SplitAssignment | None = None
) -> Job:
    """Load the images, and a network by its name or from an ONNX file.

    Args:
        data: a folder, a manifest, or a built-in name.
        settings: the network or file, and its input; see ``training.prepare.prepare_job`` and ``external_onnx.file_job``.
        skip_bad: skip broken images instead of raising an error.
        seed: seed of the split.
        assignment: splits of the images to reuse.

    Raises:
        PlanishError: the images or the network cannot be used, or the file cannot be converted.
    """
    if not is_external_onnx(settings.name):
        return prepare_job(data, settings, skip_bad=skip_bad, seed=seed, assignment=assignment)
    refuse_training(settings.name, weights=settings.weights)
    return converted_job(file_job(data, settings, skip_bad=skip_bad, seed=seed, assignment=assignment), Path(settings.name))


def converted_job(job: Job, file: Path) -> Job:
    """The job with the file as a network, whose logits are those of the file in ONNX Runtime on calibration images.

    Args:
        job: from ``external_onnx.file_job``.
        file: the ONNX file.

    Raises:
        ModelError: the file cannot be converted, or the network returns other logits.
    """
    if "planish.input_spec" in metadata_of(file):
        raise ModelError(f"{file.name} was written by Planish", "its network is the saved model that it was exported from", "give that")
    given = job.artifact
    split = job.data.splits["calibration"].images(given.input_spec, given.preprocessing)
    rows = np.unique(np.linspace(0, len(split) - 1, min(_COMPARED_IMAGES, len(split))).astype(int))
    images = np.ascontiguousarray(split[rows])
    expected = load(given.files, "onnxruntime")(images)["logits"]
    reasons, sha256 = [], onnx_sha256(file)
    for output in [value.name for value in onnx.load(str(file), load_external_data=False).graph.output]:
        source = Source(f"{file.resolve().as_posix()}:{output}", len(given.class_names), given.input_spec.channels, sha256=sha256)
        try:
            module = classifier_from_file(file, output, source, (given.input_spec.height, given.input_spec.width))
            artifact = Artifact("torch", given.input_spec, given.preprocessing, given.class_names, Lineage(source), module=module)
            fit_batch_norm(module, (batch for batch, _ in calibration_batches(artifact, job.task)()))
            found = TorchPredictor(module, given.preprocessing)(images)["logits"]
        except PlanishError as error:
            reasons.append(str(error))
            continue
        except RuntimeError as error:  # torch, on images of a size that the file takes only in ONNX Runtime
            reasons.append(f"the network does not run: {error}")
            continue
        if np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max():
            return replace(job, artifact=artifact, normalisation_known=True)
        reasons.append(f"the network of {file.name} returns other values than ONNX Runtime for its output {output}")
    raise ModelError(reasons[0])

"""Runs that start from a classifier's ONNX file. Files of Planish contain their preprocessing; for others it is assumed and reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.data import Decoding, ImageData, load_images, load_unlabelled, require_classes
from planish.errors import GoalError, ModelError
from planish.export.onnx.external import ExternalModel, metadata_of, read_external, write_with_normalisation
from planish.export.onnx.onnx_file import metadata
from planish.export.runtimes.registry import load
from planish.files.onnx_reading import onnx_sha256
from planish.files.workspace import fresh_folder
from planish.progress import note
from planish.runs.open_model import open_model
from planish.settings import ModelSettings
from planish.split_assignment import SplitAssignment
from planish.task import OUTPUTS, Task
from planish.tasks import Agreement, Classification, require_defined, task_for
from planish.training.prepare import DECODE_SIDE, Job, decode_side_for, fitting_resize, usual_side
from planish.units import image_sides

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LARGEST_STD = 10.0  # larger ones are on the scale 0 to 255
_COMPARED_IMAGES = 16


def file_job(
    data: str | Path,
    settings: ModelSettings,
    *,
    skip_bad: bool = False,
    seed: int = 0,
    assignment: SplitAssignment | None = None,
    unlabelled: bool = False,
) -> Job:
    """Load the images, and an ONNX file as an artifact that takes uint8 pixels.

    Args:
        data: a folder, a manifest, or a built-in name.
        settings: the ONNX file, a classifier, and its preprocessing; a quantized file is read back to float32. None stands for what the
            file specifies, or else ImageNet's mean and standard deviation, and images squashed if roughly square, cropped if not.
        skip_bad: skip broken images instead of raising an error.
        seed: seed of the split.
        assignment: splits of the images to reuse; None for those of the seed, or of the file if Planish wrote it.
        unlabelled: the images have no labels: the classes are those of the file, and the targets are 0 until ``original.answered`` replaces
            them by its answers.

    Raises:
        ModelError: the file cannot be used, or not for these classes.
        DataError: the images cannot be used, or have other classes.
        GoalError: the given preprocessing is not valid for the file.
    """
    if unlabelled and settings.task not in (None, Classification.name):
        raise GoalError(
            f"--task {settings.task} for {settings.name}",
            "a file is taken as a classifier, as it does not say what its outputs mean",
            f"--task {OUTPUTS} compares the outputs of any network as they are",
        )
    file, mean, std, resize, image_size = Path(settings.name), settings.mean, settings.std, settings.resize, settings.image_size
    if "planish.input_spec" in (properties := metadata_of(file)):
        if any(given is not None for given in (mean, std, resize, image_size)):
            raise GoalError(f"preprocessing for {file}", "Planish wrote the file, which says itself how it is fed", "omit it")
        opened = open_model(file)
        lineage = TypeAdapter(Lineage).validate_json(properties["planish.lineage"])
        artifact = Artifact("onnx", opened.input_spec, opened.preprocessing, opened.class_names, lineage, files=(file,))
        if artifact.facts["precision"] != "fp32":
            raise _quantized(file)
        decoding = Decoding(artifact.preprocessing.decode_side, artifact.input_spec.channels)
        if unlabelled:
            images = _unlabelled_images(data, decoding, skip_bad, seed, assignment or opened.assignment)
        else:
            images = _images(data, decoding, skip_bad, seed, assignment or opened.assignment, artifact.class_names)
        note(f"{file.name} was written by Planish and says how it is fed, and its classes")
        return _job(artifact, images, settings.metric, unlabelled)
    foreign = read_external(file)
    asked = None if image_size is None else image_sides(image_size)
    known = [side for side in (foreign.height, foreign.width, *(asked or ())) if side is not None]
    decode_side = decode_side_for(max(known)) if known else DECODE_SIDE
    read = _unlabelled_images if unlabelled else _images
    images = read(data, Decoding(decode_side, foreign.channels), skip_bad, seed, assignment)
    learned = task_for(images.task, images.splits, images.class_names)
    spec = InputSpec(3 if images.channels == 3 else 1, *input_size(foreign, asked, usual_side(images, learned.largest_side), file))
    preprocessing = Preprocessing(
        decode_side,
        resize or fitting_resize(images, (spec.height, spec.width)),
        channel_values("mean", mean, spec.channels),
        channel_values("std", std, spec.channels),
    )
    tell_preprocessing(file, spec, preprocessing, images.class_names, mean is None, std is None, resize is None)
    split = images.splits["calibration"].images(spec, preprocessing)
    rows = np.unique(np.linspace(0, len(split) - 1, min(_COMPARED_IMAGES, len(split))).astype(int))
    sample, labels = np.ascontiguousarray(split[rows]), np.asarray(images.splits["calibration"].targets)[rows]
    classes, known = (None, []) if unlabelled else (len(images.class_names), labels.tolist())
    fed = fresh_folder("foreign-") / "model.onnx"
    for text in write_with_normalisation(foreign, fed, spec, preprocessing, classes, sample, known):
        note(f"{file.name}: {text}")
    if unlabelled:
        count = load((fed,), "onnxruntime")(sample[:1])["logits"].shape[1]
        images = replace(images, class_names=tuple(map(str, range(count))))
        note(f"{file.name} has {count} classes, which are named by their numbers")
    source = Source(file.name, len(images.class_names), spec.channels, sha256=onnx_sha256(file))
    artifact = Artifact("onnx", spec, preprocessing, images.class_names, Lineage(source), files=(fed,))
    import onnx

    model = onnx.load(str(fed))
    onnx.helper.set_model_props(model, metadata(artifact))
    onnx.save(model, str(fed))
    return _job(artifact, images, settings.metric, unlabelled)


def refuse_training(file: str, **asked: Any) -> None:
    """Reject options that require training, since a file cannot be trained.

    Args:
        file: name of the file, for the message.
        asked: options by name; an option counts as given if its value is true.

    Raises:
        GoalError: one of the options was given.
    """
    if names := [f"--{name}" for name, given in asked.items() if given]:
        raise GoalError(f"{', '.join(names)} for {file}", "a file cannot be trained", "omit it, or give the PyTorch network")


def _images(
    data: str | Path, decoding: Decoding, skip_bad: bool, seed: int,
    assignment: SplitAssignment | None = None, class_names: Sequence[str] | None = None,
) -> ImageData:  # fmt: skip
    require_classes(data, "a file from elsewhere")
    images = load_images(data, seed=seed, skip_bad=skip_bad, decoding=decoding, assignment=assignment, class_names=class_names)
    images.require("train", "validation", "test")
    return images


def _unlabelled_images(
    data: str | Path, decoding: Decoding, skip_bad: bool, seed: int, assignment: SplitAssignment | None = None
) -> ImageData:
    images = load_unlabelled(data, decoding, seed=seed, skip_bad=skip_bad, assignment=assignment)
    images.require("train", "validation", "test")
    return images


def _job(artifact: Artifact, images: ImageData, metric: str | None, unlabelled: bool) -> Job:
    if unlabelled:
        images = replace(images, class_names=artifact.class_names)
        task: Task = Agreement(images.splits, images.class_names)
        task = task if metric is None else task.with_metric(metric)
    else:
        task = task_for(images.task, images.splits, images.class_names, metric)
    if metric is not None:
        require_defined(task, ("validation", "test"))
    return Job(task, artifact, images, trained_on_classes=True, pretrained=True, notes=())


def _quantized(file: Path) -> ModelError:
    return ModelError(f"{file} is quantized already", "all is compared with a float32 original", "give the file before it was quantized")


def input_size(foreign: ExternalModel, asked: tuple[int, int] | None, usual: int, file: Path) -> tuple[int, int]:
    """Height and width of the input: those of the file; where it leaves them open those that were asked for, or the usual side."""
    sides = (foreign.height, foreign.width)
    side = foreign.height or foreign.width or usual
    wanted = (side, side) if asked is None else asked
    if asked is not None and any(side not in (None, given) for side, given in zip(sides, asked, strict=True)):
        taken = " x ".join("any" if side is None else str(side) for side in sides)
        raise GoalError(f"images of {asked[0]} x {asked[1]} pixels for {file}", f"it takes {taken} pixels", "leave --image-size away")
    height, width = (side or given for side, given in zip(sides, wanted, strict=True))
    if asked is None and None in sides:
        note(f"{file.name} accepts several image sizes and is given {height} x {width} pixels; --image-size HEIGHTxWIDTH changes it")
    return height, width


def channel_values(name: Literal["mean", "std"], given: Sequence[float] | None, channels: int) -> tuple[float, ...]:
    """Return one value per channel: the given ones (a single value applies to all channels), or ImageNet's.

    Raises:
        GoalError: the number of values is wrong, a std is not above 0, or they are on the scale 0 to 255.
    """
    if given is None:
        usual = _IMAGENET[name == "std"]
        return usual if channels == 3 else (sum(usual) / len(usual),)
    values = tuple(given) * channels if len(given) == 1 else tuple(given)
    valid = all(0 < value <= _LARGEST_STD for value in values) if name == "std" else all(abs(value) <= 1 for value in values)
    if len(values) != channels or not valid:
        rule = f"it is one value for each of {channels} channels, or one for all, on the scale 0 to 1" + ", above 0" * (name == "std")
        raise GoalError(f"a {name} of {', '.join(map(str, given))}", rule, f"for example {','.join(map(str, _IMAGENET[name == 'std']))}")
    return values


def tell_preprocessing(
    file: Path, spec: InputSpec, how: Preprocessing, classes: Sequence[str], no_mean: bool, no_std: bool, no_resize: bool
) -> None:
    """Report the preprocessing of the file, and which parts of it are assumed."""
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (how.mean, how.std))
    assumed = [name for name, missing in (("--mean", no_mean), ("--std", no_std), ("--resize", no_resize)) if missing]
    names = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
    note(
        f"input of {file.name}: {spec.height} x {spec.width} pixels ({how.resize}), (pixel / 255 - {mean}) / {std}"
        + (f"; its {len(classes)} outputs are taken to be the classes in this order: {names}" if classes else "")
        + (f"; this is assumed, as the file does not say: change it with {', '.join(assumed)}" if assumed else "")
    )

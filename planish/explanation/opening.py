"""Open the target of an explanation (bundle, run, saved model, ONNX or OpenVINO file) as one model file with inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from planish.artifact import Artifact, InputSpec, Preprocessing
from planish.data import Decoding, load_images
from planish.data.preprocessing import preprocess
from planish.errors import DataError, ModelError
from planish.explanation.model_file import Array, ModelFile
from planish.export import ToOnnx
from planish.export.bundle.folder import bundle_folder, read_bundle
from planish.export.runtimes.packed_file import unpacked_file
from planish.export.runtimes.registry import available
from planish.files.reading import DAMAGED, describe, read_bytes, require_regular
from planish.runs.open_model import Opened, open_model

if TYPE_CHECKING:
    from planish.artifact import Pixels
    from planish.task import Task

_IMAGES = 32  # at most this many are used to measure errors


@dataclass(frozen=True)
class ExplainedModel:
    """A model file to explain, with its inputs.

    Args:
        model: the file in its runtime.
        images: real inputs ``(N, ...)`` of a model with one input; None if there are none.
        image_files: encoded images, used to time ``preprocessing``.
        input_spec: the model's input; None if unknown.
        preprocessing: converts an image file to that input; None if unknown.
        notes: decisions to report to the user.
    """

    model: ModelFile
    images: Array | None = None
    image_files: tuple[bytes, ...] = ()
    input_spec: InputSpec | None = None
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Samples:
    """A minimal stand-in for a task that gives an export the few images it needs for its check."""

    pixels: Pixels = field(repr=False)

    def split(self, name: str) -> _Samples:
        return self

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Pixels:
        return self.pixels


def open_explained(
    target: str | Path, *, runtime: str, threads: int, batch: int, data: str | Path | None, settings: Mapping[str, str]
) -> ExplainedModel:
    """Open a target; the arguments are those of ``planish.explanation.explain.explain``.

    Raises:
        ModelError: the target cannot be explained.
        DataError: the images cannot be used with it.
    """
    place = Path(target)
    if place.suffix in (".onnx", ".xml") and place.is_file() and not _is_ours(place):
        return _open_file(place, runtime, threads, batch, data, settings)
    opened = open_model(place, "auto" if place.is_dir() and runtime != "auto" and _is_torch(place) else runtime)
    files, pixels = _samples(opened, data)
    notes: tuple[str, ...] = ()
    if opened.artifact is not None and opened.format == "torch":
        exported = _export(opened.artifact, pixels)
        name = runtime if runtime != "auto" else next(n for n in available() if n in ("onnxruntime", "openvino"))
        model = ModelFile(exported.files[0], name, threads, batch, settings)
        notes = ("a saved torch model does not run by itself: what is explained is its fp32 export",)
    else:
        model = ModelFile(unpacked_file(opened.files[0]), opened.runtime, threads, batch, settings)
    return ExplainedModel(model, pixels, files, opened.input_spec, opened.preprocessing, notes)


def open_reference(target: str | Path) -> Path:
    """Return the float ONNX file to compare with: the target itself, or that of a bundle or run, or a saved torch model's export.

    Raises:
        ModelError: the model is not in ONNX format.
    """
    place = Path(target)
    if place.suffix == ".onnx" and place.is_file():
        ModelFile(place, "onnxruntime").require_first_load()
        return place
    opened = open_model(place)
    if opened.artifact is not None and opened.format == "torch":
        return _export(opened.artifact, None).files[0]
    if opened.format not in ("onnx", "packed"):
        raise ModelError(f"{place} is in format {opened.format}", "a reference is a float ONNX file, its bundle, or a saved torch model")
    return unpacked_file(opened.files[0])


def _open_file(place: Path, runtime: str, threads: int, batch: int, data: str | Path | None, settings: Mapping[str, str]) -> ExplainedModel:
    name = runtime if runtime != "auto" else "openvino" if place.suffix == ".xml" else "onnxruntime"
    if name == "onnxruntime" and place.suffix == ".xml":
        raise ModelError(f"onnxruntime cannot open {place}", "it opens .onnx files", "choose --runtime openvino")
    model = ModelFile(place, name, threads, batch, settings)
    if data is None:
        model.require_first_load()
        return ExplainedModel(model, notes=("random inputs: what a layer takes hardly depends on them",))
    if Path(data).suffix != ".npy":
        raise DataError(
            f"{data} cannot be fed to {place}", "how images become its input is not known, since Planish did not write it",
            "give an array of inputs, saved with numpy.save to a .npy file",
        )  # fmt: skip
    array = _load(Path(data))
    model = model.with_settings(sides=array.shape[1:])
    model.require_first_load()
    return ExplainedModel(model, _fitting(Path(data), array, model))


def dynamic_size_notes(model: ModelFile) -> tuple[str, ...]:
    """Return a note on each input of dynamic size: all times and MACs refer to the size that was used."""
    why = "that of the data" if model.sides else "give --data, an array of another size, to explain that one"
    return tuple(
        f"the file leaves the size of {name!r} open; taken was {' x '.join(map(str, shape))} (batch first), {why}"
        for name, shape in model.dynamic_inputs().items()
    )


def _load(file: Path) -> Array:
    try:
        require_regular(file)
        array: Array = np.load(file, mmap_mode="r", allow_pickle=False)  # mapped, so a header cannot claim more memory than the file has
    except DAMAGED as error:
        raise DataError(f"{file} cannot be read: {describe(error)}", "it is an array saved with numpy.save") from error
    return array


def _fitting(file: Path, array: Array, model: ModelFile) -> Array:
    inputs = model.inputs()
    name, shape, kind = inputs[0]
    if len(inputs) > 1 or array.shape[1:] != tuple(shape[1:]) or array.dtype != kind or not len(array):
        raise DataError(
            f"{file} holds {array.dtype} {array.shape}",
            f"{name!r} of {model.path} takes {np.dtype(kind)} (N, {', '.join(map(str, shape[1:]))})",
        )
    return array[:_IMAGES]


def _is_ours(place: Path) -> bool:
    if place.suffix != ".onnx":
        return False
    import onnx

    try:
        require_regular(place)
        return any(p.key == "planish.input_spec" for p in onnx.load(str(place), load_external_data=False).metadata_props)
    except Exception:  # protobuf's own exceptions; the error is reported when the file is opened
        return False


def _is_torch(place: Path) -> bool:
    return (place / "artifact.json").exists() and not (place / "bundle.json").exists()


def _samples(opened: Opened, data: str | Path | None) -> tuple[tuple[bytes, ...], Pixels | None]:
    """Return image files and their preprocessed pixels: from the data if given, else a bundle's golden samples."""
    spec, how = opened.input_spec, opened.preprocessing
    if data is not None:
        images = load_images(
            data, decoding=Decoding(how.decode_side, spec.channels), task=opened.task, assignment=opened.assignment,
            class_names=opened.class_names,
        )  # fmt: skip
        split = next(images.splits[name] for name in ("calibration", "validation", "test") if len(images.splits[name]))
        chosen = np.unique(np.linspace(0, len(split) - 1, min(_IMAGES, len(split))).astype(int))
        files = tuple(split.file_bytes(int(i)) for i in chosen)
    else:
        place = bundle_folder(opened.path)
        golden = read_bundle(place).golden_samples if (place / "bundle.json").exists() else ()
        files = tuple(read_bytes(place / name) for name in golden)
    return files, np.stack([preprocess(file, spec, how) for file in files]) if files else None


def _export(artifact: Artifact, pixels: Pixels | None) -> Artifact:
    if pixels is None:
        spec = artifact.input_spec
        pixels = np.random.default_rng(0).integers(0, 256, (4, spec.height, spec.width, spec.channels), dtype=np.uint8)
    return ToOnnx().apply(artifact, cast("Task", cast(Any, _Samples(pixels))))

"""What somebody asks to have explained, as one file with inputs: a bundle, a run, a saved model, or any ONNX or OpenVINO file."""

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
from planish.export.runtimes.registry import available
from planish.files.reading import DAMAGED, describe, read_bytes, require_regular
from planish.runs.open_model import Opened, open_model

if TYPE_CHECKING:
    from planish.artifact import Pixels
    from planish.task import Task

_IMAGES = 32  # errors are measured on so many at most


@dataclass(frozen=True)
class Explained:
    """A file and what can be fed to it.

    Args:
        model: the file in its runtime.
        images: real inputs, ``(N, ...)``, for the only input; None where there are none.
        image_files: encoded images that ``preprocessing`` can be timed on.
        input_spec: what the model is fed; None where nobody knows.
        preprocessing: how an image file becomes that.
        notes: what was decided, in words.
    """

    model: ModelFile
    images: Array | None = None
    image_files: tuple[bytes, ...] = ()
    input_spec: InputSpec | None = None
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Samples:
    """Stands in for a task where an export only wants a few images to check itself on."""

    pixels: Pixels = field(repr=False)

    def split(self, name: str) -> _Samples:
        return self

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Pixels:
        return self.pixels


def open_explained(
    target: str | Path, *, runtime: str, threads: int, batch: int, data: str | Path | None, settings: Mapping[str, str]
) -> Explained:
    """Open what ``target`` names.

    Raises:
        ModelError: it is nothing that can be explained.
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
        model = ModelFile(opened.files[0], opened.runtime, threads, batch, settings)
    return Explained(model, pixels, files, opened.input_spec, opened.preprocessing, notes)


def open_reference(target: str | Path) -> Path:
    """The float ONNX file to compare with: a file, or that of a bundle, a run, or a saved model.

    Raises:
        ModelError: it is no ONNX file.
    """
    place = Path(target)
    if place.suffix == ".onnx" and place.is_file():
        ModelFile(place, "onnxruntime").require_first_load()
        return place
    opened = open_model(place)
    if opened.artifact is not None and opened.format == "torch":
        return _export(opened.artifact, None).files[0]
    if opened.format != "onnx":
        raise ModelError(f"{place} is in format {opened.format}", "a reference is a float ONNX file, its bundle, or a saved torch model")
    return opened.files[0]


def _open_file(place: Path, runtime: str, threads: int, batch: int, data: str | Path | None, settings: Mapping[str, str]) -> Explained:
    name = runtime if runtime != "auto" else "openvino" if place.suffix == ".xml" else "onnxruntime"
    if name == "onnxruntime" and place.suffix == ".xml":
        raise ModelError(f"onnxruntime cannot open {place}", "it opens .onnx files", "choose --runtime openvino")
    model = ModelFile(place, name, threads, batch, settings)
    if data is None:
        model.require_first_load()
        return Explained(model, notes=("random inputs: what a layer takes hardly depends on them",))
    if Path(data).suffix != ".npy":
        raise DataError(
            f"{data} cannot be fed to {place}", "how images become its input is not known, since Planish did not write it",
            "give an array of inputs, saved with numpy.save to a .npy file",
        )  # fmt: skip
    array = _load(Path(data))
    model = model.with_settings(sides=array.shape[1:])
    model.require_first_load()
    return Explained(model, _fitting(Path(data), array, model))


def size_taken(model: ModelFile) -> tuple[str, ...]:
    """A note on each input whose size the file leaves open: all times and multiplications are those of the size that was taken."""
    why = "that of the data" if model.sides else "give --data, an array of another size, to explain that one"
    return tuple(
        f"the file leaves the size of {name!r} open; taken was {' x '.join(map(str, shape))} (batch first), {why}"
        for name, shape in model.open_sides().items()
    )


def _load(file: Path) -> Array:
    try:
        require_regular(file)
        array: Array = np.load(file, mmap_mode="r", allow_pickle=False)  # no memory is taken for more than the file holds
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
    except Exception:  # protobuf's own; the file is reported when it is opened
        return False


def _is_torch(place: Path) -> bool:
    return (place / "artifact.json").exists() and not (place / "bundle.json").exists()


def _samples(opened: Opened, data: str | Path | None) -> tuple[tuple[bytes, ...], Pixels | None]:
    """Image files and what becomes of them: the data's, else a bundle's golden samples."""
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

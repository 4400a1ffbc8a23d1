"""Opening a model by its path: a bundle, a run, a saved artifact, or an ONNX file that Planish exported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from planish.artifact import Artifact, InputSpec, Lineage, Predictor, Preprocessing
from planish.errors import ModelError
from planish.evaluation.latency import Subject
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.bundle.folder import bundle_folder, changed_files, read_bundle
from planish.export.onnx.external import metadata_of
from planish.export.runtimes.first_load import require_first_load
from planish.export.runtimes.registry import available, imports, load, run_checked
from planish.files.reading import wrap_parse_errors
from planish.models.storage import load_artifact
from planish.split_assignment import SplitAssignment, assignment_beside

if TYPE_CHECKING:
    from planish.artifact import Pixels


@dataclass(frozen=True)
class Opened:
    """An opened model.

    Args:
        path: path as given by the user.
        format: ``torch``, ``onnx``, ``openvino``.
        runtime: the runtime that runs it.
        files: files of the model; empty for torch.
        input_spec: shape of its input.
        preprocessing: how an image file becomes its input.
        class_names: in the order of its outputs.
        task: name of the task.
        artifact: the artifact, if the path was a saved artifact or a network; else None.
        assignment: the splits of the images that it was made with; None if they are not known.
    """

    path: Path
    format: str
    runtime: str
    files: tuple[Path, ...]
    input_spec: InputSpec
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    task: str = "classification"
    artifact: Artifact | None = None
    assignment: SplitAssignment | None = None

    def predictor(self, threads: int = 1, batch: int | None = None) -> Predictor:
        """Load the model and return it as a predictor."""
        if self.format == "torch":
            assert self.artifact is not None
            return TorchPredictor.fastest(self.artifact.module, self.preprocessing)
        return partial(run_checked, load(self.files, self.runtime, threads=threads, batch=batch), name=self.files[0].name)

    def subject(self, threads: int, batch: int) -> Subject:
        """Return the model as a subject for latency measurements, with random pixels as input.

        Raises:
            ModelError: it is a torch model; only exported files are timed.
        """
        if self.format == "torch":
            raise ModelError(
                f"{self.path} is a torch model", "what is timed is an exported file", f"run: planish export {self.path} --to onnx"
            )
        size = (batch, self.input_spec.height, self.input_spec.width, self.input_spec.channels)
        images: Pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        arguments = {"files": [str(f) for f in self.files], "runtime": self.runtime, "threads": threads, "batch": batch}
        return Subject("planish.export.runtimes.registry:load", arguments, images, self.runtime, imports=imports(self.runtime))


def open_model(path: str | Path, runtime: str = "auto") -> Opened:
    """Open the model at ``path``.

    An exported file is first loaded in a separate process (see ``planish.export.runtimes.first_load``), unless it is in a bundle whose
    hashes match.

    Args:
        path: folder of a bundle, of a run (its bundle is opened) or of a saved artifact, or an ``.onnx`` file written by Planish.
        runtime: name of the runtime; ``auto`` for that of the bundle, or the first one that supports the format.

    Raises:
        ModelError: the path is none of these.
        BundleError: the bundle is damaged.
        ExportError: the file cannot be loaded.
    """
    place = bundle_folder(Path(path))
    if (place / "bundle.json").exists():
        bundle = read_bundle(place)
        files = tuple(place / name for name in bundle.files)
        chosen = bundle.runtime if runtime == "auto" else runtime
        spec, preprocessing, assignment = bundle.input_spec, bundle.preprocessing, assignment_beside(place)
        opened = Opened(
            Path(path), bundle.format, chosen, files, spec, preprocessing, bundle.class_names, bundle.task, assignment=assignment
        )
        return _loaded_first(opened) if changed_files(place, bundle) else opened
    if (place / "artifact.json").exists():
        return _loaded_first(_open_artifact(place, runtime))
    if place.suffix == ".onnx" and place.is_file():
        return _loaded_first(_open_onnx(place, _runtime("onnx", runtime)))
    what = "does not exist" if not place.exists() else "is neither a bundle, a run, a saved model nor an ONNX file"
    raise ModelError(
        f"{place} {what}", "a model is a folder with bundle.json or artifact.json, a run's folder, or an .onnx file that Planish wrote"
    )


def _loaded_first(opened: Opened) -> Opened:
    if opened.files:
        spec = opened.input_spec
        require_first_load(opened.files, opened.runtime, (spec.height, spec.width, spec.channels))
    return opened


def _open_artifact(place: Path, runtime: str) -> Opened:
    artifact = load_artifact(place)
    chosen = "torch" if artifact.format == "torch" else _runtime(artifact.format, runtime)
    spec, preprocessing, task = artifact.input_spec, artifact.preprocessing, artifact.lineage.source.task
    return Opened(
        place, artifact.format, chosen, artifact.files, spec, preprocessing, artifact.class_names, task, artifact, assignment_beside(place)
    )


def _runtime(format_: str, wanted: str) -> str:
    fitting = available(format_)
    if wanted == "auto" and fitting:
        return fitting[0]
    if wanted not in fitting:
        raise ModelError(
            f"{wanted} cannot open {format_} files here", "a runtime opens certain formats", f"choose from {', '.join(fitting) or 'none'}"
        )
    return wanted


def _open_onnx(file: Path, runtime: str) -> Opened:
    metadata = metadata_of(file)
    if "planish.input_spec" not in metadata:
        raise ModelError(
            f"{file} was not written by Planish",
            "its preprocessing is not known",
            "planish optimize DATA --model FILE.onnx makes a bundle of it",
        )
    with wrap_parse_errors(file, ModelError, "it is as Planish wrote it", "export it again"):
        spec = TypeAdapter(InputSpec).validate_json(metadata["planish.input_spec"])
        preprocessing = TypeAdapter(Preprocessing).validate_json(metadata["planish.preprocessing"])
        task = TypeAdapter(Lineage).validate_json(metadata["planish.lineage"]).source.task
        names = TypeAdapter(tuple[str, ...]).validate_json(metadata["planish.class_names"])
    return Opened(file, "onnx", runtime, (file,), spec, preprocessing, names, task, assignment=assignment_beside(file))

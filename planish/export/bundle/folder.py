"""The bundle: one folder with everything that is deployed."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing
from planish.data.preprocessing import preprocess
from planish.devices.device import current_device
from planish.errors import BundleError, DataError
from planish.export.bundle.readme import readme
from planish.export.bundle.reference import DriftReference, image_values, reference_values
from planish.export.checks.agreement import compact_outputs
from planish.export.runtimes.registry import DEFAULT_PRECISION, find, load
from planish.files.archives import read_arrays
from planish.files.reading import real_path
from planish.files.schema import read_versioned
from planish.files.trust import file_sha256
from planish.files.workspace import replace_folder
from planish.measurement import Measurement
from planish.settings import DeploymentTarget
from planish.split_assignment import SPLITS_FILE, SplitAssignment

if TYPE_CHECKING:
    from planish.artifact import Outputs, Predictor
    from planish.task import Split, Task

DESCRIPTION, SEAL, SIGNATURE = "bundle.json", "bundle.json.sha256", "bundle.sig"
EXPECTED, REFERENCE = "golden/expected.npz", "reference.json"
# Relative to the largest expected value. On another processor, float kernels sum in another order; integer kernels also round some
# values to the neighbouring step, and this error propagates through all later layers.
_TOLERANCE = {"fp32": 1e-3, "int8": 0.1}
_REFERENCE_IMAGES = 1000
GOLDEN = 16  # number of golden samples


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Bundle:
    """The content of ``bundle.json``.

    Args:
        task: name of the task, such as ``classification``.
        format: format of the model.
        files: model files, relative to the bundle; the runtime opens the first one.
        class_names: in the order of the model's outputs.
        input_spec: shape of the model's input.
        preprocessing: how an image file is converted to the model's input.
        lineage: how the model was made.
        runtime: in which the model was measured.
        threads: number of threads of the measurements.
        batch_size: batch size of the measurements.
        runtime_settings: settings of the runtime during the measurements, on the device that they name.
        measurements: by name.
        versions: of the libraries that the bundle was made with.
        golden_samples: image files with expected outputs, relative to the bundle.
        tolerance: largest difference allowed from the expected outputs, relative to the largest expected value.
        sha256: hashes by name of all files except this one, its seal and the signature.
        created: time in UTC.
    """

    task: str
    format: str
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    class_names: tuple[str, ...]
    input_spec: InputSpec
    preprocessing: Preprocessing
    lineage: Lineage
    runtime: str
    threads: Annotated[int, Field(ge=1, le=4096)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    runtime_settings: dict[str, str]
    measurements: dict[str, Measurement]
    versions: dict[str, str]
    golden_samples: tuple[str, ...]
    tolerance: Annotated[FiniteFloat, Field(ge=0)]
    sha256: dict[str, str]
    created: str
    schema_version: Literal[1] = 1


def write_bundle(
    artifact: Artifact,
    task: Task,
    folder: Path,
    *,
    target: DeploymentTarget,
    measurements: Mapping[str, Measurement],
    golden: int = GOLDEN,
    assignment: SplitAssignment | None = None,
) -> Path:
    """Write a bundle to ``folder``, which appears only once it is complete. An earlier bundle there is replaced.

    Args:
        artifact: an exported model.
        task: its validation split provides the golden samples and the reference values; the test split is not used.
        folder: where to write the bundle.
        target: runtime, number of threads and batch size of the measurements.
        measurements: by name.
        golden: number of golden samples.
        assignment: the split of each image that the model was made with, saved as ``splits.json``.

    Raises:
        BundleError: the artifact is not exported, or ``folder`` contains something other than a bundle.
    """
    if not artifact.files:
        raise BundleError(f"the model is in format {artifact.format}", "a bundle holds an exported model", "add a to_onnx step")
    if folder.exists() and not (folder / DESCRIPTION).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder} exists and is not a bundle", "only a bundle is replaced by a bundle", "name another folder")
    runtime, threads = target.runtime, target.threads
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "golden").mkdir(parents=True)
    for file in artifact.files:
        shutil.copyfile(file, partial / file.name)
    predictor = load([partial / artifact.files[0].name], runtime, threads=threads, batch=1)
    names = _write_golden(artifact, task.split("validation"), partial, predictor, golden)
    _write_reference(artifact, task, partial, predictor)
    if assignment is not None:
        assignment.save(partial / SPLITS_FILE)
    (partial / "README.md").write_text(readme(artifact, task.name, runtime), encoding="utf-8")
    bundle = Bundle(
        task=task.name,
        format=artifact.format,
        files=tuple(file.name for file in artifact.files),
        class_names=artifact.class_names,
        input_spec=artifact.input_spec,
        preprocessing=artifact.preprocessing,
        lineage=artifact.lineage,
        runtime=runtime,
        threads=threads,
        batch_size=target.batch,
        runtime_settings=find(runtime).settings(threads),
        measurements=dict(measurements),
        versions={
            "planish": _planish_version(),
            runtime: current_device().runtime_version(runtime),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        golden_samples=names,
        tolerance=tolerance_of(artifact.facts["precision"], runtime),
        sha256=dict(sorted(file_hashes(partial).items())),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (partial / DESCRIPTION).write_bytes(TypeAdapter(Bundle).dump_json(bundle, indent=1))
    (partial / SEAL).write_text(f"{file_sha256(partial / DESCRIPTION)}  {DESCRIPTION}\n")
    replace_folder(folder, partial)
    return folder


def bundle_folder(place: Path) -> Path:
    """The bundle in the folder of a run, or ``place`` itself if it contains none."""
    return place / "bundle" if (place / "bundle" / DESCRIPTION).exists() else place


def read_bundle(folder: Path) -> Bundle:
    """Read ``bundle.json``.

    Raises:
        BundleError: it is missing, damaged, of another version, or refers to files outside the folder.
    """
    bundle = read_versioned(folder / DESCRIPTION, Bundle, "it is as Planish wrote it", "make the bundle again")
    for name in (*bundle.files, *bundle.golden_samples, *bundle.sha256):
        path = PurePosixPath(name)
        outside = (
            path.is_absolute()
            or ".." in path.parts
            or "\\" in name
            or ":" in name
            or not real_path(folder / name).is_relative_to(real_path(folder))
        )
        if outside:
            raise BundleError(
                f"{folder / DESCRIPTION} names {name!r}", "all files of a bundle lie in its folder", "do not trust this bundle"
            )
    return bundle


def read_expected(folder: Path, bundle: Bundle, max_bytes: int) -> Outputs:
    """The expected outputs of the golden samples, by name; the first axis is the sample.

    Args:
        folder: of the bundle.
        bundle: its description.
        max_bytes: limit for all outputs together.

    Raises:
        BundleError: they cannot be read, or are not numbers for each sample.
    """
    try:
        found = read_arrays(folder / EXPECTED, max_bytes)
    except DataError as error:
        raise BundleError(error.received, error.rule, "make the bundle again") from error
    if not found or any(a.shape[:1] != (len(bundle.golden_samples),) or a.dtype.kind not in "biuf" for a in found.values()):
        raise BundleError(
            f"{folder / EXPECTED} does not fit", f"it has numbers of {len(bundle.golden_samples)} samples", "make the bundle again"
        )
    return found


def unnamed_classes(outputs: Outputs, bundle: Bundle) -> str:
    """Describe how a model's outputs for a few images differ from the bundle's class names; empty if each class has a name."""
    count = len(bundle.class_names)
    if bundle.task == "classification" and outputs["logits"].shape[1] != count:
        return f"the bundle names {count} classes, and the model has {outputs['logits'].shape[1]}"
    labels = outputs["labels"][outputs["scores"] > 0] if {"labels", "scores"} <= outputs.keys() else outputs.get("classes", np.zeros(0))
    if labels.size and labels.max() >= count:
        return f"the bundle names {count} classes, and the model found class {int(labels.max())}, counted from 0"
    return ""


def changed_files(folder: Path, bundle: Bundle) -> list[str]:
    """The differences from the bundle as it was made, one line each.

    This detects accidental changes. Whoever changes a file deliberately can also replace its hash; only a signature detects that
    (``planish.export.bundle.signature``).
    """
    try:
        hashes = file_hashes(folder)
    except BundleError as error:
        return [str(error)]
    present = hashes.keys() - {DESCRIPTION, SEAL}
    failures = [f"{name} is missing" for name in sorted(set(bundle.sha256) - present)]
    failures += [f"{name} does not belong here" for name in sorted(present - set(bundle.sha256))]
    failures += [f"{name} was changed" for name in sorted(present & set(bundle.sha256)) if hashes[name] != bundle.sha256[name]]
    unlisted = sorted({*bundle.files, *bundle.golden_samples, EXPECTED} - set(bundle.sha256))
    failures += [f"{name} has no hash" for name in unlisted]
    seal = folder / SEAL
    if not seal.is_file():
        failures.append(f"{SEAL} is missing")
    elif (sealed := seal.read_bytes()).split()[:1] != [hashes[DESCRIPTION].encode()] or not sealed.isascii():
        failures.append(f"{DESCRIPTION} was changed")
    return failures


def file_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 hashes of all files in a bundle except its signature, by name.

    Raises:
        BundleError: the folder contains something that is not a file, or a link to a place outside of it.
    """
    hashes = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if not real_path(path).is_relative_to(real_path(folder)):
            raise BundleError(f"{path} is a link that leads out of the bundle", "all its files lie in its folder", "copy the file there")
        if not path.is_file():
            raise BundleError(f"{path} is not a file", "a bundle holds files alone", "take it away")
        if name != SIGNATURE:
            hashes[name] = file_sha256(path)
    return hashes


def spread(length: int, count: int) -> list[int]:
    """Return ``count`` indices, evenly spread over a split of this length; all of them if it has fewer."""
    return [int(i) for i in np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))]


def tolerance_of(precision: str, runtime: str) -> float:
    """Return the tolerance for a file of this precision, see ``Bundle``; a runtime's default precision may differ on another processor."""
    is_default = runtime in {kind.name for kind in DEFAULT_PRECISION.values()}
    return max(_TOLERANCE.values()) if is_default else _TOLERANCE.get(precision, max(_TOLERANCE.values()))


def _write_golden(artifact: Artifact, split: Split, folder: Path, predictor: Predictor, count: int) -> tuple[str, ...]:
    names, outputs = [], []
    for number, index in enumerate(spread(len(split), count)):
        data = split.file_bytes(index)
        suffix = PurePosixPath(split.keys[index]).suffix.lower()
        name = f"golden/{number:03d}{suffix if suffix[1:].isalnum() else ''}"
        (folder / name).write_bytes(data)
        outputs.append(compact_outputs(predictor(preprocess(data, artifact.input_spec, artifact.preprocessing)[None])))
        names.append(name)
    arrays = {key: np.concatenate([o[key] for o in outputs]) for key in outputs[0]}
    np.savez_compressed(folder / EXPECTED, **arrays)  # type: ignore[arg-type]
    return tuple(names)


def _write_reference(artifact: Artifact, task: Task, folder: Path, predictor: Predictor) -> None:
    split = task.split("validation")
    images = split.images(artifact.input_spec, artifact.preprocessing)

    def values() -> Iterator[dict[str, Any]]:
        for i in spread(len(split), _REFERENCE_IMAGES):  # one at a time: the masks of all images would not fit into memory
            image = np.ascontiguousarray(images[i : i + 1])
            yield from image_values(task.name, artifact.class_names, image, predictor(image), [split.file_bytes(i)])

    found = reference_values(values(), artifact.class_names)
    (folder / REFERENCE).write_bytes(TypeAdapter(DriftReference).dump_json(found))


def _planish_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("planish")
    except PackageNotFoundError:
        return ""

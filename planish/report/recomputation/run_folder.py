"""Read a run folder: the result, and the predictions and timings from which its numbers were computed."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from planish.errors import BundleError
from planish.files.atomic import read_arrays
from planish.files.reading import read_bytes
from planish.files.schema import read_versioned
from planish.report.plots.pictures import Pictures, read_pictures
from planish.search.evidence import RECORDED, RunEvidence, Session, Timings, Validation
from planish.search.result import Result

_NEEDED = ("result.json", "predictions.npz", "validation.npz", "latency.json", "evidence.json")
_FIX = "run 'planish optimize' again with --resume, which writes what is missing"


@dataclass(frozen=True)
class Predictions:
    """Predictions on the test images: ``targets`` ``(N,)``, both models' logits ``(N, classes)``, image names ``keys`` ``(N,)``; ``more``
    has the original's logits in other runtimes, by runtime.
    """

    targets: npt.NDArray[np.int64]
    baseline: npt.NDArray[np.float32]
    chosen: npt.NDArray[np.float32]
    keys: npt.NDArray[np.str_]
    more: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """Results on the test images of a task without logits: both models' scores ``(N,)``, whose mean is the metric, and ``keys``."""

    baseline: npt.NDArray[np.float64]
    chosen: npt.NDArray[np.float64]
    keys: npt.NDArray[np.str_]
    more: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Disagreements:
    """Test images on which the models differ: ``pixels`` ``(K, H, W, C)`` uint8, all else ``(K,)``; predictions are class indices."""

    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.int64]
    baseline: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    baseline_confidence: npt.NDArray[np.float64]
    chosen_confidence: npt.NDArray[np.float64]
    keys: npt.NDArray[np.str_]


@dataclass(frozen=True)
class Mistakes:
    """The chosen model's most confident errors on test: ``rows`` in the predictions ``(K,)``, ``pixels`` ``(K, H, W, C)`` uint8."""

    rows: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]


class EpochRow(BaseModel):
    """One epoch of the baseline's training."""

    model_config = ConfigDict(extra="ignore")
    epoch: int
    train_loss: float
    validation_score: float
    seconds: float = 0.0
    learning_rate: float = 0.0


@dataclass(frozen=True)
class RunFolder:
    """The contents of a run folder; the last five attributes are None or empty if the run has none.

    Args:
        path: the folder.
        result: ``result.json``.
        samples: latencies of single calls in milliseconds, by candidate key.
        sessions: timing sessions, from whose rounds medians and ratios are computed. The last one times the chosen model and the baselines.
        predictions: on test.
        validation: scores on validation, from which the candidates' drops are computed.
        evidence: ``evidence.json``: the folders of candidates, and recorded numbers that cannot be recomputed.
        disagreements: images on which the models differ.
        mistakes: images that the chosen model gets wrong.
        pictures: images with the targets and both models' predictions drawn in.
        history: of the baseline's training.
        bundle: name and size in bytes of each file in the bundle.
    """

    path: Path
    result: Result
    samples: dict[str, npt.NDArray[np.float64]]
    sessions: list[Session]
    predictions: Predictions | Scores
    validation: Validation
    evidence: dict[str, Any]
    disagreements: Disagreements | None
    mistakes: Mistakes | None
    pictures: Pictures | None
    history: list[EpochRow]
    bundle: list[tuple[str, int]]


def read_run(path: Path) -> RunFolder:
    """Read and check a run folder.

    Raises:
        BundleError: the folder is not a run folder, or a file is missing, unreadable or inconsistent with the others.
    """
    if not path.is_dir():
        raise BundleError(f"{path} is not a folder", "a report is made from the folder of a run", "runs lie in runs/NAME")
    result = _result(path / "result.json")
    classes = len(class_names(result))
    samples, sessions = _timings(path / "latency.json", result)
    predictions = _predictions(path / "predictions.npz", classes)
    return RunFolder(
        path=path,
        result=result,
        samples=samples,
        sessions=sessions,
        predictions=predictions,
        validation=_validation(path / "validation.npz"),
        evidence=_evidence(path / "evidence.json"),
        disagreements=_disagreements(path / "disagreements.npz", classes),
        mistakes=_mistakes(path / "mistakes.npz", len(predictions.keys)),
        pictures=read_pictures(path / "pictures.npz", len(predictions.keys)),
        history=read_history(path / "history.json"),
        bundle=_bundle(path / "bundle"),
    )


def class_names(result: Result) -> list[str]:
    """Return the names of all classes, in the order of the model's outputs."""
    return list(result.class_names) or [each.name for each in result.per_class]


def _broken(path: Path, why: str, rule: str) -> BundleError:
    return BundleError(f"{path}: {why}", rule, _FIX)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise _broken(path, why, f"a finished run has {', '.join(_NEEDED)}") from None


def _result(path: Path) -> Result:
    _read(path)
    result = Result.load(path)
    for candidate in (result.baseline, *result.baselines.values(), result.chosen):
        if "latency_ms" not in candidate.measurements:
            raise _broken(path, f"there is no latency_ms of {candidate.key}", "every fp32 baseline and the chosen candidate have theirs")
    if missing := [name for name in ("drop_validation", "size_bytes") if name not in result.chosen.measurements]:
        raise _broken(path, f"there is no {' and no '.join(missing)} of {result.chosen.key}", "the chosen candidate has both")
    return result


def _timings(path: Path, result: Result) -> tuple[dict[str, npt.NDArray[np.float64]], list[Session]]:
    rule = (
        'it holds {"unit": "ms", "samples": {candidate: [ms, ...]}, "sessions": [{"rounds": {candidate: [[ms, ...], ...]}}]}, all above 0'
    )
    needed = (*result.baselines.values(), result.chosen)
    _read(path)
    stored = read_versioned(path, Timings, rule, _FIX)
    samples = {key: np.asarray(times, dtype=np.float64) for key, times in stored.samples.items()}
    sessions = [Session(s.name, s.baseline, s.rounds, s.copy, {}) for s in stored.sessions]
    if not sessions:
        raise _broken(path, "there are no sessions", rule)
    timed = [*samples.items()]
    timed += [(key, np.asarray(x, np.float64)) for s in sessions for key, launches in s.rounds.items() for x in launches]
    timed += [(f"the copy of {s.baseline}", np.asarray(x, np.float64)) for s in sessions for x in s.copy]
    for key, times in timed:
        if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or times.min() <= 0:
            raise _broken(path, f"the times of {key} are not a list of positive numbers", rule)
    last = sessions[-1]
    for candidate in needed:
        if candidate.key not in samples or not last.rounds.get(candidate.key):
            raise _broken(path, f"there are no times of {candidate.key}", "every fp32 baseline and the chosen candidate have theirs")
    for session in sessions:
        shapes = {tuple(map(len, launches)) for launches in (*session.rounds.values(), session.copy)}
        if len(shapes) > 1 or session.baseline not in session.rounds:
            raise _broken(path, "not all candidates have the same rounds", rule)
    return samples, sessions


def _validation(path: Path) -> Validation:
    _read(path)
    found = Validation(**_arrays(path, [f.name for f in fields(Validation)]))
    models, images = found.scores.shape if found.scores.ndim == 2 else (0, 0)
    rows = (found.own, found.reference)
    fits = images and found.keys.shape == (images,) and all(r.shape == found.candidates.shape and r.dtype.kind in "iu" for r in rows)
    fits = fits and found.images.shape == () and found.images.dtype.kind == "f"
    if not fits or not np.isfinite(found.scores).all() or any(len(r) and not 0 <= r.min() <= r.max() < models for r in rows):
        raise _broken(path, "the arrays do not fit", "it has finite scores (models, images), and two rows of them for each candidate")
    return found


def _evidence(path: Path) -> dict[str, Any]:
    _read(path)
    found = read_versioned(path, RunEvidence, f"it holds {', '.join(('files', *RECORDED))}", _FIX)
    return dict(TypeAdapter(RunEvidence).dump_python(found, mode="json"))


def _arrays(path: Path, names: list[str], others: bool = False) -> dict[str, npt.NDArray[Any]]:
    """Read the named arrays of a file, and all others as well if ``others``."""
    stored = read_arrays(path, names)
    return stored if others else {name: stored[name] for name in names}


def _predictions(path: Path, classes: int) -> Predictions | Scores:
    """Read logits and targets, or one score per image, depending on the arrays in the file."""
    _read(path)
    arrays = _arrays(path, ["baseline", "chosen", "keys"], others=True)
    targets, own = arrays.pop("targets", None), {name: arrays.pop(name) for name in ("baseline", "chosen", "keys")}
    if targets is None or own["baseline"].ndim == 1:
        return _checked_scores(path, Scores(**own, more=arrays))
    found = Predictions(**own, targets=targets, more=arrays)
    n = len(found.targets)
    logits = (found.baseline, found.chosen, *found.more.values())
    if not n or any(each.shape != (n, classes) for each in logits) or found.keys.shape != (n,):
        got = f"targets {found.targets.shape}, baseline {found.baseline.shape}, chosen {found.chosen.shape}, keys {found.keys.shape}"
        raise _broken(path, f"the arrays do not fit: {got}", f"n targets and keys, and (n, {classes}) logits of both models")
    _check_classes(path, classes, found.targets)
    return found


def _checked_scores(path: Path, found: Scores) -> Scores:
    n, both = len(found.baseline), (found.baseline, found.chosen, *found.more.values())
    if not n or any(scores.shape != (n,) for scores in both) or found.keys.shape != (n,):
        got = f"baseline {found.baseline.shape}, chosen {found.chosen.shape}, keys {found.keys.shape}"
        raise _broken(path, f"the arrays do not fit: {got}", "n scores of both models, and n keys")
    if not all(scores.dtype.kind == "f" and np.isfinite(scores).all() for scores in both):
        raise _broken(path, "it has scores that are no numbers", "scores are finite")
    return found


def _disagreements(path: Path, classes: int) -> Disagreements | None:
    if not path.exists():
        return None
    found = Disagreements(**_arrays(path, [f.name for f in fields(Disagreements)]))
    k = len(found.targets)
    flat = (found.baseline, found.chosen, found.baseline_confidence, found.chosen_confidence, found.keys)
    _check_pixels(path, k, found.pixels, *flat)
    _check_classes(path, classes, found.targets, found.baseline, found.chosen)
    return found if k else None


def _mistakes(path: Path, images: int) -> Mistakes | None:
    if not path.exists():
        return None
    found = Mistakes(**_arrays(path, [f.name for f in fields(Mistakes)]))
    _check_pixels(path, len(found.rows), found.pixels, found.rows)
    if len(found.rows) and not 0 <= found.rows.min() <= found.rows.max() < images:
        raise _broken(path, "it has rows that the predictions do not", f"rows are integers from 0 to {images - 1}")
    return found if len(found.rows) else None


def _check_pixels(path: Path, k: int, pixels: npt.NDArray[Any], *flat: npt.NDArray[Any]) -> None:
    fits = pixels.ndim == 4 and pixels.dtype == np.uint8 and len(pixels) == k and pixels.shape[3] in (1, 3)
    if not fits or any(a.shape != (k,) for a in flat):
        raise _broken(
            path, f"the arrays do not fit: pixels {pixels.dtype} {pixels.shape}", "pixels are uint8 (k, H, W, 1 or 3), the rest (k,)"
        )


def _check_classes(path: Path, classes: int, *indices: npt.NDArray[np.int64]) -> None:
    for array in indices:
        if array.dtype.kind not in "iu" or (len(array) and not 0 <= array.min() <= array.max() < classes):
            raise _broken(path, "it has classes that the result does not", f"classes are integers from 0 to {classes - 1}")


def read_history(path: Path) -> list[EpochRow]:
    """Read a training history, one row per epoch; empty if the file does not exist.

    Raises:
        BundleError: the file is not a list of epochs.
    """
    if not path.exists():
        return []
    try:
        return TypeAdapter(list[EpochRow]).validate_json(_read(path))
    except ValidationError as error:
        raise _broken(path, error.errors()[0]["msg"], "it is a list of epochs: epoch, train_loss, validation_score") from None


def _bundle(path: Path) -> list[tuple[str, int]]:
    if not (path / "bundle.json").is_file():
        return []
    return [(str(f.relative_to(path)), f.stat().st_size) for f in sorted(path.rglob("*")) if f.is_file()]

"""Read a run folder: the result, and the predictions and timings that stand behind its numbers."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from planish.errors import BundleError
from planish.report.pictures import Pictures, read_pictures
from planish.search.result import Result

_FIX = "run 'planish optimize' again with --resume, which writes what is missing"


@dataclass(frozen=True)
class Predictions:
    """Both models on the test images: ``targets`` ``(N,)``, logits ``(N, classes)``, ``keys`` ``(N,)``."""

    targets: npt.NDArray[np.int64]
    baseline: npt.NDArray[np.float32]
    chosen: npt.NDArray[np.float32]
    keys: npt.NDArray[np.str_]


@dataclass(frozen=True)
class Scores:
    """Both models on the test images, of a task without logits: its scores ``(N,)``, whose mean is the metric, and ``keys`` ``(N,)``."""

    baseline: npt.NDArray[np.float64]
    chosen: npt.NDArray[np.float64]
    keys: npt.NDArray[np.str_]


@dataclass(frozen=True)
class Disagreements:
    """Test images on which both models differ: ``pixels`` ``(K, H, W, C)`` uint8, the rest ``(K,)``; predictions are class indices."""

    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.int64]
    baseline: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    baseline_confidence: npt.NDArray[np.float64]
    chosen_confidence: npt.NDArray[np.float64]
    keys: npt.NDArray[np.str_]


@dataclass(frozen=True)
class Mistakes:
    """Test images that the chosen model gets wrong, the surest first: ``rows`` of the predictions ``(K,)``, ``pixels`` ``(K, H, W, C)``."""

    rows: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]


class Epoch(BaseModel):
    """One epoch of the baseline's training."""

    model_config = ConfigDict(extra="ignore")
    epoch: int
    train_loss: float
    validation_score: float
    seconds: float = 0.0
    learning_rate: float = 0.0


@dataclass(frozen=True)
class RunFolder:
    """All that a report is made of; the last five are empty where the run has none.

    Args:
        path: the folder.
        result: ``result.json``.
        samples: milliseconds of single calls by candidate key.
        rounds: the median call of each round in ms, one list a launch, by candidate key; what medians and ratios are made of.
        predictions: on test.
        disagreements: images on which both models differ.
        mistakes: images that the chosen model gets wrong.
        pictures: images with what both models say of them drawn in.
        history: the baseline's training.
        bundle: name and bytes of each file that ships.
    """

    path: Path
    result: Result
    samples: dict[str, npt.NDArray[np.float64]]
    rounds: dict[str, list[npt.NDArray[np.float64]]]
    predictions: Predictions | Scores
    disagreements: Disagreements | None
    mistakes: Mistakes | None
    pictures: Pictures | None
    history: list[Epoch]
    bundle: list[tuple[str, int]]


def read_run(path: Path) -> RunFolder:
    """Read and check a run folder.

    Raises:
        BundleError: it is not one, or a file in it is missing, cannot be read, or does not fit the others; the file is named.
    """
    if not path.is_dir():
        raise BundleError(f"{path} is not a folder", "a report is made from the folder of a run", "runs lie in runs/NAME")
    result = _result(path / "result.json")
    classes = len(class_names(result))
    samples, rounds = _timings(path / "latency.json", result)
    predictions = _predictions(path / "predictions.npz", classes)
    return RunFolder(
        path=path,
        result=result,
        samples=samples,
        rounds=rounds,
        predictions=predictions,
        disagreements=_disagreements(path / "disagreements.npz", classes),
        mistakes=_mistakes(path / "mistakes.npz", len(predictions.keys)),
        pictures=read_pictures(path / "pictures.npz", len(predictions.keys)),
        history=read_history(path / "history.json"),
        bundle=_bundle(path / "bundle"),
    )


def class_names(result: Result) -> list[str]:
    """All classes, in the order of the model's outputs."""
    return list(result.class_names) or [each.name for each in result.per_class]


def _broken(path: Path, why: str, rule: str) -> BundleError:
    return BundleError(f"{path}: {why}", rule, _FIX)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise _broken(path, why, "a finished run has result.json, predictions.npz and latency.json") from None


def _result(path: Path) -> Result:
    _read(path)
    try:
        result = Result.load(path)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise _broken(path, f"{where}: {first['msg']}", "it must be as the run wrote it") from None
    for candidate in (result.baseline, *result.baselines.values(), result.chosen):
        if "latency_ms" not in candidate.measurements:
            raise _broken(path, f"there is no latency_ms of {candidate.key}", "every fp32 baseline and the chosen candidate have theirs")
    return result


def _timings(path: Path, result: Result) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, list[npt.NDArray[np.float64]]]]:
    rule = 'it holds {"unit": "ms", "samples": {candidate: [ms, ...]}, "rounds": {candidate: [[ms, ...], ...]}}, all above 0'
    try:
        stored = json.loads(_read(path))
        assert stored["unit"] == "ms"
        samples = {str(key): np.asarray(times, dtype=np.float64) for key, times in stored["samples"].items()}
        rounds = {str(key): [np.asarray(x, dtype=np.float64) for x in launches] for key, launches in stored["rounds"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise _broken(path, f"cannot be understood ({type(error).__name__})", rule) from None
    for key, times in [*samples.items(), *((key, x) for key, launches in rounds.items() for x in launches)]:
        if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or times.min() <= 0:
            raise _broken(path, f"the times of {key} are not a list of positive numbers", rule)
    for candidate in (*result.baselines.values(), result.chosen):
        if candidate.key not in samples or not rounds.get(candidate.key):
            raise _broken(path, f"there are no times of {candidate.key}", "every fp32 baseline and the chosen candidate have theirs")
    if len({tuple(map(len, rounds[c.key])) for c in (*result.baselines.values(), result.chosen)}) > 1:
        raise _broken(path, "not all candidates have the same rounds", rule)
    return samples, rounds


def _arrays(path: Path, names: list[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _broken(path, f"cannot be read ({error})", f"it holds the arrays {', '.join(names)}, no pickle") from None


def _predictions(path: Path, classes: int) -> Predictions | Scores:
    """Logits with their targets, or a score an image: the arrays' shape tells."""
    _read(path)
    scores = Scores(**_arrays(path, [f.name for f in fields(Scores)]))
    if scores.baseline.ndim == 1:
        return _checked_scores(path, scores)
    found = Predictions(**_arrays(path, [f.name for f in fields(Predictions)]))
    n = len(found.targets)
    if not n or found.baseline.shape != (n, classes) or found.chosen.shape != (n, classes) or found.keys.shape != (n,):
        got = f"targets {found.targets.shape}, baseline {found.baseline.shape}, chosen {found.chosen.shape}, keys {found.keys.shape}"
        raise _broken(path, f"the arrays do not fit: {got}", f"n targets and keys, and (n, {classes}) logits of both models")
    _check_classes(path, classes, found.targets)
    return found


def _checked_scores(path: Path, found: Scores) -> Scores:
    n, both = len(found.baseline), (found.baseline, found.chosen)
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


def read_history(path: Path) -> list[Epoch]:
    """Epoch by epoch, as a training left it; empty where it left nothing.

    Raises:
        BundleError: it is not a list of epochs.
    """
    if not path.exists():
        return []
    try:
        return TypeAdapter(list[Epoch]).validate_json(_read(path))
    except ValidationError as error:
        raise _broken(path, error.errors()[0]["msg"], "it is a list of epochs: epoch, train_loss, validation_score") from None


def _bundle(path: Path) -> list[tuple[str, int]]:
    if not (path / "bundle.json").is_file():
        return []
    return [(str(f.relative_to(path)), f.stat().st_size) for f in sorted(path.rglob("*")) if f.is_file()]

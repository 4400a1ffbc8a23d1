"""What stands behind a run's numbers: predictions, timings, and images to look at, for the original and the chosen model on test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from planish.evaluation.errors.confident_errors import worst_mistakes
from planish.evaluation.evaluate import class_logits
from planish.files.atomic import write_arrays, write_result
from planish.files.schema import SCHEMA_VERSION
from planish.goal import Goal
from planish.runs.pictures import write_pictures
from planish.search.result import BudgetUse, ClassResult, ErrorResult, Result

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Outputs, Preprocessing
    from planish.task import Split, Task

_SHOWN_DISAGREEMENTS = 60
_SHOWN_MISTAKES = 18


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TimedSession:
    """Files that were timed in turns.

    Args:
        name: of the session.
        baseline: key of the candidate that ratios are taken against.
        rounds: by candidate, the median call of each round in ms, one list a launch.
        copy: the same of a second copy of the baseline.
    """

    name: str
    baseline: str
    rounds: dict[str, list[list[float]]]
    copy: list[list[float]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Timings:
    """``latency.json``: what the latencies of a run are computed from.

    Args:
        unit: of all times.
        samples: single calls of the last session, by candidate.
        sessions: in order; the last one is that of the chosen model and the baselines.
    """

    unit: Literal["ms"]
    samples: dict[str, list[float]]
    sessions: list[TimedSession]
    schema_version: Literal[1] = 1


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RunEvidence:
    """``evidence.json``: a record of what a result holds and no other file shows, so that a changed result is noticed.

    Args:
        files: folder below ``work/`` of the file of each candidate.
        goal: the limits.
        seconds: by stage.
        budget: how much of it was used.
        per_class: of each class on test.
        errors: by kind, on test.
    """

    files: dict[str, str]
    goal: Goal
    machine: dict[str, str | int | float]
    data: dict[str, Any]
    seconds: dict[str, float]
    budget: BudgetUse
    per_class: list[ClassResult]
    errors: list[ErrorResult]
    schema_version: Literal[1] = 1


RECORDED = tuple(one.name for one in fields(RunEvidence) if one.name not in ("files", SCHEMA_VERSION))


@plain_dataclass(frozen=True)
class Session:
    """What was timed side by side.

    Args:
        name: of the session.
        baseline: key that ratios are taken against.
        rounds: by candidate key, the median call of each round in ms, one list a launch.
        copy: the same of a second copy of the baseline; the noise floor is made of both.
        samples: by candidate key, milliseconds of single calls.
    """

    name: str
    baseline: str
    rounds: dict[str, list[list[float]]]
    copy: list[list[float]]
    samples: dict[str, list[float]]


@plain_dataclass(frozen=True)
class Validation:
    """Scores on validation, ``validation.npz``; what drops of candidates are made of.

    Args:
        candidates: keys ``(C,)``.
        own: row of ``scores`` of each ``(C,)``.
        reference: row of what each is compared with ``(C,)``.
        scores: one per image ``(M, N)``, see ``Task.scores``; their mean is the metric.
        keys: of the images ``(N,)``.
    """

    candidates: npt.NDArray[Any]
    own: npt.NDArray[np.int64]
    reference: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    keys: npt.NDArray[Any]


@plain_dataclass(frozen=True)
class Sources:
    """What the numbers of a result were computed from.

    Args:
        sessions: of timing; the last one is that of the chosen model and the originals.
        validation: scores.
        files: folder below ``work/`` of the file of each candidate, by its key.
    """

    sessions: list[Session]
    validation: Validation
    files: dict[str, str]


def per_class(task: Task, tested: Mapping[str, Outputs]) -> list[ClassResult]:
    """What the task tells of each class, of those that it tells something of for both models.

    Args:
        task: the images.
        tested: outputs on test of ``baseline`` and ``chosen``.
    """
    targets = task.split("test").targets
    before, after = (task.per_class(tested[name], targets) for name in ("baseline", "chosen"))
    return [ClassResult(name, before[name], after[name]) for name in task.class_names if name in before and name in after]


def errors(task: Task, tested: Mapping[str, Outputs]) -> list[ErrorResult]:
    """What goes wrong with either model, by kind, and how much more with the chosen one.

    Args:
        task: the images.
        tested: outputs on test of ``baseline`` and ``chosen``.
    """
    targets = task.split("test").targets
    before, after = (task.errors(tested[name], targets) for name in ("baseline", "chosen"))
    change = task.errors(tested["chosen"], targets, against=tested["baseline"])
    return [ErrorResult(kind, before[kind], after[kind], change[kind]) for kind in change]


def write_evidence(
    folder: Path,
    task: Task,
    spec: InputSpec,
    preprocessing: Preprocessing,
    tested: Mapping[str, Outputs],
    sources: Sources,
    result: Result,
) -> None:
    """What the report recomputes its numbers from, and shows.

    ``predictions.npz`` holds the logits of ``baseline`` and ``chosen`` ``(N, classes)`` with the ``targets``, and then there are
    ``disagreements.npz`` and ``mistakes.npz``, too; of models without logits it holds each image's score ``(N,)``, see ``Task.scores``.
    ``validation.npz`` holds scores, ``latency.json`` timings, ``evidence.json`` the folders of files and what nothing else tells: limits,
    machine, data, seconds, and costs of errors and, of models without logits, numbers of classes. What can be drawn is in ``pictures.npz``.

    Args:
        folder: of the run.
        task: the images.
        spec: size of the images that are shown.
        preprocessing: likewise.
        tested: outputs on test of ``baseline`` and ``chosen``, and of the original in further runtimes by their names.
        sources: timings, and scores on validation.
        result: what is recorded.
    """
    split = task.split("test")
    last = sources.sessions[-1]
    sessions = [TimedSession(s.name, s.baseline, s.rounds, s.copy) for s in sources.sessions]
    write_result(folder / "latency.json", Timings("ms", last.samples, sessions), indent=None)
    write_arrays(folder / "validation.npz", **vars(sources.validation))
    write_result(folder / "evidence.json", RunEvidence(files=sources.files, **{name: getattr(result, name) for name in RECORDED}))
    scores = {name: np.asarray(task.scores(outputs, split.targets), np.float64) for name, outputs in tested.items()}
    for name in ("disagreements.npz", "mistakes.npz"):
        (folder / name).unlink(missing_ok=True)
    logits = {name: class_logits(outputs, split.targets) for name, outputs in tested.items()}
    if all(found is not None for found in logits.values()):
        _write_logits(folder, split, spec, preprocessing, logits)
    else:
        write_arrays(folder / "predictions.npz", **scores, keys=np.array(split.keys))
    models = {"original": "baseline", "chosen": "chosen"}
    shown_outputs = {model: tested[name] for model, name in models.items()}
    seen = {model: scores[name] for model, name in models.items()}
    write_pictures(folder / "pictures.npz", task, split, spec, preprocessing, shown_outputs, seen)


def _write_logits(folder: Path, split: Split, spec: InputSpec, preprocessing: Preprocessing, tested: Mapping[str, Any]) -> None:
    targets, keys, baseline, chosen = np.asarray(split.targets), np.array(split.keys), tested["baseline"], tested["chosen"]
    write_arrays(folder / "predictions.npz", **tested, targets=targets, keys=keys)
    shown_outputs, predicted = baseline.argmax(1), chosen.argmax(1)
    where = np.flatnonzero(shown_outputs != predicted)[:_SHOWN_DISAGREEMENTS]
    write_arrays(
        folder / "disagreements.npz",
        pixels=np.asarray(split.images(spec, preprocessing)[where]),
        targets=targets[where],
        baseline=shown_outputs[where],
        chosen=predicted[where],
        baseline_confidence=_confidence(baseline[where]),
        chosen_confidence=_confidence(chosen[where]),
        keys=keys[where],
    )
    worst = worst_mistakes(chosen, targets, _SHOWN_MISTAKES)
    write_arrays(folder / "mistakes.npz", rows=worst, pixels=np.asarray(split.images(spec, preprocessing)[worst]))


def _confidence(logits: Any) -> Any:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp.max(axis=1) / exp.sum(axis=1)

"""The raw data behind a run's numbers: predictions, timings, and example images of the original and the chosen model on test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.evaluation.errors.confident_errors import worst_mistakes
from planish.evaluation.evaluate import class_logits
from planish.evaluation.metrics.classification import kl_divergence
from planish.files.atomic import write_arrays, write_result
from planish.files.schema import SCHEMA_VERSION
from planish.goal import Goal
from planish.runs.pictures import write_pictures
from planish.search.result import BudgetUse, ClassResult, ErrorResult, Result
from planish.task import metric_of
from planish.tasks import AGREEMENT

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Outputs, Preprocessing
    from planish.measurement import Measurement
    from planish.task import Split, Task

_SHOWN_DISAGREEMENTS = 60
_SHOWN_MISTAKES = 18


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TimedSession:
    """Latencies of files that were timed in alternation.

    Args:
        name: name of the session.
        baseline: key of the candidate that ratios are relative to.
        rounds: by candidate, the median latency of each round in ms, one list per launch.
        copy: the same for a second copy of the baseline.
    """

    name: str
    baseline: str
    rounds: dict[str, list[list[float]]]
    copy: list[list[float]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Timings:
    """``latency.json``: the timings that the latencies of a run are computed from.

    Args:
        unit: unit of all times.
        samples: latencies of single calls in the last session, by candidate.
        sessions: timing sessions in order; the last one times the chosen model and the baselines.
    """

    unit: Literal["ms"]
    samples: dict[str, list[float]]
    sessions: list[TimedSession]
    schema_version: Literal[1] = 1


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RunEvidence:
    """``evidence.json``: the parts of a result that no other file contains, so that a modified result can be detected.

    Args:
        files: for each candidate, the folder below ``work/`` that contains its file.
        goal: the limits.
        seconds: seconds by stage.
        budget: how much of the budget was used.
        per_class: metric of each class on test.
        errors: cost of each kind of error on test.
    """

    files: dict[str, str]
    goal: Goal
    machine: dict[str, str | int | float]
    data: dict[str, Any]
    seconds: dict[str, float]
    budget: BudgetUse
    per_class: list[ClassResult]
    errors: list[ErrorResult]
    device: dict[str, str | int | float] = Field(default_factory=dict)
    schema_version: Literal[1] = 1


RECORDED = tuple(one.name for one in fields(RunEvidence) if one.name not in ("files", SCHEMA_VERSION))


@plain_dataclass(frozen=True)
class Session:
    """A timing session: latencies of candidates that were timed in alternation.

    Args:
        name: name of the session.
        baseline: key of the candidate that ratios are relative to.
        rounds: by candidate key, the median latency of each round in ms, one list per launch.
        copy: the same for a second copy of the baseline; the noise floor is computed from the two copies.
        samples: by candidate key, the latencies of single calls in ms.
    """

    name: str
    baseline: str
    rounds: dict[str, list[list[float]]]
    copy: list[list[float]]
    samples: dict[str, list[float]]


@plain_dataclass(frozen=True)
class Validation:
    """``validation.npz``: the scores on validation that the drops of the candidates are computed from.

    Args:
        candidates: keys of the candidates ``(C,)``.
        own: for each candidate, its row of ``scores`` ``(C,)``.
        reference: for each candidate, the row of the model that it is compared with ``(C,)``.
        scores: one score per model and image ``(M, N)``, see ``Task.scores``; the mean over images is the metric.
        keys: names of the images ``(N,)``.
        images: number of images that the metric rests on, see ``Task.effective_images``, ``()``; NaN if it sets no limit.
    """

    candidates: npt.NDArray[Any]
    own: npt.NDArray[np.int64]
    reference: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    keys: npt.NDArray[Any]
    images: npt.NDArray[np.float64]


@plain_dataclass(frozen=True)
class Sources:
    """The data that the numbers of a result were computed from.

    Args:
        sessions: timing sessions; the last one times the chosen model and the originals.
        validation: scores on validation.
        files: by candidate key, the folder below ``work/`` that contains its file.
    """

    sessions: list[Session]
    validation: Validation
    files: dict[str, str]


def per_class(task: Task, tested: Mapping[str, Outputs]) -> list[ClassResult]:
    """Return the metric of each class on test, for the classes that have one for both models.

    Args:
        task: task with the images.
        tested: outputs of ``baseline`` and ``chosen`` on test.
    """
    targets = task.split("test").targets
    before, after = (task.per_class(tested[name], targets) for name in ("baseline", "chosen"))
    return [ClassResult(name, before[name], after[name]) for name in task.class_names if name in before and name in after]


def errors(task: Task, tested: Mapping[str, Outputs]) -> list[ErrorResult]:
    """Return the cost of each kind of error for both models, and the paired difference between them.

    Args:
        task: task with the images.
        tested: outputs of ``baseline`` and ``chosen`` on test.
    """
    targets = task.split("test").targets
    before, after = (task.errors(tested[name], targets) for name in ("baseline", "chosen"))
    change = task.errors(tested["chosen"], targets, against=tested["baseline"])
    return [ErrorResult(kind, before[kind], after[kind], change[kind]) for kind in change]


def divergence(task: Task, tested: Mapping[str, Outputs]) -> dict[str, Measurement]:
    """Return ``kl_divergence``: that of the chosen model's probabilities from the original's on test; empty if there are labels.

    Args:
        task: task with the images.
        tested: outputs of ``baseline`` and ``chosen`` on test.
    """
    if metric_of(task).name != AGREEMENT:
        return {}
    found = kl_divergence(tested["baseline"]["logits"], tested["chosen"]["logits"])
    return {found.name: found}


def write_evidence(
    folder: Path,
    task: Task,
    spec: InputSpec,
    preprocessing: Preprocessing,
    tested: Mapping[str, Outputs],
    sources: Sources,
    result: Result,
) -> None:
    """Write the files that the report shows and recomputes its numbers from.

    ``predictions.npz`` contains the logits of ``baseline`` and ``chosen`` ``(N, classes)`` and the ``targets``; then there are also
    ``disagreements.npz`` and ``mistakes.npz``. For models without logits it contains each image's score ``(N,)``, see ``Task.scores``.
    ``validation.npz`` contains scores, ``latency.json`` timings, and ``evidence.json`` the folders of the files and what no other file
    contains: limits, machine, data, seconds, costs of errors, metrics by class. ``pictures.npz`` contains drawn predictions.

    Args:
        folder: folder of the run.
        task: task with the images.
        spec: size of the images shown.
        preprocessing: preprocessing of the images shown.
        tested: outputs of ``baseline`` and ``chosen`` on test, and of the original in further runtimes by their names.
        sources: timings, and scores on validation.
        result: the result to record.
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

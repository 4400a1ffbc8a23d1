"""What stands behind a run's numbers: predictions, timings, and images to look at, for the original and the chosen model on test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.evaluation.latency import LatencyReport
from planish.evaluation.mistakes import worst_mistakes
from planish.search.files import write_arrays, write_json
from planish.search.pictures import write_pictures
from planish.search.result import ClassResult, ErrorResult

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Outputs, Preprocessing
    from planish.task import Split, Task

_SHOWN_DISAGREEMENTS = 60
_SHOWN_MISTAKES = 18


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
    folder: Path, task: Task, spec: InputSpec, preprocessing: Preprocessing, tested: Mapping[str, Outputs], latency: LatencyReport
) -> None:
    """What the report recomputes its numbers from, and shows.

    ``predictions.npz`` holds the logits of ``baseline`` and ``chosen`` ``(N, classes)`` with the ``targets``, and then there are
    ``disagreements.npz`` and ``mistakes.npz``, too; of models without logits it holds each image's score ``(N,)``, see ``Task.scores``.
    What can be drawn is in ``pictures.npz``.

    Args:
        folder: of the run.
        task: the images.
        spec: size of the images that are shown.
        preprocessing: likewise.
        tested: outputs on test of ``baseline`` and ``chosen``.
        latency: of the finalists.
    """
    split = task.split("test")
    write_json(folder / "latency.json", {"unit": "ms", "samples": latency.samples, "rounds": latency.round_medians})
    scores = {name: np.asarray(task.scores(outputs, split.targets), np.float64) for name, outputs in tested.items()}
    for name in ("disagreements.npz", "mistakes.npz"):
        (folder / name).unlink(missing_ok=True)
    if all("logits" in outputs for outputs in tested.values()):
        _write_logits(folder, split, spec, preprocessing, tested["baseline"]["logits"], tested["chosen"]["logits"])
    else:
        write_arrays(folder / "predictions.npz", baseline=scores["baseline"], chosen=scores["chosen"], keys=np.array(split.keys))
    models = {"original": "baseline", "chosen": "chosen"}
    said = {model: tested[name] for model, name in models.items()}
    seen = {model: scores[name] for model, name in models.items()}
    write_pictures(folder / "pictures.npz", task, split, spec, preprocessing, said, seen)


def _write_logits(folder: Path, split: Split, spec: InputSpec, preprocessing: Preprocessing, baseline: Any, chosen: Any) -> None:
    targets, keys = np.asarray(split.targets), np.array(split.keys)
    write_arrays(folder / "predictions.npz", targets=targets, baseline=baseline, chosen=chosen, keys=keys)
    said, says = baseline.argmax(1), chosen.argmax(1)
    where = np.flatnonzero(said != says)[:_SHOWN_DISAGREEMENTS]
    write_arrays(
        folder / "disagreements.npz",
        pixels=np.asarray(split.images(spec, preprocessing)[where]),
        targets=targets[where],
        baseline=said[where],
        chosen=says[where],
        baseline_confidence=_confidence(baseline[where]),
        chosen_confidence=_confidence(chosen[where]),
        keys=keys[where],
    )
    worst = worst_mistakes(chosen, targets, _SHOWN_MISTAKES)
    write_arrays(folder / "mistakes.npz", rows=worst, pixels=np.asarray(split.images(spec, preprocessing)[worst]))


def _confidence(logits: Any) -> Any:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp.max(axis=1) / exp.sum(axis=1)

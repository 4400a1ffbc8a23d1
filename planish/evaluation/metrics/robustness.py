"""Robustness: a model's score on images that are noisy, blurred, foggy or compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planish.evaluation.metrics.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from planish.evaluation.statistics.intervals import Floats, Interval, bootstrap_mean, proportion
from planish.progress import Stage
from planish.task import metric_of

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Outputs, Predictor, Preprocessing
    from planish.measurement import Measurement, Metric
    from planish.task import SplitName, Task


def robustness(
    predictor: Predictor,
    task: Task,
    split_name: SplitName,
    spec: InputSpec,
    preprocessing: Preprocessing,
    *,
    most_images: int = 1000,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Measurement]:
    """Return the task's primary metric under each corruption, averaged over the five severities.

    Intervals are bootstrapped over images, using the mean score of each, since one image at five severities is not five independent images.

    Args:
        predictor: the model.
        task: task with the images and the metric.
        split_name: name of the split.
        spec: size of the images.
        preprocessing: preprocessing of the model.
        most_images: maximum number of images, taken evenly from the split; each is run 55 times.
        batch_size: batch size.
        seed: seed of the corruptions.

    Returns:
        ``accuracy_corrupted``, the mean over all corruptions, then ``accuracy_gaussian_noise`` and so on; in the metric's unit.
    """
    split = task.split(split_name)
    images = split.images(spec, preprocessing)
    rows = np.unique(np.linspace(0, len(images) - 1, min(most_images, len(images))).astype(int))
    targets = [split.targets[int(row)] for row in rows]
    scores = {name: np.zeros(len(rows)) for name in CORRUPTIONS}
    with Stage(f"evaluating on corrupted {split_name}", len(CORRUPTIONS) * len(SEVERITIES) * len(rows)) as stage:
        for name in CORRUPTIONS:
            for severity in SEVERITIES:
                batches: list[Outputs] = []
                for start in range(0, len(rows), batch_size):
                    some = rows[start : start + batch_size]
                    batches.append(predictor(corrupt(images[some], name, severity, seed, start)))
                    stage.advance(len(some))
                outputs = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
                scores[name] += task.scores(outputs, targets)  # of all images at once: metrics such as mAP are not means over batches
    scores = {name: summed / len(SEVERITIES) for name, summed in scores.items()}
    scores = {"corrupted": np.mean(list(scores.values()), axis=0)} | scores
    metric = metric_of(task)
    found = [metric.measured(_mean(s, metric), len(rows), f"{metric.name}_{name}") for name, s in scores.items()]
    return {m.name: m for m in found}


def _mean(scores: Floats, metric: Metric) -> Interval:
    """Return the bootstrap interval of the mean; Wilson's if all scores (0 to 1) are equal, as a bootstrap interval has no width then.

    Scores of mAP and mIoU are pseudo-values, which may lie outside 0 to 1, so the ends of the interval are limited to that range.
    """
    if metric.unit != "%":
        return bootstrap_mean(scores)
    if np.ptp(scores) > 0:
        value, low, high = bootstrap_mean(scores)
        return Interval(value, min(value, max(0.0, low)), max(value, min(1.0, high)))
    return Interval(float(scores[0]), *proportion(round(float(scores.sum())), len(scores)))

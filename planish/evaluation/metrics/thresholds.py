"""Thresholds on a score that guarantee a precision or recall on new images, with 95 % confidence.

The precision on the validation images that a threshold was chosen on is optimistic: among many thresholds some look good by chance. So a
threshold is accepted only if an exact lower confidence bound, corrected for the choice among many, reaches the target.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from planish.errors import ModelError
from planish.evaluation.metrics.classification import Labels, checked, percent, probabilities, share
from planish.evaluation.statistics.intervals import Floats, Interval
from planish.measurement import Measurement

Flags = npt.NDArray[np.bool_]
_RISK = 0.05  # probability that a guarantee does not hold
_FEWEST = 16  # minimum accepted images where a chain of tests may start; fewer cannot even guarantee a precision of 83 %


def class_scores(logits: npt.ArrayLike, targets: npt.ArrayLike, number: int) -> tuple[Floats, Flags]:
    """Return, for one class against the rest, its probability ``(N,)`` and which images belong to it ``(N,)``.

    Args:
        logits: ``(N, classes)``.
        targets: class indices ``(N,)``.
        number: index of the class.
    """
    scores, labels = checked(logits, targets, np.shape(logits)[-1])
    return probabilities(scores)[:, number], labels == number


def top_scores(logits: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Floats, Flags]:
    """Return, for selective classification, the highest probability ``(N,)`` and whether the prediction is right ``(N,)``.

    Precision is then the accuracy on accepted images, coverage the share of accepted images.
    """
    scores, labels = checked(logits, targets, np.shape(logits)[-1])
    return probabilities(scores).max(axis=1), scores.argmax(axis=1) == labels


def threshold_for_precision(scores: npt.ArrayLike, positive: npt.ArrayLike, wanted: float) -> float:
    """Return the lowest threshold whose precision on new images is at least ``wanted``, with 95 % confidence.

    Thresholds are tested from high to low with the Clopper-Pearson lower bound, in chains that end at their first failure, so that the
    error probability of a chain is that of a single test. A new chain starts each time the number of accepted images doubles; the chains
    share the error probability evenly, and one without a failure passes its share on to the next (B. Wiens, A fixed sequence Bonferroni
    procedure for testing multiple endpoints, 2003; for models: A. Angelopoulos et al., Learn then test, 2021, arXiv:2110.01052).

    Args:
        scores: ``(N,)``; images with a score of at least the threshold are accepted.
        positive: which images should be accepted ``(N,)``.
        wanted: target precision, above 0 and below 1.

    Raises:
        ModelError: no threshold can guarantee it; the message states the highest precision that can be guaranteed.
    """
    values, accepted, hits = _accepting(scores, positive, wanted)
    halvings = max(0, int(math.log2(accepted[-1] / _FEWEST)))
    starts = np.unique(np.searchsorted(accepted, accepted[-1] / 2.0 ** np.arange(halvings + 1)))
    most = float(_lower_bound(hits[starts], accepted[starts], _RISK / len(starts)).max())
    if most < wanted:
        raise _cannot("precision", wanted, most, f"{accepted[-1]} images")
    lowest, left = 0, 0.0
    for start, end in pairwise([*starts, len(values)]):
        risk = _RISK / len(starts) + left
        length = int(np.logical_and.accumulate(_lower_bound(hits[start:end], accepted[start:end], risk) >= wanted).sum())
        lowest = start + length - 1 if length else lowest
        left = risk if length == end - start else 0.0
    return float(values[lowest])


def threshold_for_recall(scores: npt.ArrayLike, positive: npt.ArrayLike, wanted: float) -> float:
    """Return the highest threshold whose recall on new images is at least ``wanted``, with 95 % confidence.

    It is a tolerance limit of the scores of the positives, exact for any distribution (S. S. Wilks, Determination of sample sizes for
    setting tolerance limits, 1941).

    Args:
        scores: ``(N,)``; images with a score of at least the threshold are accepted.
        positive: which images should be accepted ``(N,)``.
        wanted: target recall, above 0 and below 1.

    Raises:
        ModelError: there are too few positives to guarantee it; the message states the highest recall that can be guaranteed.
    """
    values, _, hits = _accepting(scores, positive, wanted)
    positives = np.full_like(hits, hits[-1])
    bounds = _lower_bound(hits, positives, _RISK)
    if bounds[-1] < wanted:
        raise _cannot("recall", wanted, float(bounds[-1]), f"{hits[-1]} images that should be accepted")
    return float(values[np.argmax(bounds >= wanted)])


def threshold_for_f1(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Return the threshold with the highest F1 on these images ``(N,)``; there is no guarantee, and F1 on new images tends to be lower."""
    values, accepted, hits = _accepting(scores, positive)
    return float(values[np.argmax(2 * hits / np.maximum(1, accepted + hits[-1]))])


def at_threshold(threshold: float, scores: npt.ArrayLike, positive: npt.ArrayLike) -> dict[str, Measurement]:
    """Return precision, recall, F1 and coverage (the share of accepted images) in percent, with intervals.

    All intervals are Wilson's: F1 is ``2 s / (1 + s)``, where s is the share of true positives among images that are accepted or should be.

    Args:
        threshold: images with a score of at least the threshold are accepted.
        scores: ``(N,)``.
        positive: which images should be accepted ``(N,)``.
    """
    accepted, wanted = np.asarray(scores) >= threshold, np.asarray(positive, dtype=bool)
    either = (accepted & wanted)[accepted | wanted]
    parts = {"precision": wanted[accepted], "recall": accepted[wanted], "coverage": accepted}
    found = {name: percent(name, len(part), share(part)) for name, part in parts.items()}
    f1 = Interval(*(2 * s / (1 + s) for s in share(either)))
    return found | {"f1": percent("f1", len(either), f1)}


def precision_by_coverage(scores: npt.ArrayLike, positive: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return coverage and precision for every threshold, from high to low.

    With ``top_scores`` this is the risk-coverage curve, with accuracy instead of risk (R. El-Yaniv and Y. Wiener, On the foundations of
    noise-free selective classification, JMLR 2010).
    """
    _, accepted, hits = _accepting(scores, positive)
    return accepted / accepted[-1], hits / accepted


def _accepting(scores: npt.ArrayLike, positive: npt.ArrayLike, wanted: float = 0.5) -> tuple[Floats, Labels, Labels]:
    """Return the distinct scores from high to low, the number of images that each accepts as a threshold, and how many are positive."""
    if not 0 < wanted < 1:
        raise ModelError(f"a wanted share of {wanted}", "it lies above 0 and below 1", "for example 0.95")
    values, index = np.unique(-np.asarray(scores, dtype=np.float64), return_inverse=True)
    accepted = np.bincount(index).cumsum()
    hits = np.bincount(index, weights=np.asarray(positive, dtype=np.float64)).cumsum()
    return -values, accepted.astype(np.int64), hits.astype(np.int64)


def _lower_bound(successes: Labels, n: Labels, risk: float) -> Floats:
    """Return the one-sided Clopper-Pearson lower bound of a proportion, elementwise."""
    bounds: Any = stats.beta.ppf(risk, np.maximum(successes, 1), n - successes + 1)
    return np.where(successes > 0, bounds, 0.0)


def _cannot(what: str, wanted: float, most: float, of: str) -> ModelError:
    return ModelError(
        f"no threshold can promise a {what} of {100 * wanted:.4g} % from {of}",
        f"the most that can be promised with 95 % confidence is {100 * math.floor(1000 * most) / 1000:.4g} %",
        "ask for less, or choose on more images",
    )
